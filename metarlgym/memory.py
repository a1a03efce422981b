"""Memory: which of a trial's earlier episodes the policy sees in the current one.

`FullHistory` keeps one growing context per trial. Every other memory starts a new context at each episode, made of the
rules, the episodes it recalls, and the new episode's first text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from metarlgym.author_errors import split_module
from metarlgym.datatypes import ConfigError, Episode


class Memory:
    """Base class."""

    name: str = ""
    one_context: bool = False
    """True if the context is never rebuilt, so that one trial is one training row."""
    numbered: bool = True
    """Whether episode boundaries may show the episode's index."""

    def recall(self, earlier: Sequence[Episode]) -> Sequence[Episode]:
        """The episodes to show before the next one, given those already played."""
        raise NotImplementedError


@dataclass(frozen=True)
class FullHistory(Memory):
    """All earlier episodes, verbatim, in one context (RL^2, Duan et al. 2016, arXiv:1611.02779)."""

    name = "full"
    one_context = True

    def recall(self, earlier: Sequence[Episode]) -> Sequence[Episode]:
        return earlier


@dataclass(frozen=True)
class NoMemory(Memory):
    """No earlier episodes: each starts from the rules, without an index. The control that adaptation has to beat."""

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
    """Control: the earlier episodes shown were recorded on ANOTHER task; the current episode is real.

    A policy that adapts must get worse under it; one that has only learned a fixed strategy is unaffected.
    """

    donor: Sequence[Episode] = ()
    """The episodes of the other trial; as many are shown as have been played here."""
    name = "shuffled"

    def recall(self, earlier: Sequence[Episode]) -> Sequence[Episode]:
        return self.donor[: len(earlier)]


_MEMORIES: dict[str, Callable[[str | None], Memory | None]] = {}


def register_memory(name: str, make: Callable[[str | None], Memory | None]) -> None:
    """Make a memory available in settings as `NAME`, `NAME_ARGUMENT`, or `package.module:NAME` from any package.

    Args:
        name: letters and digits.
        make: takes the argument after the name (None if there is none) and returns the memory, or None if the argument
            is invalid.

    Raises:
        ConfigError: the name is invalid, or taken by another memory.
    """
    if not name.isalnum():
        raise ConfigError(f"memory name {name!r}: use letters and digits only.")
    if _MEMORIES.get(name, make) is not make:
        raise ConfigError(f"memory name {name!r} is registered already: choose another.")
    _MEMORIES[name] = make


def make_memory(name: str) -> Memory:
    """A memory by name: `full`, `none`, `last_K` (such as `last_2`), or one registered with `register_memory`.

    `package.module:NAME` imports the module first.

    Raises:
        ConfigError: the name is unknown, or its argument is invalid.
    """
    kind, mark, argument = split_module("memory", name).partition("_")
    make = _MEMORIES.get(kind)
    memory = None if make is None else make(argument if mark else None)
    if memory is None:
        others = "".join(f", {known!r}" for known in sorted(set(_MEMORIES) - {"full", "none", "last"}))
        raise ConfigError(f"memory={name!r} is not known: use 'full', 'none' or 'last_K' such as 'last_2'{others}.")
    return memory


def _last(argument: str | None) -> Memory | None:
    return LastK(int(argument)) if argument and argument.isdecimal() else None


register_memory("full", lambda argument: FullHistory() if argument is None else None)
register_memory("none", lambda argument: NoMemory() if argument is None else None)
register_memory("last", _last)
