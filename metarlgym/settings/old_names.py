"""Old names of settings. They are still read, with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from metarlgym.datatypes import ConfigError

RENAMED_SETTINGS = {
    "warmup_trials": "imitation_trials",
    "warmup_max_steps": "imitation_max_steps",
    "warmup_batch_size": "imitation_batch_size",
    "warmup_learning_rate": "imitation_learning_rate",
}
"""Old name -> new name. (`warmup_steps` is transformers': the warm-up of the learning rate.)"""


def under_new_names(values: Mapping[str, Any], warn: bool = False) -> dict[str, Any]:
    """The values under their new names.

    Raises:
        ConfigError: if a setting is given under both names.
    """
    out: dict[str, Any] = {}
    for name, value in values.items():
        new = RENAMED_SETTINGS.get(name, name)
        if new in out or (new != name and new in values):
            raise ConfigError(f"{name} is the old name of {new}, and both are given: leave {name} out.")
        if new != name and warn:
            warnings.warn(f"{name} is called {new} now.", stacklevel=3)
        out[new] = value
    return out


def options_under_new_names(arguments: Sequence[str], warn: bool = False) -> list[str]:
    """A command line with the new names of its options.

    Raises:
        ConfigError: if a setting is given under both names.
    """
    given = {_option(word) for word in arguments}
    out = []
    for word in arguments:
        old = _option(word)
        new = RENAMED_SETTINGS.get(old)
        if new in given:
            raise ConfigError(f"--{old} is the old name of --{new}, and both are given: leave --{old} out.")
        if new and warn:
            warnings.warn(f"--{old} is called --{new} now.", stacklevel=3)
        out.append(f"--{new}{word[2 + len(old) :]}" if new else word)
    return out


def _option(word: str) -> str:
    """The name in `--name` or `--name=value`, with underscores; empty for other words."""
    return word[2:].partition("=")[0].replace("-", "_") if word.startswith("--") else ""
