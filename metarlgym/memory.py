"""Memory: what of the earlier episodes of a trial the policy sees in the episode it plays.

`FullHistory` keeps one growing context per trial. Every other memory opens a new context at each episode, made of the
rules, the episodes it recalls, and the new episode's first text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metarlgym.datatypes import ConfigError, Episode


class Memory:
    """Base class."""

    name: str = ""
    one_context: bool = False
    """True where the context is never rebuilt, so that one trial is one training row."""
    numbered: bool = True
    """Whether episode boundaries may tell the episode's index."""

    def recall(self, earlier: Sequence[Episode]) -> Sequence[Episode]:
        """The episodes to show before the next one, given those already played."""
        raise NotImplementedError


@dataclass(frozen=True)
class FullHistory(Memory):
    """Everything, verbatim, in one context (RL^2, Duan et al. 2016, arXiv:1611.02779)."""

    name = "full"
    one_context = True

    def recall(self, earlier: Sequence[Episode]) -> Sequence[Episode]:
        return earlier


@dataclass(frozen=True)
class NoMemory(Memory):
    """Nothing: every episode starts from the rules, with no index. The control that adaptation has to beat."""

    name = "none"
    numbered = False

    def recall(self, earlier: Sequence[Episode]) -> Sequence[Episode]:
        return ()


@dataclass(frozen=True)
class LastK(Memory):
    """The last `k` episodes, verbatim."""

    k: int = 1
    name = "last"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"memory last_{self.k}: k={self.k} must be at least 1; use 'none' to show no episode.")

    def recall(self, earlier: Sequence[Episode]) -> Sequence[Episode]:
        return earlier[-self.k :]


@dataclass(frozen=True)
class Shuffled(Memory):
    """Control: the earlier episodes shown are those recorded on ANOTHER task; the current episode is real.

    A policy that adapts must get worse under it; one that has only learned a fixed strategy does not notice.
    """

    donor: Sequence[Episode] = ()
    """The episodes of the other trial; as many of them are shown as episodes were played here."""
    name = "shuffled"

    def recall(self, earlier: Sequence[Episode]) -> Sequence[Episode]:
        return self.donor[: len(earlier)]


def make_memory(name: str) -> Memory:
    """`full`, `none` or `last_K` (such as `last_2`)."""
    if name == "full":
        return FullHistory()
    if name == "none":
        return NoMemory()
    if name.startswith("last_") and name[5:].isdigit():
        return LastK(int(name[5:]))
    raise ConfigError(f"memory={name!r} is not known: use 'full', 'none' or 'last_K' such as 'last_2'.")
