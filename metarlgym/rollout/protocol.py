"""What a policy is to the rollout manager: it is handed requests and calls back with replies."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from metarlgym.datatypes import MetaRLGymError, StopReason
from metarlgym.trial import Trial


class PolicyStop(Exception):
    """What a policy answers when a limit of its own keeps it from acting: the trial ends there, truncated.

    Args:
        reason: the limit.
        text: what happened.
    """

    def __init__(self, reason: StopReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class PolicyLost(MetaRLGymError):
    """What a policy answers when no trial can go on (its server is gone): the whole rollout ends with this error."""


@dataclass(slots=True)
class ActRequest:
    """The policy is to act once in one trial."""

    trial: Trial
    """The trial being played; policies that work on text read it."""
    context: int
    """Number of the context, unique in the process. A context only grows, so a policy may keep its KV cache by it."""
    ids: list[int]
    """All ids of the context so far (a live list: do not change it). Empty for policies that work on text."""
    max_tokens: int
    seed: int
    """Seed of this action's sampling: a function of the run, step, row, episode and turn, and of nothing else."""


@dataclass(slots=True)
class ActReply:
    """What the policy did: tokens, or text for policies that work on text."""

    ids: list[int]
    logprobs: list[float]
    finish: Literal["end", "length"] = "end"
    """`end`: the policy ended the action itself (or it has a fixed length). `length`: it was cut."""
    text: str | None = None


Callback = Callable[[ActReply | BaseException], None]


class Policy(ABC):
    """What picks actions. All methods are called on the thread of the manager's event loop."""

    wants_tokens: bool = True
    """False for policies that read the trial's text and answer in text."""

    @abstractmethod
    def submit(self, request: ActRequest, done: Callback) -> None:
        """Take a request without blocking; later call `done` exactly once, with a reply or an exception."""

    def forget(self, context: int) -> None:
        """This context will not be used again: free what is kept for it."""

    async def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called once before the first request of a rollout."""
        self.loop = loop

    async def end(self) -> None:
        """Called once after the last reply of a rollout, also when the rollout failed."""
