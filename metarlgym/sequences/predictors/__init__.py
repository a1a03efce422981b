"""Exact online predictors of the sequence worlds, and baselines. numpy and numba only."""

from metarlgym.sequences.predictors.base import Predictor, fill, regret
from metarlgym.sequences.predictors.baselines import LempelZiv, NGram
from metarlgym.sequences.predictors.exact import exact_predictor, references, symmetric_concentration
from metarlgym.sequences.predictors.kt import KT
from metarlgym.sequences.predictors.lin import LIN, Renewal
from metarlgym.sequences.predictors.metalm import MetaLMFilter
from metarlgym.sequences.predictors.ptw import PTW
from metarlgym.sequences.predictors.rlm import RLMPredictor, rule_entropy

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
    "references",
    "regret",
    "rule_entropy",
    "symmetric_concentration",
]
