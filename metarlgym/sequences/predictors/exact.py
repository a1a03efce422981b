"""Look-up of a source's exact predictor and of its reference predictors; each source names its own."""

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
    """Bayes-optimal predictor that knows the source, but not a sequence's latent draws, for sequences `start`... of a
    split.

    Args:
        source: names its predictor.
        start, count, split: the sequences; relevant only where each has its own language.
        noisy: for sources with labels, predict the next token as observed (noisy) instead of the clean one.

    Raises:
        ConfigError: the source has no exact predictor, or none for these settings.
    """
    if not source.exact:
        known = [kind.__name__ for kind in SOURCES.values() if kind.exact]
        raise ConfigError(
            f"source={type(source).__name__} has no exact predictor: use {', '.join(known[:-1])} or {known[-1]}."
        )
    return _named(source.exact)(source, start, count, split, noisy)


def references(source: Source) -> dict[str, Predictor]:
    """Predictors without knowledge of the source, by name."""
    return _named(source.references)(source)


def _named(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def known_law(source: Piecewise, *_: Any) -> Predictor:
    """Bayes-optimal predictor that knows a source's law and concentration, but not its switch points or distributions.

    Raises:
        ConfigError: the source's concentration differs between symbols, which the predictors do not support.
    """
    alpha = symmetric_concentration(source)
    hazard = source.hazard()
    if hazard is None:
        return PTW(source.depth, source.alphabet, alpha)
    return Renewal(hazard, source.alphabet, alpha)


def universal(source: Piecewise) -> dict[str, Predictor]:
    """Universal predictors, which do not know the law."""
    size, alpha = source.alphabet, symmetric_concentration(source)
    return {"PTW": PTW(source.depth, size, alpha), "LIN": LIN(size, alpha), "KT": KT(size, alpha)}


def symmetric_concentration(source: Piecewise) -> float:
    """The source's concentration as a single number.

    Raises:
        ConfigError: the concentration differs between symbols.
    """
    alpha = float(source.concentration[0])
    if (source.concentration != alpha).any():
        raise ConfigError(
            f"concentration={source.concentration.tolist()} differs between symbols; the exact predictors are for one "
            "number: give one."
        )
    return alpha
