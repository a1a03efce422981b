"""Partition Tree Weighting (Veness, White, Bowling and Gyorgy 2013, arXiv:1210.3572) over KT, for any alphabet.

`PTW_d(x) = 1/2 KT(x) + 1/2 PTW_{d-1}(left half) PTW_{d-1}(right half)`, `PTW_0 = KT`: an exact Bayesian mixture over
all recursive binary partitions of a block of 2^d symbols, where each block is split in half with probability 1/2.

The state holds, for the current block of each size, the log-odds of "not split" against "split". It never holds the
log-probability of a whole sequence, so only the odds grow with time. With p_j the prediction inside the block at level
j (level 0 is the whole block, level d a single symbol):

    p_j = s(r_j) kt_j + (1 - s(r_j)) p_{j+1},   p_d = kt_d,   then   r_j += log kt_j(x) - log p_{j+1}(x)

When the left half of a block ends, its factor of the product stays in r_j, and all lower levels are reset.
"""

from __future__ import annotations

import math

import numpy as np

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.predictors.segment_predictor import SegmentPredictor
from metarlgym.sequences.sources.base import check_concentration, check_whole
from metarlgym.sequences.sources.compiled import compiled


class PTW(SegmentPredictor):
    """Partition Tree Weighting; O(depth) time per symbol and O(depth) memory.

    Args:
        depth: d; sequences may have up to 2^d symbols.
        alphabet: number of symbols A.
        alpha: pseudo-count of the KT estimators.
    """

    def __init__(self, depth: int = 8, alphabet: int = 2, alpha: float = 0.5) -> None:
        super().__init__(alphabet)
        self.depth = check_whole("depth", depth, 0, 62)
        self.alpha = check_concentration("alpha", alpha)
        self.reset()

    def reset(self) -> None:
        self._time = 0
        self._odds = np.zeros(self.depth + 1)
        self._counts = np.zeros((self.depth + 1, self.alphabet), np.int64)

    def predict(self) -> np.ndarray:
        self._check_length(self._time + 1)
        probs = np.empty((self.depth + 1, self.alphabet))
        _enter(self._time, self._odds, self._counts)
        _predict(self._odds, self._counts, self.alpha, probs)
        return probs[0]

    def update(self, symbol: int) -> None:
        self._check_symbol(symbol)
        self._check_length(self._time + 1)
        probs = np.empty((self.depth + 1, self.alphabet))
        _enter(self._time, self._odds, self._counts)
        _predict(self._odds, self._counts, self.alpha, probs)
        _update(symbol, self._odds, self._counts, self.alpha, probs)
        self._time += 1

    def _run(self, sequences: np.ndarray, out: np.ndarray, ages: np.ndarray) -> None:
        _run(sequences, self.depth, self.alpha, out, ages)

    def _check_length(self, length: int) -> None:
        if length > 2**self.depth:
            raise ConfigError(
                f"T={length} is beyond depth={self.depth}, which ends at 2^{self.depth} = {2**self.depth} symbols: "
                f"use depth={(length - 1).bit_length()}."
            )


@compiled()
def _enter(time, odds, counts):
    """Start the blocks that begin at `time` (from 0). Idempotent."""
    depth = odds.size - 1
    level = 0
    if time > 0:  # the highest bit in which time and time - 1 differ gives the largest block that ends
        change = time ^ (time - 1)
        level = depth + 1
        while change > 0:
            change >>= 1
            level -= 1
    odds[level:] = 0.0
    counts[level:] = 0


@compiled()
def _predict(odds, counts, alpha, probs):
    """Fill `probs[j]` with the prediction inside the block of level j."""
    depth, A = odds.size - 1, probs.shape[1]
    for j in range(depth, -1, -1):
        seen = counts[j].sum()
        share = 1.0 / (1.0 + math.exp(-odds[j])) if j < depth else 1.0
        for a in range(A):
            kt = (counts[j, a] + alpha) / (seen + A * alpha)
            probs[j, a] = kt if j == depth else share * kt + (1.0 - share) * probs[j + 1, a]


@compiled()
def _update(symbol, odds, counts, alpha, probs):
    A = probs.shape[1]
    for j in range(odds.size - 1):
        kt = (counts[j, symbol] + alpha) / (counts[j].sum() + A * alpha)
        odds[j] += math.log(kt / probs[j + 1, symbol])
    for j in range(odds.size):
        counts[j, symbol] += 1


@compiled()
def _log_age(odds, counts):
    """Posterior mean of log2(1 + age of the next symbol's segment)."""
    left, total = 1.0, 0.0  # `left`: probability not yet assigned to unsplit blocks
    for j in range(odds.size):
        share = 1.0 / (1.0 + math.exp(-odds[j])) if j < odds.size - 1 else 1.0
        total += left * share * math.log2(1.0 + counts[j].sum())
        left *= 1.0 - share
    return total


@compiled()
def _run(sequences, depth, alpha, out, ages):
    A = out.shape[2]
    odds = np.empty(depth + 1)
    counts = np.empty((depth + 1, A), np.int64)
    probs = np.empty((depth + 1, A))
    for b in range(sequences.shape[0]):
        odds[:] = 0.0
        counts[:] = 0
        for t in range(sequences.shape[1]):
            _enter(t, odds, counts)
            _predict(odds, counts, alpha, probs)
            out[b, t] = probs[0]
            if ages.size > 0:
                ages[b, t] = _log_age(odds, counts)
            _update(sequences[b, t], odds, counts, alpha, probs)
