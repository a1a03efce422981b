"""The exact predictor of a piecewise source whose law is known."""

from __future__ import annotations

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.predictors.base import Predictor
from metarlgym.sequences.predictors.lin import Renewal
from metarlgym.sequences.predictors.ptw import PTW
from metarlgym.sequences.sources.piecewise import Piecewise


def exact_predictor(source: Piecewise) -> Predictor:
    """Bayes for one who knows the law and the concentration of a source, but neither switch points nor distributions.

    Raises:
        ConfigError: the source's concentration is not the same for all symbols, as the predictors' is.
    """
    alpha = symmetric_concentration(source)
    hazard = source.hazard()
    if hazard is None:
        return PTW(source.depth, source.alphabet, alpha)
    return Renewal(hazard, source.alphabet, alpha)


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
