"""Exact value of chunk 1: the best possible loss on chunk 2 with and without it.

Symbols are i.i.d. under a distribution from a Dirichlet prior, so the KT estimator with the prior's pseudo-counts is
the optimal predictor. All values are expectations under the true distribution.
"""

from __future__ import annotations

import math

import numpy as np

from metarlgym.selflearning.gist_tokens.config import Config
from metarlgym.sequences.predictors import KT
from metarlgym.sequences.sources import Piecewise


def exact_losses(config: Config, source: Piecewise, count: int) -> dict[str, float]:
    """Exact reference values on the first `count` held-out sequences.

    Returns:
        `full_context`, `chunk_alone`: best loss on chunk 2 with and without chunk 1, in nats per symbol; `entropy` of
        the source, in nats per symbol; `bits`: reduction of the total loss on chunk 2 due to chunk 1, in bits.
    """
    batch = source.batch(0, count, "eval")
    truth = batch.theta[:, config.n1 :]
    kt = KT(config.alphabet, config.concentration)
    full = _loss(kt.predictions(batch.tokens)[:, config.n1 :], truth)
    alone = _loss(kt.predictions(batch.tokens[:, config.n1 :]), truth)
    # Entries of the truth may be exactly 0; they contribute nothing.
    entropy = -float((truth * np.log(np.where(truth > 0, truth, 1.0))).sum(-1).mean())
    bits = (alone - full) * config.n2 / math.log(2)
    return {"full_context": full, "chunk_alone": alone, "entropy": entropy, "bits": bits}


def _loss(predictions: np.ndarray, truth: np.ndarray) -> float:
    return -float((truth * np.log(predictions)).sum(-1).mean())
