"""Exact online predictors of the sequence worlds, and baselines. numpy and numba only."""

from metarlgym.predictors.base import Predictor, fill, regret
from metarlgym.predictors.baselines import LempelZiv, NGram
from metarlgym.predictors.exact import exact_predictor, symmetric_concentration
from metarlgym.predictors.kt import KT
from metarlgym.predictors.lin import LIN, Renewal
from metarlgym.predictors.metalm import MetaLMFilter
from metarlgym.predictors.ptw import PTW
from metarlgym.predictors.rlm import RLMPredictor, rule_entropy

__all__ = [
    "KT",
    "LIN",
    "PTW",
    "LempelZiv",
    "MetaLMFilter",
    "NGram",
    "Predictor",
    "RLMPredictor",
    "Renewal",
    "exact_predictor",
    "fill",
    "regret",
    "rule_entropy",
    "symmetric_concentration",
]
