"""Env: the base class for environments. It plays ONE episode of a task, text in and text out.

An author writes three methods:

    class Coin(Env):
        max_turns = 1

        def sample_task(self, rng):              # ALL task randomness is here; returns JSON
            return {"side": rng.choice(["heads", "tails"])}

        def on_reset(self, params, rng):         # first text; rng is episode noise only
            self.side = params["side"]
            return "Heads or tails?"

        def on_step(self, action):               # only the NEW text
            won = self.parse(action, ("heads", "tails")) == self.side
            return Step("Right." if won else "Wrong.", float(won), terminated=True, info={"success": won})

and, where possible, `rules`, `all_tasks`, `held_out_tasks`, `random_action`, `legal_actions`, `oracle`,
`optimal_returns` and `no_memory_bound`. `metarlgym.check_env` makes the contract executable.
"""

from __future__ import annotations

import math
import random
from collections.abc import Container, Iterable, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import gymnasium

from metarlgym.author_values import RewardError, checked_flag, checked_step, checked_text, encodable
from metarlgym.datatypes import JSON, ConfigError, Episode, EpisodeOver, MetaRLGymError, Optimum, Step, StopReason, Task
from metarlgym.parsing import parse_action, parse_terse
from metarlgym.seeding import derive, stream
from metarlgym.spaces import AnyText

Style = Literal["chat", "terse"]

MOST_LISTED = 500
"""The built-in environments list their legal actions up to this number."""


class Env(gymnasium.Env[str, str]):
    """One episode of one task.

    Args:
        style: `chat` writes sentences for a language model, `terse` one or two words per turn for a model trained from
            scratch; rules and rewards are the same.
        split: `trial` draws train and eval tasks from the same prior (only the trial seeds are held out), `content`
            keeps them disjoint by `Task.key`. Default: the class's own.
        strict: accept an action in brackets only, such as `[2]`; otherwise other ways to name one legal action are
            forgiven, see `parse_action`. For the chat style.
    """

    env_id: str = ""
    """Set by the registry; an unregistered class uses its class name."""
    max_turns: int | None = None
    """The episode is truncated after this many actions."""
    reward_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    """Bounds of a single reward; a step outside them raises an error."""
    split: Literal["trial", "content"] = "trial"
    action_words: int | None = None
    """Terse style: number of words of every action, if fixed. Lets a model trained from scratch act without an end
    token.
    """
    blocking: ClassVar[bool] = False
    """Set to True if `step` waits (network, disk): rollouts then run it in a thread."""
    visible_task: ClassVar[bool] = False
    """Set to True if the texts always show part of the task (a question, a map, a stream): `check_env` then does not
    compare the texts of different tasks.
    """
    uniform_tasks: ClassVar[bool] = False
    """Set to True if `sample_task` draws each of `all_tasks` with the same probability: training then deals the tasks
    like a shuffled deck, so that batches are balanced.
    """
    metadata: dict[str, Any] = {"render_modes": ["ansi"]}

    @cached_property
    def observation_space(self) -> AnyText:  # type: ignore[override]
        """All strings. Created on first use: most of the thousands of environments created never need it."""
        return AnyText()

    @cached_property
    def action_space(self) -> AnyText:  # type: ignore[override]
        """All strings."""
        return AnyText()

    def __init__(
        self, *, style: Style = "chat", split: Literal["trial", "content"] | None = None, strict: bool = False
    ) -> None:
        if style not in ("chat", "terse"):
            raise ConfigError(f"style={style!r} is not known: use 'chat' or 'terse'.")
        if split is not None:
            if split not in ("trial", "content"):
                raise ConfigError(f"split={split!r} is not known: use 'trial' or 'content'.")
            self.split = split
        self.env_id = self.env_id or type(self).__name__
        self.style = style
        if not isinstance(strict, bool):
            raise ConfigError(f"strict={strict!r} must be true or false.")
        if strict and style == "terse":
            raise ConfigError("strict=True has no effect with style='terse', whose actions are words without brackets.")
        self.strict = strict
        self.horizon = 0
        """Number of episodes of the surrounding trial (0: not in a trial); for oracles, which may know it."""
        self.horizon_free = 0
        """Number of those episodes that are free shots."""
        self._live = False
        self._turns = 0
        self._invalid = 0
        self._return = 0.0
        self._success = False
        self._observation: str | None = None
        self._stop: StopReason | None = None

    def parse(self, action: str, legal: Container[str] | None = None) -> str:
        """The action in a policy's message, see `parse_action`; strict if this environment is.

        Terse style: words of one exact form, only their case is forgiven.
        """
        if self.style == "terse":
            return parse_terse(action) if legal is None else parse_terse(action).lower()
        return parse_action(action, legal, self.strict)

    # ------------------------------------------------------------------ what an author writes

    def sample_task(self, rng: random.Random) -> JSON:
        """Draw the hidden parameters of a task. A pure function of `rng`; the result is a JSON value."""
        raise NotImplementedError(f"{type(self).__name__} must define sample_task(rng)")

    def on_reset(self, params: JSON, rng: random.Random) -> str:
        """Set up an episode of the task `params` and return its first text (may be empty).

        Must set every attribute an episode uses, so that a second reset is equivalent to a fresh environment.
        """
        raise NotImplementedError(f"{type(self).__name__} must define on_reset(params, rng)")

    def on_step(self, action: str) -> Step:
        """Return the `Step` for one action; its observation is the new text only.

        `info`, a new dict each time, may contain `valid` (default True) and `success` (default False).
        """
        raise NotImplementedError(f"{type(self).__name__} must define on_step(action)")

    def rules(self) -> str:
        """The text before the first episode: what the game is and how to write an action."""
        return ""

    def all_tasks(self) -> Iterable[JSON] | None:
        """Every possible `params`, for finite families; None otherwise."""
        return None

    def held_out_tasks(self) -> Iterable[JSON] | None:
        """`params` of the data's own eval split, if it has one; `all_tasks` is then its train split.

        Used only with `split = "content"`; if None, a share of `all_tasks` is held out.
        """
        return None

    def random_action(self, rng: random.Random) -> str:
        """A uniformly random legal action, as the policy would write it."""
        raise MetaRLGymError(f"{self.env_id} has no random_action(rng): define it to get the random baseline.")

    def legal_actions(self) -> Sequence[str] | None:
        """The legal actions now, each exactly as `random_action` would write it; None if they are too many to list."""
        return None

    def oracle(self, history: Sequence[Episode]) -> str:
        """An optimal action given what a policy can know: the trial's episodes so far, including the current one."""
        raise MetaRLGymError(f"{self.env_id} has no oracle(history): define it to get the oracle baseline.")

    def optimal_returns(self, episodes: int, free_shots: int = 0) -> Optimum:
        """Best expected return of a trial of `episodes` episodes, the first `free_shots` of which do not count."""
        return Optimum(None, None, "none")

    def no_memory_bound(self, episodes: int) -> float | None:
        """Expected return of the best policy that forgets between episodes, if known."""
        return None

    # ------------------------------------------------------------------ public and final

    @property
    def turns(self) -> int:
        """Actions taken in this episode, including the one being answered."""
        return self._turns

    @property
    def turns_left(self) -> float:
        """Actions left before the turn limit; infinite if there is none."""
        return math.inf if self.max_turns is None else self.max_turns - self._turns

    def new_task(self, *seed: int | str, split: str = "train") -> Task:
        """The task that the seed parts determine."""
        return Task(self.env_id, self.sample_task(random.Random(derive(self.env_id, "task", *seed))), split)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: draws the task and the episode noise unless `options` sets them.
            options: `task` (a `Task`) and `episode_seed` (an int, or a tuple of ints).

        Returns:
            The first text and an info dict.
        """
        options = options or {}
        task = options.get("task")
        episode_seed = options.get("episode_seed")
        if seed is not None or task is None:
            super().reset(seed=seed)
        if task is None:
            task = self.new_task(int(self.np_random.integers(2**62)))
        elif not isinstance(task, Task):
            raise ConfigError(f"options['task']={task!r} is not a Task: build one with Task(env_id, params).")
        if episode_seed is None:
            episode_seed = int(self.np_random.integers(2**62)) if self._np_random is not None else 0
        return self._begin(task, episode_seed if isinstance(episode_seed, tuple) else int(episode_seed)), {}

    def _begin(self, task: Task, episode_seed: int | tuple[int, ...]) -> str:
        """`reset` with a given task and noise seed."""
        self._live = False  # remains False if on_reset raises
        self._turns = 0
        self._invalid = 0
        self._return = 0.0
        self._success = False
        self._stop = None
        first = self.on_reset(task.params, stream(self.env_id, "episode", episode_seed))
        plain = type(first) is str and first.isascii()
        self._observation = first if plain else checked_text(self.env_id, "on_reset returned", first)
        self._live = True
        return self._observation

    def get_observation(self) -> str:
        """The last text; has no side effects."""
        if self._observation is None:
            raise EpisodeOver(f"{self.env_id}: no observation yet. Call reset() first.")
        return self._observation

    def step(self, action: str) -> Step:  # type: ignore[override]
        """Take one action; returns gymnasium's five-tuple.

        Numbers and flags from NumPy and torch are converted to Python's own types.

        Raises:
            EpisodeOver: before `reset` and after the end.
            MetaRLGymError: `on_step` returned something other than a `Step` of a UTF-8-encodable str, a number within
                `reward_range`, two flags, and a dict or None. This ends the episode.
        """
        if not self._live:
            raise EpisodeOver(f"{self.env_id}: step() needs a live episode. Call reset() first.")
        self._turns = turns = self._turns + 1
        step = self.on_step(action)
        if type(step) is not Step:
            step = self._checked(step)
        observation, reward, terminated, truncated, info = step
        if not (
            type(observation) is str
            and (observation.isascii() or encodable(observation))
            and type(reward) is float
            and type(terminated) is bool
            and type(truncated) is bool
            and (info is None or type(info) is dict)
        ):
            observation, reward, terminated, truncated, info = step = self._checked(step)
        low, high = self.reward_range
        if not low <= reward <= high:  # also catches NaN
            self._live = False
            raise RewardError(
                f"{self.env_id}: reward={reward!r} is outside reward_range={self.reward_range}. "
                "Widen reward_range or correct on_step."
            )
        if info is None:
            info = {"valid": True, "success": False}
            step = Step(observation, reward, terminated, truncated, info)
        else:
            valid, success = info.setdefault("valid", True), info.setdefault("success", False)
            if type(valid) is not bool or type(success) is not bool:
                self._live = False
                valid = info["valid"] = checked_flag(self.env_id, "info['valid']", valid)
                success = info["success"] = checked_flag(self.env_id, "info['success']", success)
                self._live = True
            if not valid:
                self._invalid += 1
            if success:
                self._success = True
        self._return += reward
        self._observation = observation
        if terminated:
            self._live = False
            self._stop = StopReason.TERMINATED
        elif truncated or turns == self.max_turns:
            self._live = False
            self._stop = StopReason.MAX_TURNS
            if not truncated:
                step = Step(observation, reward, terminated, True, info)
        return step

    def _checked(self, step: Any) -> Step:
        self._live = False  # remains False if this raises
        step = checked_step(self.env_id, step)
        self._live = True
        return step

    @property
    def live(self) -> bool:
        """Whether `step` may be called."""
        return self._live

    @property
    def success(self) -> bool:
        """Whether this episode has been won; independent of the reward."""
        return self._success

    def truncate(self, reason: StopReason) -> None:
        """End the episode from outside because a limit was reached."""
        self._live = False
        self._stop = reason

    def result(self) -> dict[str, Any]:
        """`return`, `success`, `turns`, `invalid` and `stop` of the episode so far."""
        return {
            "return": self._return,
            "success": self._success,
            "turns": self._turns,
            "invalid": self._invalid,
            "stop": self._stop,
        }

    def render(self) -> str | None:  # type: ignore[override]
        """The last text with `render_mode="ansi"`, else None."""
        return self.get_observation() if self.render_mode == "ansi" else None

    def close(self) -> None:
        """Release resources. Results remain readable."""

    def boundary(self, episode: int, episodes: int | None) -> str:
        """Text before an episode's first text inside a trial; `episode` counts from 0.

        Terse style: a mark between multi-turn episodes, nothing between single-turn ones.
        """
        if self.style == "terse":
            return "" if episode == 0 or self.max_turns == 1 else "/"
        return f"--- Episode {episode + 1} of {episodes} ---" if episodes else f"--- Episode {episode + 1} ---"
