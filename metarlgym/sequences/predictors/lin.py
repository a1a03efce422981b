"""LIN (Willems 1996, "Coding for a binary independent piecewise-identically-distributed source") and generalizations.

Exact Bayesian prediction when symbols within a segment are i.i.d. under a Dirichlet(alpha) prior and a segment ends
after its m-th symbol with probability `hazard[m]`. There is one hypothesis for each possible start of the current
segment. Willems' linear-complexity weighting (also "Live and Die") has hazard 1/(2m). With other hazards it is Bayesian
online changepoint detection (Adams and MacKay 2007, arXiv:0710.3742). The t-th symbol takes O(t) time.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.predictors.base import as_array
from metarlgym.sequences.predictors.segment_predictor import SegmentPredictor
from metarlgym.sequences.sources.base import check_concentration
from metarlgym.sequences.sources.compiled import compiled

NEGLIGIBLE = -700.0
"""Log-weights this far below the largest count as 0 in sums; they are kept, since they may grow again."""
CAPACITY = 64
"""Initial capacity of the online state, in symbols."""


class Renewal(SegmentPredictor):
    """Exact Bayesian prediction for segments whose end depends only on their age.

    Args:
        hazard: `(M + 1,)`; entry m is the probability that a segment ends after its m-th symbol; entry 0 is unused.
            Sequences may have up to M symbols.
        alphabet: number of symbols A.
        alpha: pseudo-count of the segments' KT estimators.
    """

    def __init__(self, hazard: Any, alphabet: int = 2, alpha: float = 0.5) -> None:
        super().__init__(alphabet)
        self.alpha = check_concentration("alpha", alpha)
        found = as_array("hazard", hazard)
        if found.dtype.kind not in "iufb":
            raise ConfigError(f"hazard={str(hazard)[:40]!r} is not a list of numbers: give (M + 1,) of them, M >= 1.")
        self._hazard = found.astype(np.float64)
        if self._hazard.ndim != 1 or self._hazard.size < 2:
            raise ConfigError(f"hazard has shape {self._hazard.shape}: give (M + 1,) numbers, M >= 1.")
        wrong = ~((self._hazard >= 0) & (self._hazard <= 1))
        if wrong.any():
            raise ConfigError(f"hazard holds {self._hazard[wrong][0]}, which is not a probability: keep it in [0, 1].")
        self._logarithms = np.empty((2, 0))
        self._logs, self._starts = np.empty(0), np.empty(0, np.int64)
        self._before = np.empty((0, self.alphabet), np.int64)
        self._alive = self._seen = 0
        self._totals = np.zeros(self.alphabet, np.int64)
        self.reset()

    def reset(self) -> None:
        self._room(CAPACITY, 0)

    def predict(self) -> np.ndarray:
        self._check_length(self._seen + 1)
        probs, weights = np.empty(self.alphabet), np.empty(self._alive)
        state = self._logs, self._starts, self._before, self._alive, self._seen, self._totals
        _predict(*state, self.alpha, weights, probs)
        return probs

    def update(self, symbol: int) -> None:
        self._check_symbol(symbol)
        self._check_length(self._seen + 1)
        if self._seen + 1 >= self._logs.size:
            self._room(2 * self._logs.size, self._alive)
        probs, weights = np.empty(self.alphabet), np.empty(self._alive)
        state = self._logs, self._starts, self._before, self._alive, self._seen, self._totals
        rounding = _predict(*state, self.alpha, weights, probs)
        hazard = self._hazards(self._logs.size)
        tables = self._tables(self._logs.size, hazard)
        self._alive = _update(symbol, *state, self.alpha, hazard, tables, weights, probs, rounding)
        self._seen += 1

    def _run(self, sequences: np.ndarray, out: np.ndarray, ages: np.ndarray) -> None:
        length = sequences.shape[1]
        hazard = self._hazards(length)
        _run(sequences, hazard, self._tables(length, hazard), self.alpha, out, ages)

    def _tables(self, length: int, hazard: np.ndarray) -> np.ndarray:
        """Tables of logarithms for sequences up to `length`, `(2, >= length + 1)`: log(c + alpha) for each count c, and
        the log-probability that a segment continues past its m-th symbol minus the log of the KT denominator."""
        if self._logarithms.shape[1] <= length:
            n = np.arange(length + 1)
            stays = 1 - np.pad(hazard, (0, max(0, length + 1 - hazard.size)))[: length + 1]
            with np.errstate(divide="ignore", invalid="ignore"):
                shares = np.log(stays / (n - 1 + self.alphabet * self.alpha))
            self._logarithms = np.stack([np.log(n + self.alpha), shares])
        return self._logarithms

    def _hazards(self, length: int) -> np.ndarray:
        """The first `length + 1` or more hazards."""
        return self._hazard

    def _check_length(self, length: int) -> None:
        if length >= self._hazards(length).size:
            raise ConfigError(
                f"T={length} is beyond hazard, which holds {self._hazard.size - 1}: give one for each age."
            )

    def _room(self, capacity: int, alive: int) -> None:
        """Allocate space for `capacity` symbols, keeping the first `alive` hypotheses; 0 starts from scratch."""
        logs, starts = np.zeros(capacity), np.zeros(capacity, np.int64)
        before = np.zeros((capacity, self.alphabet), np.int64)
        if alive:
            logs[:alive], starts[:alive], before[:alive] = (
                self._logs[:alive],
                self._starts[:alive],
                self._before[:alive],
            )
        else:
            self._alive, self._seen, self._totals = 1, 0, np.zeros(self.alphabet, np.int64)
        self._logs, self._starts, self._before = logs, starts, before


class LIN(Renewal):
    """Willems' linear-complexity weighting: after m symbols a segment ends with probability 1/(2m).

    Args:
        alphabet: number of symbols A.
        alpha: pseudo-count of the segments' KT estimators.
    """

    def __init__(self, alphabet: int = 2, alpha: float = 0.5) -> None:
        super().__init__(np.full(2, 0.5), alphabet, alpha)

    def _hazards(self, length: int) -> np.ndarray:
        if self._hazard.size <= length:
            self._hazard = 0.5 / np.maximum(1, np.arange(max(2 * length, 1024)))
        return self._hazard


# A hypothesis has a log-probability, the time at which its segment began, and the counts of all symbols before that.
# `alive` of them are kept; only impossible ones are dropped.


@compiled()
def _predict(logs, starts, before, alive, seen, totals, alpha, weights, probs):
    """Fill `weights` (posterior of the hypotheses) and `probs`. Returns the log of the sum of the weights, which is 0
    up to rounding; it is subtracted at every step, so that rounding errors do not accumulate."""
    A = totals.size
    probs[:] = 0.0
    high = -np.inf
    for k in range(alive):
        high = max(high, logs[k])
    for k in range(alive):
        # Smaller weights would be denormal numbers, which are slow; next to 1 they are negligible.
        weights[k] = w = math.exp(logs[k] - high) if logs[k] - high > NEGLIGIBLE else 0.0
        w /= seen - starts[k] + A * alpha
        for a in range(A):
            probs[a] += w * (totals[a] - before[k, a] + alpha)
    total = probs.sum()  # the sum of the weights, since each hypothesis' probabilities sum to 1
    for a in range(A):
        probs[a] /= total
    for k in range(alive):
        weights[k] /= total
    return high + math.log(total)


@compiled()
def _update(symbol, logs, starts, before, alive, seen, totals, alpha, hazard, tables, weights, probs, rounding):
    """Observe a symbol; `weights`, `probs`, `rounding` come from `_predict`. Returns the number of hypotheses."""
    A = totals.size
    new, kept = 0.0, 0
    given = math.log(probs[symbol]) + rounding
    for k in range(alive):
        m = seen + 1 - starts[k]
        count = totals[symbol] - before[k, symbol]
        if hazard[m] > 0.0:
            new += weights[k] * (count + alpha) / (m - 1 + A * alpha) * hazard[m]
        if hazard[m] < 1.0:
            logs[kept] = logs[k] + tables[0, count] + tables[1, m] - given
            if kept < k:
                starts[kept] = starts[k]
                before[kept] = before[k]
            kept += 1
    totals[symbol] += 1
    if new > 0.0:
        logs[kept] = math.log(new / probs[symbol])
        starts[kept] = seen + 1
        before[kept] = totals
        kept += 1
    return kept


@compiled()
def _log_age(starts, alive, seen, weights):
    """Posterior mean of log2(1 + age of the next symbol's segment); `weights` comes from `_predict`."""
    total = 0.0
    for k in range(alive):
        total += weights[k] * math.log2(1.0 + seen - starts[k])
    return total


@compiled()
def _run(sequences, hazard, tables, alpha, out, ages):
    T, A = sequences.shape[1], out.shape[2]
    logs, weights = np.empty(T + 1), np.empty(T + 1)
    starts, before = np.empty(T + 1, np.int64), np.empty((T + 1, A), np.int64)
    totals = np.empty(A, np.int64)
    for b in range(sequences.shape[0]):
        logs[0], starts[0], alive = 0.0, 0, 1
        before[0] = 0
        totals[:] = 0
        for t in range(T):
            probs, symbol = out[b, t], sequences[b, t]
            rounding = _predict(logs, starts, before, alive, t, totals, alpha, weights, probs)
            if ages.size > 0:
                ages[b, t] = _log_age(starts, alive, t, weights)
            alive = _update(
                symbol, logs, starts, before, alive, t, totals, alpha, hazard, tables, weights, probs, rounding
            )
