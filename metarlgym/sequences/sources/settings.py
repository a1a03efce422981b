"""Creation of sources from a run's settings, as parsed from JSON or YAML, without a seed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.sources.base import Source, check_seed

SEEDS = ("seed", "seed_samples")
NOT_SETTINGS = (*SEEDS, "transform")
"""Arguments that are set by other means, or are functions."""


def make_source(
    kind: type[Source], settings: Mapping[str, Any], seed: int, field: str, seed_field: str, split: str = "train"
) -> Source:
    """Create a source from its settings.

    Args:
        kind: class of the source.
        settings: its arguments, except the seed.
        seed: seed of its sequences.
        field: name of the settings in error messages.
        seed_field: name of the seed in error messages.
        split: split to draw from; a source of the train split may also be evaluated.

    Raises:
        ConfigError: a seed among the settings, an unknown setting, one without effect, or an invalid value.
    """
    known = [name for name in inspect.signature(kind).parameters if name not in NOT_SETTINGS]
    for name in settings:
        if name in SEEDS:
            raise ConfigError(
                f"{field}: {name}={settings[name]!r} would draw other sequences than {seed_field}={seed} says: leave "
                f"it out, and set {seed_field}."
            )
        if name not in known:
            raise ConfigError(f"{field}: {name!r} is not a setting of {kind.__name__}: it has {', '.join(known)}.")
    check_used(kind, settings, split, f"{field}: ")
    return kind(**settings, **{kind.seed_name: check_seed(seed_field, seed)})


def check_used(kind: type[Source], settings: Mapping[str, Any], split: str = "train", field: str = "") -> None:
    """Reject settings that the source would not use.

    Raises:
        ConfigError: names the setting and the reason; `field` is prepended.
    """
    for name, why in kind.unused(settings, split).items():
        raise ConfigError(f"{field}{name}={settings[name]!r} has no effect, as {why}: leave it out.")
