"""Registry of sources by name."""

from __future__ import annotations

from metarlgym.author_errors import split_module
from metarlgym.datatypes import ConfigError
from metarlgym.sequences.sources.base import Source

SOURCES: dict[str, type[Source]] = {}
"""All registered sources."""


def register_source(name: str, source: type[Source]) -> None:
    """Make a source available to commands and configs as `NAME`, or as `package.module:NAME` from any package.

    Raises:
        ConfigError: another source has this name.
    """
    if SOURCES.get(name, source) is not source:
        raise ConfigError(f"source name {name!r} is registered already: choose another.")
    SOURCES[name] = source


def find_source(name: str, exact: bool = False) -> type[Source]:
    """Find a source by name; `package.module:NAME` imports the module first.

    Args:
        name: registered name.
        exact: accept only sources with an exact predictor.

    Raises:
        ConfigError: unknown source.
    """
    short = split_module("source", name)
    known = {each: kind for each, kind in SOURCES.items() if kind.exact or not exact}
    if short not in known:
        raise ConfigError(f"source={name!r} is not known: use one of {', '.join(known)}.")
    return known[short]
