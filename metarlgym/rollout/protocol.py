"""The policy interface of the rollout manager: a policy receives requests and calls back with replies."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from metarlgym.datatypes import MetaRLGymError, StopReason
from metarlgym.trial import Trial


class PolicyStop(Exception):
    """A policy's reply when one of its own limits prevents it from acting: the trial ends there, truncated.

    Args:
        reason: the limit.
        text: what happened.
    """

    def __init__(self, reason: StopReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class PolicyLost(MetaRLGymError):
    """A policy's reply when no trial can continue (its server is gone): the whole rollout ends with this error."""


@dataclass(slots=True)
class ActRequest:
    """A request for one action in one trial."""

    trial: Trial
    """The trial being played; read by policies that work on text."""
    context: int
    """Id of the context, unique within the process. A context only grows, so a policy may key its KV cache by it."""
    ids: list[int]
    """All ids of the context so far (a live list: do not modify it). Empty for policies that work on text."""
    max_tokens: int
    """Maximum number of tokens of the action; a thought is not part of it if `thought_tokens` is set."""
    seed: int
    """Sampling seed of this action: depends only on the run, step, row, episode and turn."""
    thought_tokens: int | None = None
    """Maximum number of tokens of a thought. None: the tokenizer marks no thoughts, so all tokens are the action's."""
    room: int | None = None
    """With `thought_tokens`: maximum number of tokens of thought and action together; None for no limit."""


@dataclass(frozen=True, slots=True)
class Thought:
    """The thought at the start of a reply."""

    tokens: int
    """Number of its sampled tokens, including those that open and close it."""
    forced: tuple[int, int] | None = None
    """Start and end, in the reply's `ids`, of the tokens that closed it without being sampled."""
    cut: bool = False
    """Whether a limit ended it."""


@dataclass(slots=True)
class ActReply:
    """The policy's action: tokens, or text for policies that work on text."""

    ids: list[int]
    logprobs: list[float]
    finish: Literal["end", "length"] = "end"
    """`end`: the policy ended the action itself (or it has a fixed length). `length`: it was truncated."""
    text: str | None = None
    thought: Thought | None = None
    versions: list[int] | None = None
    """Version of the weights that each id was sampled with; None if the policy's `version` holds for all."""


Callback = Callable[[ActReply | BaseException], None]


class Policy(ABC):
    """Base class for choosing actions. All methods are called on the thread of the manager's event loop."""

    wants_tokens: bool = True
    """False for policies that read the trial's text and reply in text."""
    context_limit: int | None = None
    """Maximum number of tokens of a context in the rollout that begins; set by the manager before `begin`."""
    version: int | None = None
    """Version of its weights: the optimizer step that made them. None if it is unknown, or there are no weights."""
    follows_updates: bool = False
    """Whether its weights may change while it plays, and `version` with them."""

    @abstractmethod
    def submit(self, request: ActRequest, done: Callback) -> None:
        """Accept a request without blocking; later call `done` exactly once, with a reply or an exception."""

    def forget(self, context: int) -> None:
        """This context will not be used again: free any memory kept for it."""

    def room(self, trials: int) -> bool:
        """Whether one more trial can be played beside `trials` others. Those that have begun always go on."""
        return True

    async def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called once before the first request of a rollout."""
        self.loop = loop

    async def end(self) -> None:
        """Called once after the last reply of a rollout, even if the rollout failed."""
