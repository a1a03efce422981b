"""Validation of integer arguments."""

from __future__ import annotations

import numbers
from typing import Any

from metarlgym.datatypes import ConfigError


def check_whole(name: str, value: Any, least: int, most: int | None = None, why: str = "") -> int:
    """`value` as an int; NumPy integers are accepted.

    Raises:
        ConfigError: not an integer, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ConfigError(f"{name}={value!r} must be a whole number of at least {least}.")
    whole = int(value)
    if whole < least:
        raise ConfigError(f"{name}={whole} must be at least {least}{why}.")
    if most is not None and whole > most:
        raise ConfigError(f"{name}={whole} must be at most {most}{why}.")
    return whole
