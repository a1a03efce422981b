"""Settings that have an effect only where others say so."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from metarlgym.datatypes import ConfigError
from metarlgym.settings.given import Given


@dataclass(frozen=True)
class Needs:
    """Settings that have an effect only where others say so."""

    names: str
    """The settings, separated by blanks."""
    what: str
    """What they need, as the error says it."""
    by: str
    """The settings that decide it, separated by blanks."""
    holds: Callable[[Any], bool]
    """Whether it is so, from all resolved settings."""


def check_needs(given: Given, changed: dict[str, Any], needs: Sequence[Needs], settings: Any) -> set[str]:
    """Refuse what has no effect.

    Where the command line itself switches off what a config file set up (`--save_strategy no`, another
    `model_name_or_path`), the file's settings are warned of: a config must stay usable with other options.

    Returns:
        The settings that were warned of.

    Raises:
        ConfigError: naming what is needed.
    """
    unused: set[str] = set()
    for need in needs:
        idle = [name for name in need.names.split() if name in changed]
        if not idle or need.holds(settings):
            continue
        overridden = any(name in given.line for name in need.by.split())
        own = [name for name in idle if name in given.line or not overridden]
        told = ", ".join(f"{name}={changed[name]!r}" for name in own or idle)
        if own:
            verb, them = ("it needs", "it") if len(own) == 1 else ("they need", "them")
            raise ConfigError(f"{told} would have no effect: {verb} {need.what}. Change that, or leave {them} out.")
        warnings.warn(f"{told} of the config file will have no effect: needs {need.what}.", stacklevel=4)
        unused |= set(idle)
    return unused
