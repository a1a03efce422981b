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
from typing import Any

import numpy as np

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.predictors.base import Predictor
from metarlgym.sequences.sources.base import check_concentration, check_whole
from metarlgym.sequences.sources.compiled import compiled


class PTW(Predictor):
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
        chances = np.empty((self.depth + 1, self.alphabet))
        _enter(self._time, self._odds, self._counts)
        _predict(self._odds, self._counts, self.alpha, chances)
        return chances[0]

    def update(self, symbol: int) -> None:
        self._check_symbol(symbol)
        self._check_length(self._time + 1)
        chances = np.empty((self.depth + 1, self.alphabet))
        _enter(self._time, self._odds, self._counts)
        _predict(self._odds, self._counts, self.alpha, chances)
        _update(symbol, self._odds, self._counts, self.alpha, chances)
        self._time += 1

    def predictions(self, sequences: Any) -> np.ndarray:
        found = self.check_sequences(sequences)
        self._check_length(found.shape[1])
        out = np.empty((*found.shape, self.alphabet))
        _predictions(found, self.depth, self.alpha, out)
        return out

    def log_ages(self, sequences: Any) -> np.ndarray:
        """Posterior mean of log2(1 + m), where m is the age of the next symbol's segment: its number of earlier
        symbols.

        Args:
            sequences: `(B, T)` or `(T,)` integers.

        Returns:
            `(B, T)`; entry t is the belief before symbol t is seen.
        """
        found = self.check_sequences(sequences)
        self._check_length(found.shape[1])
        out = np.empty(found.shape)
        _log_ages(found, self.depth, self.alpha, self.alphabet, out)
        return out

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
def _predict(odds, counts, alpha, chances):
    """Fill `chances[j]` with the prediction inside the block of level j."""
    depth, A = odds.size - 1, chances.shape[1]
    for j in range(depth, -1, -1):
        seen = counts[j].sum()
        share = 1.0 / (1.0 + math.exp(-odds[j])) if j < depth else 1.0
        for a in range(A):
            kt = (counts[j, a] + alpha) / (seen + A * alpha)
            chances[j, a] = kt if j == depth else share * kt + (1.0 - share) * chances[j + 1, a]


@compiled()
def _update(symbol, odds, counts, alpha, chances):
    A = chances.shape[1]
    for j in range(odds.size - 1):
        kt = (counts[j, symbol] + alpha) / (counts[j].sum() + A * alpha)
        odds[j] += math.log(kt / chances[j + 1, symbol])
    for j in range(odds.size):
        counts[j, symbol] += 1


@compiled()
def _predictions(sequences, depth, alpha, out):
    A = out.shape[2]
    odds = np.empty(depth + 1)
    counts = np.empty((depth + 1, A), np.int64)
    chances = np.empty((depth + 1, A))
    for b in range(sequences.shape[0]):
        odds[:] = 0.0
        counts[:] = 0
        for t in range(sequences.shape[1]):
            _enter(t, odds, counts)
            _predict(odds, counts, alpha, chances)
            out[b, t] = chances[0]
            _update(sequences[b, t], odds, counts, alpha, chances)


@compiled()
def _log_ages(sequences, depth, alpha, A, out):
    odds = np.empty(depth + 1)
    counts = np.empty((depth + 1, A), np.int64)
    chances = np.empty((depth + 1, A))
    for b in range(sequences.shape[0]):
        odds[:] = 0.0
        counts[:] = 0
        for t in range(sequences.shape[1]):
            _enter(t, odds, counts)
            left, out[b, t] = 1.0, 0.0  # probability not yet assigned to unsplit blocks
            for j in range(depth + 1):
                share = 1.0 / (1.0 + math.exp(-odds[j])) if j < depth else 1.0
                out[b, t] += left * share * math.log2(1.0 + counts[j].sum())
                left *= 1.0 - share
            _predict(odds, counts, alpha, chances)
            _update(sequences[b, t], odds, counts, alpha, chances)
