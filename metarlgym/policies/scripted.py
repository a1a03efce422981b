"""Policies that act on visible text: scripts, oracle and random baselines, and a slow policy with seeded latency."""

from __future__ import annotations

import random
from collections.abc import Callable

from metarlgym.rollout.protocol import ActReply, ActRequest, Callback, Policy, Thought
from metarlgym.rollout.render import Renderer
from metarlgym.seeding import stream
from metarlgym.trial import Trial


class ScriptedPolicy(Policy):
    """Calls `act(trial, rng)` for every action; `rng` is a private stream for that action."""

    wants_tokens = False

    def __init__(self, act: Callable[[Trial, random.Random], str]) -> None:
        self.act = act

    def submit(self, request: ActRequest, done: Callback) -> None:
        self.loop.call_soon(self._reply, request, done)

    def _reply(self, request: ActRequest, done: Callback) -> None:
        try:
            text = self.act(request.trial, stream(request.seed, "script"))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # from an environment's oracle or random_action, including sys.exit()
            done(error)
        else:
            done(ActReply([], [], "end", text))


class OraclePolicy(ScriptedPolicy):
    """The task group's own optimal policy: it sees what its memory recalls, and nothing hidden."""

    def __init__(self) -> None:
        super().__init__(lambda trial, rng: trial.oracle(trial.visible))


class RandomPolicy(ScriptedPolicy):
    """Uniformly random legal actions."""

    def __init__(self) -> None:
        super().__init__(lambda trial, rng: trial.random_action(rng))


class OracleAndRandom:
    """The two baselines by name: `OracleAndRandom.make("oracle")`."""

    kinds: dict[str, type[ScriptedPolicy]] = {"oracle": OraclePolicy, "random": RandomPolicy}

    @classmethod
    def make(cls, kind: str) -> Policy:
        return cls.kinds[kind]()  # type: ignore[call-arg]


class DelayedPolicy(Policy):
    """Another scripted policy with a seeded lognormal latency, as a server has. For benchmarks and tests.

    Args:
        policy: replies after the delay.
        mean: mean latency in seconds.
        sigma: standard deviation of the log latency.
    """

    wants_tokens = False

    def __init__(self, policy: ScriptedPolicy, mean: float = 0.2, sigma: float = 0.8) -> None:
        import math

        self.policy = policy
        self.mu = math.log(mean) - sigma**2 / 2
        self.sigma = sigma

    def latency(self, seed: int) -> float:
        return stream(seed, "latency").lognormvariate(self.mu, self.sigma)

    def submit(self, request: ActRequest, done: Callback) -> None:
        self.loop.call_later(self.latency(request.seed), self.policy._reply, request, done)


class RandomTokenPolicy(Policy):
    """Uniformly random legal actions as tokens, so that transcripts have exactly the format of real rollouts.

    Args:
        renderer: encodes the actions and determines whether they end with a token.
    """

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer

    def submit(self, request: ActRequest, done: Callback) -> None:
        self.loop.call_soon(self._reply, request, done)

    def _reply(self, request: ActRequest, done: Callback) -> None:
        try:
            text = request.trial.random_action(stream(request.seed, "script"))
            ids = list(self.renderer.encode(text))
            if self.renderer.fixed_action_tokens is None:
                ids.append(self.renderer.end_id)
            thinking, thought = self.renderer.thinking, None
            if thinking is not None and thinking.opened and request.thought_tokens is not None:
                ids = [*thinking.close_ids, *ids]
                thought = Thought(0, (0, len(thinking.close_ids)))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # from an environment's oracle or random_action, including sys.exit()
            done(error)
        else:
            done(ActReply(ids, [0.0] * len(ids), thought=thought))
