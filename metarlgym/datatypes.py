"""The core data types of the project, as plain values.

This module knows nothing about models or training; every other module uses its vocabulary. Example: one trial of Doors
(K = 4 doors, H = 3 episodes, one token per action, terse text):

    token        <bos> doors 4 safe 0.4 |  2  | nothing |  3  | prize |  3  | <end>
    action_mask     0     0   0  0   0  |  1  |    0    |  1  |   0   |  1  |   0
    episode         0     0   0  0   0  |  0  |    0    |  1  |   1   |  2  |   2
    turn            -     -   -  -   -  |  0  |    0    |  0  |   0   |  0  |   0

The first five tokens are the row's prompt, the rest its completion. `action_mask` is 1 exactly at the tokens the policy
sampled: only they get log-probabilities, advantages and gradients. The last observation is dropped because nothing is
sampled after it, and an end token closes the row. `returns` of this trial are `(0.0, 1.0, 1.0)`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, NamedTuple

JSON = Any
"""A value made of dicts with string keys, lists, strings, numbers, booleans and None."""


class MetaRLGymError(Exception):
    """Base class of every error a user can cause; its message names the field, the value and the fix."""


class ConfigError(MetaRLGymError, ValueError):
    """A setting is missing, unknown or contradicts another."""


class EpisodeOver(MetaRLGymError, RuntimeError):
    """`step` was called before `reset` or after the end of the episode."""


class StopReason(StrEnum):
    """Why an episode or a trial ended."""

    TERMINATED = "terminated"
    """The environment ended it by its own rules (won, lost, all episodes played)."""
    SUCCESS = "success"
    """The trial stopped because an episode succeeded (`stop_on_success`)."""
    MAX_TURNS = "max_turns"
    """The environment's own turn limit, which is a rule of the game (out of guesses)."""
    TURN_LIMIT = "turn_limit"
    """A turn limit or turn budget set from outside."""
    TOKEN_LIMIT = "token_limit"
    TIME_LIMIT = "time_limit"
    CONTEXT_LIMIT = "context_limit"
    """The policy's context window is full."""
    ERROR = "error"
    """An exception in the environment or the policy; the text is in `MetaTrajectory.error`."""


LIMITS = frozenset({StopReason.TURN_LIMIT, StopReason.TOKEN_LIMIT, StopReason.TIME_LIMIT, StopReason.CONTEXT_LIMIT})
"""Reasons that come from outside the environment's own rules."""


class Step(NamedTuple):
    """One transition; unpacks as gymnasium's five-tuple."""

    observation: str
    """Only the text that is new since the last action."""
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    info: dict[str, Any] | None = None
    """Reserved keys: `valid` (bool, the action followed the rules), `success` (bool)."""


@dataclass(frozen=True)
class Task:
    """One hidden MDP instance: a value, never shown to the policy.

    `key` is a content hash of the environment id and the parameters; it identifies the task in splits, groups and logs.
    """

    env_id: str
    params: JSON
    split: str = "train"
    key: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.key:
            try:
                text = json.dumps([self.env_id, self.params], sort_keys=True, separators=(",", ":"))
            except (TypeError, ValueError) as error:
                shown = repr(self.params) if len(repr(self.params)) <= 80 else repr(self.params)[:77] + "..."
                raise ConfigError(
                    f"{self.env_id}: the task parameters {shown} are not JSON ({error}): use dict with str keys, list, "
                    "str, int, float, bool and None, for instance int(x) for a NumPy integer."
                ) from None
            object.__setattr__(self, "key", hashlib.blake2b(text.encode(), digest_size=16).hexdigest())

    def to_json(self) -> str:
        return json.dumps({"env_id": self.env_id, "params": self.params, "split": self.split}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | Mapping[str, Any]) -> Task:
        data = json.loads(text) if isinstance(text, str) else text
        return cls(env_id=data["env_id"], params=data["params"], split=data.get("split", "train"))


class Message(NamedTuple):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    text: str


class Turn(NamedTuple):
    """One action and the environment's response."""

    action: str
    observation: str
    reward: float
    valid: bool = True


@dataclass(slots=True)
class Episode:
    """One episode on one task: s0, a0, r0 ... sT."""

    opening: str
    """The first text of the episode, as the policy saw it."""
    turns: list[Turn] = field(default_factory=list)
    """Append through `add`, which keeps `ret` and `invalid` up to date."""
    success: bool = False
    stop: StopReason | None = None
    ret: float = field(default=0.0, init=False)
    """The episode's return: the undiscounted sum of its rewards."""
    invalid: int = field(default=0, init=False)
    """Number of actions that broke the rules."""

    def __post_init__(self) -> None:
        if self.turns:
            self.ret = sum(turn.reward for turn in self.turns)
            self.invalid = sum(not turn.valid for turn in self.turns)

    def add(self, turn: Turn) -> None:
        """Append a turn."""
        self.turns.append(turn)
        self.ret += turn.reward
        if not turn.valid:
            self.invalid += 1

    def to_dict(self) -> dict[str, Any]:
        return {
            "opening": self.opening,
            "turns": [turn._asdict() for turn in self.turns],
            "return": self.ret,
            "success": self.success,
            "stop": self.stop.value if self.stop else None,
        }


@dataclass(frozen=True)
class Optimum:
    """The best expected unweighted return that any learner can reach on a trial, and how it is known."""

    total: float | None
    """Sum over the episodes; with free shots, over the episodes that count."""
    curve: tuple[float, ...] | None
    """Expected return of each episode under one optimal policy."""
    kind: Literal["exact", "simulated", "upper_bound", "none"]
    se: float | None = None
    """Standard error of `total` where `kind` is `simulated`."""
    lower: float | None = None
    """Where `kind` is `upper_bound`: what the strongest known solver reaches, as a lower bound of the optimum."""
    lower_se: float | None = None
    """Standard error of `lower`; None or 0 if it is exact."""


@dataclass
class MetaTrajectory:
    """Everything that one trial produced."""

    task: Task
    seed: int
    """Seed of the trial's episode noise."""
    episodes: list[Episode]
    """The episodes that were started, in order; the last may be unfinished."""
    max_episodes: int
    """H: maximum number of episodes of the trial."""
    rows: list[Any] = field(default_factory=list)
    """`rollout.transcript.Transcript`s, one per context: one per trial with `FullHistory`, else one per episode. Empty
    when the policy works on text.
    """
    stop: StopReason = StopReason.TERMINATED
    error: str | None = None
    error_detail: str | None = None
    """The traceback behind `error`."""
    truncated_actions: int = 0
    """Number of actions cut by the token limit before the policy ended them."""
    thoughts: int = 0
    """Number of actions that began with a thought."""
    cut_thoughts: int = 0
    """Number of thoughts ended by a limit."""
    thought_tokens: int = 0
    """Number of sampled tokens inside thoughts."""
    seconds: float = 0.0

    @property
    def returns(self) -> list[float]:
        """Returns by episode, shape `(H,)`; NaN for episodes that were not played. Raw: unweighted and undiscounted."""
        played = [episode.ret for episode in self.episodes]
        return played + [float("nan")] * (self.max_episodes - len(played))

    @property
    def total(self) -> float:
        """Sum of the returns of the episodes that were played."""
        return sum(episode.ret for episode in self.episodes)

    @property
    def turns(self) -> int:
        return sum(len(episode.turns) for episode in self.episodes)

    @property
    def truncated(self) -> bool:
        """Whether a limit, rather than the environment, ended the trial or one of its episodes or actions."""
        if self.stop in LIMITS or self.truncated_actions:
            return True
        return any(episode.stop in LIMITS for episode in self.episodes)

    def to_dict(self) -> dict[str, Any]:
        """A readable, JSON-serialisable view without token ids."""
        thinking = {"thoughts": self.thoughts, "cut_thoughts": self.cut_thoughts} if self.thoughts else {}
        return {
            "task": json.loads(self.task.to_json()),
            "seed": self.seed,
            "returns": [episode.ret for episode in self.episodes],
            "max_episodes": self.max_episodes,
            "stop": self.stop.value,
            "error": self.error,
            **thinking,
            "episodes": [episode.to_dict() for episode in self.episodes],
        }
