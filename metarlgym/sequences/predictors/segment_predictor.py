"""Base class of the exact predictors of piecewise i.i.d. sequences."""

from __future__ import annotations

from typing import Any

import numpy as np

from metarlgym.sequences.predictors.base import Predictor

NO_AGES = np.empty((0, 0))
"""Passed instead of an array for the ages where they are not wanted."""


class SegmentPredictor(Predictor):
    """Predicts sequences of segments, and infers the age of the current segment.

    A subclass defines `reset`, `predict`, `update`, `_check_length` and `_run`.
    """

    def predictions(self, sequences: Any) -> np.ndarray:
        found = self._checked(sequences)
        out = np.empty((*found.shape, self.alphabet))
        self._run(found, out, NO_AGES)
        return out

    def log_ages(self, sequences: Any) -> np.ndarray:
        """Posterior mean of log2(1 + m), where m is the age of the next symbol's segment: its number of earlier
        symbols.

        Args:
            sequences: `(B, T)` or `(T,)` integers.

        Returns:
            `(B, T)`; entry t is the belief before symbol t is seen.
        """
        found = self._checked(sequences)
        ages = np.empty(found.shape)
        self._run(found, np.empty((*found.shape, self.alphabet)), ages)
        return ages

    def _checked(self, sequences: Any) -> np.ndarray:
        found = self.check_sequences(sequences)
        self._check_length(found.shape[1])
        return found

    def _check_length(self, length: int) -> None:
        """Raise `ConfigError` if sequences of this length are beyond the predictor."""
        raise NotImplementedError

    def _run(self, sequences: np.ndarray, out: np.ndarray, ages: np.ndarray) -> None:
        """Fill `out`, `(B, T, A)`, with predictions and, unless it is empty, `ages`, `(B, T)`, with `log_ages`."""
        raise NotImplementedError
