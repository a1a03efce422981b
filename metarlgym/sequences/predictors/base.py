"""The predictor interface: online symbol by symbol, or batched over whole sequences."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.sources.base import check_whole

CHUNK_BYTES = 2**28
"""Memory limit for the distributions of one pass of `log_loss`."""


class Predictor:
    """Predicts the distribution of each next symbol, given the symbols before it.

    A subclass sets `alphabet` and defines `reset`, `predict` and `update`, and also `predictions` if there is a faster
    way than calling them in turn.

    Args:
        alphabet: symbols are 0..alphabet-1.
    """

    slow: ClassVar[bool] = False
    """Whether it is written in plain Python, so that only few sequences are practical."""

    def __init__(self, alphabet: int = 2) -> None:
        self.alphabet = check_whole("alphabet", alphabet, 2)

    def reset(self) -> None:
        """Forget everything seen."""
        raise NotImplementedError

    def predict(self) -> np.ndarray:
        """Probabilities of the next symbol, `(alphabet,)` float64, summing to 1. Does not change the state."""
        raise NotImplementedError

    def update(self, symbol: int) -> None:
        """Observe the next symbol."""
        raise NotImplementedError

    def predictions(self, sequences: Any) -> np.ndarray:
        """Predictions at every position of each sequence, from a fresh state.

        Args:
            sequences: `(B, T)` or `(T,)` integers.

        Returns:
            `(B, T, alphabet)` float64: entry t is the distribution of symbol t given symbols 0..t-1.
        """
        found = self.check_sequences(sequences)
        out = np.empty((*found.shape, self.alphabet))
        twin = copy.copy(self)  # leave the online state untouched
        for sequence, row in zip(found, out, strict=True):
            twin.reset()
            for t, symbol in enumerate(sequence):
                row[t] = twin.predict()
                twin.update(int(symbol))
        return out

    def log_loss(self, sequences: Any, labels: Any = None) -> np.ndarray:
        """Log-loss of each symbol in nats, `(B, T)`: -log p(symbol t | symbols 0..t-1).

        With `labels`, `(B, T)`, it is -log p(label t | symbols 0..t) instead: label t is the target after symbol t, as
        in MetaLM.
        """
        found = self.check_sequences(sequences)
        if labels is not None:
            targets = self.check_sequences(labels, "labels")
            if targets.shape != found.shape:
                raise ConfigError(f"labels has shape {targets.shape}: it must have that of sequences, {found.shape}.")
            # The padding makes the predictor read the last symbol and predict one more; the padded value is not used.
            found, targets = np.pad(found, ((0, 0), (0, 1))), np.pad(targets, ((0, 0), (1, 0)))
        else:
            targets = found
        out = np.empty(found.shape)
        for part in self._chunks(found):
            probs = np.take_along_axis(self.predictions(found[part]), targets[part][..., None], 2)[..., 0]
            with np.errstate(divide="ignore"):  # a probability of 0 gives an infinite loss
                out[part] = -np.log(probs)
        return out if labels is None else out[:, 1:]

    def _chunks(self, sequences: np.ndarray) -> Iterator[slice]:
        size = max(1, int(CHUNK_BYTES / (8 * self.alphabet * sequences.shape[1])))
        return (slice(i, i + size) for i in range(0, len(sequences), size))

    def check_sequences(self, sequences: Any, name: str = "sequences") -> np.ndarray:
        """`sequences` as a `(B, T)` int64 array.

        Raises:
            ConfigError: wrong shape, or symbols outside the alphabet.
        """
        found = as_array(name, sequences)
        if found.ndim == 1:
            found = found[None]
        if found.ndim != 2 or found.dtype.kind not in "iub" or found.shape[1] == 0:
            raise ConfigError(f"{name} has shape {found.shape} and type {found.dtype}: give whole numbers, (B, T).")
        if found.size and not 0 <= found.min() <= found.max() < self.alphabet:
            worst = found.min() if found.min() < 0 else found.max()
            raise ConfigError(
                f"{name} holds {worst}: symbols are 0..{self.alphabet - 1} with alphabet={self.alphabet}."
            )
        return np.ascontiguousarray(found, np.int64)

    def _check_symbol(self, symbol: int) -> int:
        return check_whole("symbol", symbol, 0, self.alphabet - 1, f" with alphabet={self.alphabet}")


def as_array(name: str, values: Any) -> np.ndarray:
    """`values` as an array of numbers.

    Raises:
        ConfigError: rows of different lengths.
    """
    try:
        return np.asarray(values)
    except ValueError:
        raise ConfigError(f"{name} has rows of different lengths: give one shape, such as (B, T).") from None


def fill(predictor: Predictor, sequence: Any, place: int) -> np.ndarray:
    """Distribution of the symbol at `place` given all other symbols, before and after it, `(alphabet,)`.

    Applies Bayes' rule to the predictor's probability of the whole sequence under each candidate symbol. `MetaLMFilter`
    has its own `fill`, because there the hidden symbol is a clean one among noisy ones.
    """
    candidates = np.repeat(predictor.check_sequences(sequence)[:1], predictor.alphabet, 0)
    check_whole("place", place, 0, candidates.shape[1] - 1)
    candidates[:, place] = np.arange(predictor.alphabet)
    logs = -predictor.log_loss(candidates).sum(1)
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


def regret(theta: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Expected regret relative to the true source, in nats: KL(theta || predictions) over the last axis.

    Args:
        theta: `(..., A)` true distributions; 0 log 0 counts as 0.
        predictions: `(..., A)`; the regret is infinite where a possible symbol was given probability 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = theta * (np.log(theta) - np.log(predictions))
    return np.where(theta > 0, terms, 0.0).sum(-1)
