"""KT: the Krichevsky-Trofimov estimator (1981), for any alphabet.

`p(x) = (count of x + alpha) / (symbols seen + A alpha)`: Bayes-optimal for i.i.d. symbols under a Dirichlet(alpha)
prior; alpha = 1/2 is the published estimator.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.predictors.base import Predictor, as_array
from metarlgym.sequences.sources.base import check_concentration, check_whole
from metarlgym.sequences.sources.compiled import compiled


class KT(Predictor):
    """The KT estimator.

    Args:
        alphabet: number of symbols A.
        alpha: pseudo-count of each symbol.
        window: count only the last `window` symbols; None counts all.
    """

    def __init__(self, alphabet: int = 2, alpha: float = 0.5, window: int | None = None) -> None:
        super().__init__(alphabet)
        self.alpha = check_concentration("alpha", alpha)
        self.window = None if window is None else check_whole("window", window, 1)
        self.reset()

    def reset(self) -> None:
        self._counts = np.zeros(self.alphabet, np.int64)
        self._recent: deque[int] = deque()

    def predict(self) -> np.ndarray:
        return (self._counts + self.alpha) / (self._counts.sum() + self.alphabet * self.alpha)

    def update(self, symbol: int) -> None:
        self._counts[self._check_symbol(symbol)] += 1
        if self.window is not None:
            self._recent.append(symbol)
            if len(self._recent) > self.window:
                self._counts[self._recent.popleft()] -= 1

    def predictions(self, sequences: Any, switches: Any = None) -> np.ndarray:
        """As `Predictor.predictions`. With `switches`, `(B, T)` bool, counts are reset where it is True, as for an
        oracle that knows the switch points."""
        found = self.check_sequences(sequences)
        given = np.zeros(found.shape) if switches is None else as_array("switches", switches)
        marks = np.ascontiguousarray(given, np.bool_)
        if marks.shape != found.shape:
            raise ConfigError(f"switches has shape {marks.shape}: it must have that of sequences, {found.shape}.")
        out = np.empty((*found.shape, self.alphabet))
        _predictions(found, marks, self.alpha, self.window or 0, out)
        return out


@compiled()
def _predictions(sequences, switches, alpha, window, out):
    A = out.shape[2]
    counts = np.empty(A, np.int64)
    for b in range(sequences.shape[0]):
        counts[:] = 0
        seen = 0
        for t in range(sequences.shape[1]):
            if switches[b, t]:
                counts[:] = 0
                seen = 0
            for a in range(A):
                out[b, t, a] = (counts[a] + alpha) / (seen + A * alpha)
            counts[sequences[b, t]] += 1
            seen += 1
            if window > 0 and seen > window:
                counts[sequences[b, t - window]] -= 1
                seen -= 1
