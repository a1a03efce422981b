"""Memory: what of the earlier episodes of a trial the policy sees in the episode it plays.

`FullHistory` keeps one growing context per trial. Every other memory opens a new context at each episode, made of the
rules, the episodes it recalls, and the new episode's first text.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
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


_MEMORIES: dict[str, Callable[[str | None], Memory | None]] = {}


def register_memory(name: str, make: Callable[[str | None], Memory | None]) -> None:
    """Let a memory be named in settings: `NAME`, `NAME_ARGUMENT`, or `package.module:NAME` from any package.

    Args:
        name: letters and digits.
        make: takes the argument after the name (None without one) and returns the memory, or None if the argument does
            not fit.

    Raises:
        ConfigError: the name cannot be used, or is taken by another memory.
    """
    if not name.isalnum():
        raise ConfigError(f"memory name {name!r}: use letters and digits only.")
    if _MEMORIES.get(name, make) is not make:
        raise ConfigError(f"memory name {name!r} is registered already: choose another.")
    _MEMORIES[name] = make


def make_memory(name: str) -> Memory:
    """A memory by name: `full`, `none`, `last_K` (such as `last_2`), or one that `register_memory` made known.

    `package.module:NAME` imports the module first.

    Raises:
        ConfigError: it is not known, or its argument does not fit.
    """
    module, _, short = name.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(f"memory={name!r}: the module {module!r} cannot be imported ({error}).") from error
    kind, mark, argument = short.partition("_")
    make = _MEMORIES.get(kind)
    memory = None if make is None else make(argument if mark else None)
    if memory is None:
        others = "".join(f", {known!r}" for known in sorted(set(_MEMORIES) - {"full", "none", "last"}))
        raise ConfigError(f"memory={name!r} is not known: use 'full', 'none' or 'last_K' such as 'last_2'{others}.")
    return memory


def _last(argument: str | None) -> Memory | None:
    return LastK(int(argument)) if argument and argument.isdigit() else None


register_memory("full", lambda argument: FullHistory() if argument is None else None)
register_memory("none", lambda argument: NoMemory() if argument is None else None)
register_memory("last", _last)
