"""The environment under test: ways to build it, play it, and compare its output."""

from __future__ import annotations

import copy
import inspect
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from metarlgym.datatypes import Task
from metarlgym.env import Env
from metarlgym.registry import make
from metarlgym.seeding import derive
from metarlgym.trial import Trial

JUNK = (
    "",
    "junk",
    "[]",
    "[999999]",
    "[-1]",
    "[nan]",
    "[²]",  # str.isdigit() is True but int() raises
    "[" + "9" * 5000 + "]",  # int() rejects this many digits
    "🎲 [⑦]\u202e\x00",
    "<think>[1]",
    "\n\n",
    "blah " * 4000,
)
"""Actions that every game must handle. An environment may consider some of them valid."""

UNLIMITED = 200
"""Number of actions played if an environment states no limit."""

Log = list[tuple[str, str, float, bool, bool, dict[str, Any]]]
"""(action, text, reward, terminated, truncated, info) of each step, after one entry for the reset."""

Chooser = Callable[[int, Env], str | None]
"""Action number i, or None to stop."""


@dataclass(frozen=True)
class Subject:
    """The environment under test, which can be built any number of times."""

    origin: str | Env | Callable[..., Env]
    """An id, an instance, or a factory."""
    episodes: int = 3
    trials: int = 8
    seed: int = 0

    def make(self, style: str | None = None) -> Env:
        """A fresh environment; `style` only if `styles` contains it."""
        if isinstance(self.origin, str):
            kwargs: dict[str, Any] = {"style": style} if style else {}
            return make(self.origin, **kwargs)
        if isinstance(self.origin, Env):
            return copy.deepcopy(self.origin)
        return self.origin(style=style) if style and style in self.styles else self.origin()

    @cached_property
    def name(self) -> str:
        if isinstance(self.origin, str | Env):
            return self.origin if isinstance(self.origin, str) else self.origin.env_id
        return getattr(self.origin, "env_id", "") or getattr(self.origin, "__name__", repr(self.origin))

    @cached_property
    def styles(self) -> tuple[str | None, ...]:
        """The styles that can be built; for an instance, or a factory without `style`, only its own."""
        if isinstance(self.origin, str):
            return "chat", "terse"
        if isinstance(self.origin, Env):
            return (None,)
        parameters = inspect.signature(self.origin).parameters.values()
        return ("chat", "terse") if any(p.name == "style" or p.kind is p.VAR_KEYWORD for p in parameters) else (None,)

    @property
    def tasks(self) -> list[Task]:
        """One task per trial; new copies each time, because a broken environment may modify its task."""
        return copy.deepcopy(self._tasks)

    @cached_property
    def _tasks(self) -> list[Task]:
        env = self.make()
        return [env.new_task("check", self.seed, i) for i in range(self.trials)]

    @property
    def pairs(self) -> list[tuple[Task, Task]]:
        """Pairs of different tasks; empty if there is only one task."""
        return copy.deepcopy(self._pairs)

    @cached_property
    def _pairs(self) -> list[tuple[Task, Task]]:
        env = self.make()
        pool = list({task.key: task for task in (env.new_task("pairs", self.seed, i) for i in range(50))}.values())
        return [] if len(pool) < 2 else [(pool[i], pool[i - 1]) for i in range(min(len(pool), 2 * self.trials))]

    def rng(self, *parts: int | str) -> random.Random:
        return random.Random(derive("check_env", self.seed, *parts))

    def script(self, i: int, task: Task, junk: float = 0.2) -> list[str]:
        """The actions of a random game on a task, mixed with junk."""
        env = self.make()
        return [entry[0] for entry in play(env, task, i, mixed(self.rng("script", i), junk))[1:]]


def inner(env: Env) -> Env:
    """The environment itself if `env` is a trial of it."""
    return env.env if isinstance(env, Trial) else env


def defines(env: Env, name: str) -> bool:
    """Whether the author implemented this optional method."""
    return getattr(type(inner(env)), name) is not getattr(Env, name)


def limit_of(env: Env) -> int | None:
    """Maximum number of actions of a game, as stated."""
    return env.max_total_turns if isinstance(env, Trial) else env.max_turns


# ---------------------------------------------------------------------- playing


def play(env: Env, task: Task, episode_seed: int, choose: Chooser, observe: Callable[[], object] | None = None) -> Log:
    """Play a game and log everything it returns. `observe` is called before each action."""
    text, info = env.reset(options={"task": task, "episode_seed": episode_seed})
    return go_on(env, [("", text, 0.0, False, False, copy.deepcopy(info))], choose, observe)


def go_on(env: Env, log: Log, choose: Chooser, observe: Callable[[], object] | None = None) -> Log:
    """Continue a game, at most one action past its limit."""
    most = limit_of(env) or UNLIMITED * (env.episodes if isinstance(env, Trial) else 1)
    while env.live and len(log) <= most + 1:
        if observe:
            observe()
        action = choose(len(log) - 1, env)
        if action is None:
            break
        text, reward, terminated, truncated, info = env.step(action)
        log.append((action, text, reward, terminated, truncated, copy.deepcopy(info or {})))
    return log


def mixed(rng: random.Random, junk: float) -> Chooser:
    """Random legal actions, and junk with a given probability (always junk without a `random_action`)."""

    def choose(_: int, env: Env) -> str:
        if rng.random() < junk or not defines(env, "random_action"):
            return rng.choice(JUNK)
        return env.random_action(rng)

    return choose


def replay(actions: Sequence[str]) -> Chooser:
    """The given actions, then stop."""
    return lambda i, _: actions[i] if i < len(actions) else None


def always(action: str) -> Chooser:
    return lambda _, __: action


def ended(log: Log) -> bool:
    return log[-1][3] or log[-1][4]


def shorten(value: object, width: int = 60) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 3] + "..."


def difference(a: Log, b: Log) -> str | None:
    """Describe the first difference between two logs of the same script."""
    names = ("action", "text", "reward", "terminated", "truncated", "info")
    for i, (x, y) in enumerate(zip(a, b)):
        for name, u, v in zip(names, x, y):
            if u != v:
                place = "reset" if i == 0 else f"step {i}"
                return f"{name} of {place}: {shorten(u)!r} against {shorten(v)!r}"
    return None if len(a) == len(b) else f"{len(a) - 1} against {len(b) - 1} steps"


def games(s: Subject, junk: float = 0.2) -> Iterator[tuple[Env, Task, Log]]:
    """One random game per task in every style."""
    for style in s.styles:
        for i, task in enumerate(s.tasks):
            env = s.make(style)
            yield env, task, play(env, task, i, mixed(s.rng("games", i), junk))


# ---------------------------------------------------------------------- global generators


def global_state() -> dict[str, Any]:
    """The state of every loaded global generator."""
    legacy: Any = np.random.get_state(legacy=False)
    keys = legacy["state"].pop("key").tobytes()
    state: dict[str, Any] = {"random": random.getstate(), "numpy.random": (keys, repr(legacy))}
    if "torch" in sys.modules:
        state["torch"] = sys.modules["torch"].random.get_rng_state().numpy().tobytes()
    return state


class unchanged_globals:
    """Restore the global generators after the block, whatever happens in it."""

    def __enter__(self) -> None:
        self.random = random.getstate()
        self.numpy = np.random.get_state()
        torch = sys.modules.get("torch")
        self.torch = torch.random.get_rng_state() if torch else None

    def __exit__(self, *_: object) -> None:
        random.setstate(self.random)
        np.random.set_state(self.numpy)
        if self.torch is not None:
            sys.modules["torch"].random.set_rng_state(self.torch)


def disturb(i: int) -> None:
    """Change the global generators as other code in a process might."""
    random.seed(i)
    random.random()
    np.random.seed(i)
    np.random.random()
