"""What chunk 1 is worth, exactly: the best possible loss on chunk 2 with and without it.

Symbols are i.i.d. under a distribution from a Dirichlet prior, so the KT estimator with the prior's pseudo-counts is
the best predictor there is. All is in expectation under the true distribution.
"""

from __future__ import annotations

import math

import numpy as np

from metarlgym.selflearning.gist_tokens.config import Config
from metarlgym.sequences.predictors import KT
from metarlgym.sequences.sources import Piecewise


def exact_losses(config: Config, source: Piecewise, count: int) -> dict[str, float]:
    """The exact references on the first `count` held-out sequences.

    Returns:
        `full_context`, `chunk_alone`: best loss on chunk 2 knowing chunk 1, and not knowing it, nats a symbol;
        `entropy`: that of the source, nats a symbol; `bits`: what chunk 1 is worth to all of chunk 2, bits.
    """
    batch = source.batch(0, count, "eval")
    truth = batch.theta[:, config.n1 :]
    kt = KT(config.alphabet, config.concentration)
    full = _loss(kt.predictions(batch.tokens)[:, config.n1 :], truth)
    alone = _loss(kt.predictions(batch.tokens[:, config.n1 :]), truth)
    # Entries of the truth may be exactly 0, and add nothing.
    entropy = -float((truth * np.log(np.where(truth > 0, truth, 1.0))).sum(-1).mean())
    bits = (alone - full) * config.n2 / math.log(2)
    return {"full_context": full, "chunk_alone": alone, "entropy": entropy, "bits": bits}


def _loss(predictions: np.ndarray, truth: np.ndarray) -> float:
    return -float((truth * np.log(predictions)).sum(-1).mean())
