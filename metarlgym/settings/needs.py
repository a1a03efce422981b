"""Settings that have an effect only in combination with others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from metarlgym.datatypes import ConfigError
from metarlgym.settings.given import Given


@dataclass(frozen=True)
class Needs:
    """A requirement: settings that have an effect only in combination with others."""

    names: str
    """The settings, separated by spaces."""
    what: str
    """What they require, as worded in the error message."""
    by: str
    """The settings that decide whether it holds, separated by spaces."""
    holds: Callable[[Any], bool]
    """Whether the requirement holds, given all resolved settings."""


def check_needs(given: Given, changed: dict[str, Any], needs: Sequence[Needs], settings: Any) -> set[str]:
    """Refuse settings that have no effect.

    If the command line disables something that the config file set up (`--save_strategy no`, a different
    `model_name_or_path`), the file's settings only cause a warning, so that a config stays usable with other options.

    Returns:
        The settings that caused a warning.

    Raises:
        ConfigError: on the first such settings; states the unmet requirement.
    """
    unused: set[str] = set()
    for need in needs:
        idle = [name for name in need.names.split() if name in changed]
        if not idle or need.holds(settings):
            continue
        overridden = any(name in given.line for name in need.by.split())
        own = [name for name in idle if name in given.line or not overridden]
        listed = ", ".join(f"{name}={changed[name]!r}" for name in own or idle)
        if own:
            verb, them = ("it needs", "it") if len(own) == 1 else ("they need", "them")
            raise ConfigError(f"{listed} would have no effect: {verb} {need.what}. Change that, or leave {them} out.")
        warnings.warn(f"{listed} of the config file will have no effect: needs {need.what}.", stacklevel=4)
        unused |= set(idle)
    return unused
