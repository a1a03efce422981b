"""The check of a sampling temperature, shared by all policies that sample and by the command line."""

from __future__ import annotations

import math

from metarlgym.datatypes import ConfigError


def check_temperature(temperature: float, greedy: str = "greedy") -> float:
    """Return a temperature that can be sampled with.

    Args:
        temperature: divides the logits.
        greedy: how the caller's user asks for the most likely token.

    Raises:
        ConfigError: it is not above 0, or not finite.
    """
    if 0 < temperature < math.inf:
        return temperature
    must = "above 0" if temperature <= 0 else "a finite number"
    raise ConfigError(f"temperature={temperature:g} must be {must}; for the most likely token use {greedy}.")
