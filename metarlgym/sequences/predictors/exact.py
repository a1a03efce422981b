"""The exact predictor of a source, and what it is compared with; each source names its own."""

from __future__ import annotations

import importlib
from typing import Any

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.predictors.base import Predictor
from metarlgym.sequences.predictors.kt import KT
from metarlgym.sequences.predictors.lin import LIN, Renewal
from metarlgym.sequences.predictors.ptw import PTW
from metarlgym.sequences.sources.base import Source
from metarlgym.sequences.sources.piecewise import Piecewise
from metarlgym.sequences.sources.registry import SOURCES


def exact_predictor(
    source: Source, start: int = 0, count: int = 1, split: str = "train", noisy: bool = False
) -> Predictor:
    """Bayes for one who knows a source, but not what is drawn for a sequence, for sequences `start`... of a split.

    Args:
        source: knows the predictor by name.
        start, count, split: the sequences; they matter where each has a language of its own.
        noisy: for sources with labels, predict the next token as it will be seen, not the clean one.

    Raises:
        ConfigError: the source has none, or not with its settings.
    """
    if not source.exact:
        known = [kind.__name__ for kind in SOURCES.values() if kind.exact]
        raise ConfigError(
            f"source={type(source).__name__} has no exact predictor: use {', '.join(known[:-1])} or {known[-1]}."
        )
    return _named(source.exact)(source, start, count, split, noisy)


def references(source: Source) -> dict[str, Predictor]:
    """Predictors that do not know the source, by name."""
    return _named(source.references)(source)


def _named(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def known_law(source: Piecewise, *_: Any) -> Predictor:
    """Bayes for one who knows the law and the concentration of a source, but neither switch points nor distributions.

    Raises:
        ConfigError: the source's concentration is not the same for all symbols, as the predictors' is.
    """
    alpha = symmetric_concentration(source)
    hazard = source.hazard()
    if hazard is None:
        return PTW(source.depth, source.alphabet, alpha)
    return Renewal(hazard, source.alphabet, alpha)


def universal(source: Piecewise) -> dict[str, Predictor]:
    """Predictors for unknown laws."""
    size, alpha = source.alphabet, symmetric_concentration(source)
    return {"PTW": PTW(source.depth, size, alpha), "LIN": LIN(size, alpha), "KT": KT(size, alpha)}


def symmetric_concentration(source: Piecewise) -> float:
    """The one number that is the source's concentration.

    Raises:
        ConfigError: it is not the same for all symbols.
    """
    alpha = float(source.concentration[0])
    if (source.concentration != alpha).any():
        raise ConfigError(
            f"concentration={source.concentration.tolist()} differs between symbols; the exact predictors are for one "
            "number: give one."
        )
    return alpha
