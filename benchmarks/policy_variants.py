"""The variants of `in_process_policy.py` (ways to generate tokens), and the trials they play."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from common import Clock, Seconds
from transformers import ContinuousBatchingConfig, DynamicCache, GenerationConfig

from metarlgym import Task, Trial, make
from metarlgym.models.scratch import ScratchArguments, scratch_model, word_tokenizer
from metarlgym.policies.in_process import InProcessPolicy
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.manager import RolloutManager, TrialSpec, _no_garbage_collection
from metarlgym.rollout.protocol import ActReply, ActRequest
from metarlgym.rollout.render import PlainRenderer
from metarlgym.rollout.session import Session

DOORS = ["doors", "1", "2", "3", "4", "safe", "prize", "nothing", "sure", "invalid"]
WORDS = [f"w{i}" for i in range(256)]
BOS = 1
Tokens = list[list[int]]
Act = Callable[[Tokens], tuple[Tokens, list[list[float]]]]


@dataclass(frozen=True)
class Shape:
    """Shapes of the trials and of the model."""

    name: str
    trials: int
    turns: int
    observation: int
    """Tokens before each action; the first observation is preceded by BOS."""
    action: int
    width: int
    heads: int
    context: int = 1024
    doors: bool = False
    """Use the vocabulary and the shared opening of Doors."""

    @property
    def words(self) -> list[str]:
        return DOORS if self.doors else WORDS


class Canned:
    """Trials with precomputed observations."""

    def __init__(self, shape: Shape) -> None:
        rng, n = random.Random(0), shape.observation
        known = range(4, 4 + len(shape.words))  # after the special tokens
        draw = [[rng.choices(known, k=n) for _ in range(shape.turns)] for _ in range(shape.trials)]
        self.later = [rows[1:] for rows in draw]
        self.ids = [[BOS, *draw[0 if shape.doors else i][0]] for i in range(shape.trials)]
        self.turn = 0

    def step(self, actions: Tokens) -> bool:
        """Pass all trials their actions; returns whether they continue."""
        for ids, action in zip(self.ids, actions, strict=True):
            ids += action
        self.turn += 1
        if self.turn > len(self.later[0]):
            return False
        for ids, later in zip(self.ids, self.later, strict=True):
            ids += later[self.turn - 1]
        return True


class Played:
    """Trials of Doors in sessions, stepped together."""

    def __init__(self, renderer: PlainRenderer, specs: list[TrialSpec]) -> None:
        self.sessions = [Session(s.make_trial(), s.task, s.seed, s.policy_seed, renderer, Limits()) for s in specs]
        self.ids = [session.begin().ids for session in self.sessions]  # type: ignore[union-attr]

    def step(self, actions: Tokens) -> bool:
        blank = [0.0] * len(actions[0])
        asked = [s.receive(ActReply(a, blank)) for s, a in zip(self.sessions, actions, strict=True)]
        return asked[0] is not None


class Bench:
    """One shape with its model; every variant returns its times and stores its actions in `actions`."""

    def __init__(self, shape: Shape, whole: bool = False) -> None:
        self.shape, self.whole = shape, whole
        self.tokenizer = word_tokenizer([" ".join(shape.words)])
        sizes = ScratchArguments(scratch_hidden_size=shape.width, scratch_layers=2, scratch_heads=shape.heads)
        self.model = scratch_model(sizes, self.tokenizer, shape.context, 0).eval()
        self.model.generation_config = GenerationConfig(pad_token_id=0)  # no end token: all tokens are ordinary here
        self.model.config.eos_token_id = None
        self.actions: dict[str, Tokens] = {}

    def renderer(self) -> PlainRenderer:
        renderer = PlainRenderer(self.tokenizer, self.shape.action, separator="")
        renderer.end_ids = frozenset()
        return renderer

    def specs(self) -> list[TrialSpec]:
        def make_trial() -> Trial:
            return make("Doors-v0", style="terse", episodes=self.shape.turns)  # type: ignore[return-value]

        return [
            TrialSpec(make_trial, Task("Doors-v0", {"prize": i % 4}), i, ("benchmark", i))
            for i in range(self.shape.trials)
        ]

    def ours(self) -> Seconds:
        renderer = self.renderer()
        policy = InProcessPolicy(self.model, renderer, greedy=True)
        if self.whole:
            specs = self.specs()
            with Clock() as clock:
                played = RolloutManager(policy, renderer).run(specs)
            rows = [trajectory.rows[0] for trajectory in played]
            kept = [zip(row.completion_ids, row.action_mask, strict=True) for row in rows]
            self.actions["ours"] = [[i for i, mask in row if mask] for row in kept]
            return clock.seconds
        world = Canned(self.shape)
        taken: Tokens = [[] for _ in world.ids]
        with Clock() as clock:
            asyncio.run(self._submit_all(policy, world, taken))
        self.actions["ours"] = taken
        return clock.seconds

    async def _submit_all(self, policy: InProcessPolicy, world: Canned, taken: Tokens) -> None:
        """The policy's own protocol without a manager: each trial sends its next request as soon as it is answered."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        n, last = self.shape.action, self.shape.turns * self.shape.action
        left = len(world.ids)
        failures: list[BaseException] = []

        def ask(i: int) -> None:
            def answered(reply: ActReply | BaseException) -> None:
                nonlocal left
                if isinstance(reply, BaseException):
                    failures.append(reply)
                    done.set()
                    return
                taken[i] += reply.ids
                if len(taken[i]) < last:
                    ids = world.ids[i]
                    ids += reply.ids
                    ids += world.later[i][len(taken[i]) // n - 1]
                    policy.submit(ActRequest(None, i, ids, n, i), answered)  # type: ignore[arg-type]
                else:
                    left -= 1
                    if not left:
                        done.set()

            policy.submit(ActRequest(None, i, world.ids[i], n, i), answered)  # type: ignore[arg-type]

        await policy.begin(loop)
        with _no_garbage_collection():  # as in the manager
            for i in range(left):
                ask(i)
            await done.wait()
        await policy.end()
        if failures:
            raise failures[0]

    def lock_step(self, name: str, act: Act) -> Seconds:
        """Play all trials turn by turn; `act` generates the actions of all."""
        renderer, specs = self.renderer(), self.specs()
        taken: Tokens = [[] for _ in specs]
        canned = Canned(self.shape)
        with Clock() as clock, torch.no_grad():
            world = Played(renderer, specs) if self.whole else canned
            while True:
                actions, _ = act(world.ids)
                for seen, new in zip(taken, actions, strict=True):
                    seen += new
                if not world.step(actions):
                    break
        self.actions[name] = taken
        return clock.seconds

    def reencode(self) -> Seconds:
        n = self.shape.action
        config = GenerationConfig(max_new_tokens=n, min_new_tokens=n, do_sample=False, pad_token_id=0)

        def act(contexts: Tokens) -> tuple[Tokens, list[list[float]]]:
            longest = max(map(len, contexts))
            ids = torch.tensor([[0] * (longest - len(c)) + c for c in contexts])
            mask = torch.tensor([[0] * (longest - len(c)) + [1] * len(c) for c in contexts])
            out = self.model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
            return out[:, longest:].tolist(), []

        return self.lock_step("re-encode", act)

    def rectangle(self) -> Seconds:
        cache = DynamicCache(config=self.model.config)

        def act(contexts: Tokens) -> tuple[Tokens, list[list[float]]]:
            known = cache.get_seq_length()
            feed = torch.tensor([ids[known:] for ids in contexts])
            tokens, logprobs = [], []
            for _ in range(self.shape.action):
                logits = self.model(input_ids=feed, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
                scores = torch.log_softmax(logits[:, -1], -1)
                feed = scores.argmax(-1, keepdim=True)
                tokens.append(feed)
                logprobs.append(scores.gather(-1, feed))
            return torch.cat(tokens, 1).tolist(), torch.cat(logprobs, 1).tolist()

        return self.lock_step("rectangle", act)

    def continuous(self, sharing: bool) -> Seconds:
        shape, block = self.shape, 16
        config = GenerationConfig(max_new_tokens=shape.action, do_sample=False, eos_token_id=-1, pad_token_id=0)
        settings = ContinuousBatchingConfig(
            block_size=block,
            num_blocks=shape.trials * -(-shape.context // block) + 64,
            max_batch_tokens=4096,
            max_requests_per_batch=shape.trials,
            allow_block_sharing=sharing,
            return_logprobs=True,
        )
        with self.model.continuous_batching_context_manager(
            generation_config=config, continuous_batching_config=settings, timeout=30
        ) as manager:

            def act(contexts: Tokens) -> tuple[Tokens, list[list[float]]]:
                names = manager.add_requests(contexts)
                done = {}
                while len(done) < len(names):
                    result = manager.get_result(timeout=1)
                    if result is not None and result.is_finished():
                        done[result.request_id] = result
                    elif not manager.is_running():
                        raise RuntimeError("continuous batching has stopped")
                return [done[n].generated_tokens for n in names], [done[n].logprobs for n in names]

            return self.lock_step("continuous batching" + ("" if sharing else ", no sharing"), act)
