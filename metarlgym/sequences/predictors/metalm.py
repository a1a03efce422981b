"""Exact prediction of MetaLM given the dictionary: a lower bound on the loss of every learner.

A Bayesian filter over the elements. Separators are never noised, so each one marks the end of an element, after which
all elements are equally likely again. Between separators, all elements that are still possible are at the same
position.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.predictors.base import Predictor, as_array
from metarlgym.sequences.sources.compiled import compiled
from metarlgym.sequences.sources.metalm import MASK_SHARE, Dictionary, MetaLM


def known_dictionary(source: MetaLM, start: int, count: int, split: str, noisy: bool) -> MetaLMFilter:
    """The exact predictor for a range of a source's sequences, given the language of each."""
    return MetaLMFilter(source, source.dictionaries(start, count, split), noisy)


class MetaLMFilter(Predictor):
    """Predicts the next clean symbol of a MetaLM sequence from the noisy symbols so far, given the dictionary.

    Args:
        source: defines V, e and, if it is fixed, the dictionary.
        dictionary: one language, or one per sequence; `source.dictionaries(...)` creates them.
        noisy: predict the next symbol as observed, with noise, instead of the clean one.

    `log_loss(x, y)` on a sample's input and label gives the loss at each position.
    """

    def __init__(self, source: MetaLM, dictionary: Dictionary | None = None, noisy: bool = False) -> None:
        super().__init__(source.vocab_size)
        book = source.fixed if dictionary is None else dictionary
        if book is None:
            raise ConfigError(
                "dictionary=None: this source draws one for each sequence; give source.dictionaries(...)."
            )
        if not isinstance(book, Dictionary):
            raise ConfigError(f"dictionary is a {type(book).__name__}: give source.dictionaries(...).")
        if not 1 <= book.symbols.min() <= book.symbols.max() < source.V:
            worst = book.symbols.min() if book.symbols.min() < 1 else book.symbols.max()
            raise ConfigError(f"dictionary holds {worst}: symbols are 1..{source.V - 1} with V={source.V}.")
        self._book = book
        self._separator = source.separator
        self._noise = np.array(
            [
                MASK_SHARE * source.e,  # observed as 0
                (1 - MASK_SHARE) * source.e / (source.V - 1),  # observed as one particular other symbol
                1 - source.e + (1 - MASK_SHARE) * source.e / (source.V - 1),  # observed unchanged
            ]
        )
        self._noisy = noisy
        self.reset()

    def reset(self) -> None:
        self._logs = np.zeros(self._book.offsets.shape[1] - 1)
        self._place = 0

    def predict(self) -> np.ndarray:
        probs = np.empty(self.alphabet)
        _predict(self._logs, self._place, *self._only(), self._separator, self._noise, self._noisy, probs)
        return probs

    def update(self, symbol: int) -> None:
        self._check_symbol(symbol)
        self._place = _update(symbol, self._logs, self._place, *self._only(), self._separator, self._noise)
        if self._place < 0:
            self.reset()
            raise ConfigError(f"symbol={symbol} cannot follow in a sequence of this dictionary: check the dictionary.")

    def _only(self) -> tuple[np.ndarray, np.ndarray]:
        """The language for online prediction, which supports only one."""
        if len(self._book.symbols) > 1:
            raise ConfigError(
                f"dictionary holds {len(self._book.symbols)} languages: one sequence is followed symbol by symbol, so "
                "give that of one; or use log_loss or predictions."
            )
        return self._book.symbols[0], self._book.offsets[0]

    def predictions(self, sequences: Any, after: bool = False) -> np.ndarray:
        """As `Predictor.predictions`. With `after`, entry t is the distribution of the clean symbol t + 1 given symbols
        0..t, that is, of MetaLM's label t."""
        found = self.check_sequences(sequences)
        return self._run(found, self._books(len(found), slice(0, len(found))), int(after))

    def log_loss(self, sequences: Any, labels: Any = None) -> np.ndarray:
        if labels is None and not self._noisy:
            raise ConfigError("labels=None: what is predicted is the clean symbol; give labels, or set noisy=True.")
        found = self.check_sequences(sequences)
        wanted = found if labels is None else self.check_sequences(labels, "labels")
        if wanted.shape != found.shape:
            raise ConfigError(f"labels has shape {wanted.shape}: it must have that of sequences, {found.shape}.")
        out = np.empty(found.shape)
        for part in self._chunks(found):
            probs = self._run(found[part], self._books(len(found), part), 0 if labels is None else 1)
            with np.errstate(divide="ignore"):
                out[part] = -np.log(np.take_along_axis(probs, wanted[part][..., None], 2)[..., 0])
        return out

    def fill(self, sequences: Any, places: Any) -> np.ndarray:
        """Distribution of the clean symbol at one hidden position of each sequence, given all other symbols.

        Args:
            sequences: `(B, T)`; the symbol at the hidden position is ignored.
            places: `(B,)`.

        Returns:
            `(B, alphabet)` float64.
        """
        found = self.check_sequences(sequences)
        at = as_array("places", places)
        if at.shape != found.shape[:1] or at.dtype.kind not in "iu" or not ((at >= 0) & (at < found.shape[1])).all():
            raise ConfigError(f"places={places!r} must hold one place of 0..{found.shape[1] - 1} for each sequence.")
        out = np.empty((len(found), self.alphabet))
        book = self._books(len(found), slice(0, len(found)))
        _fill(found, at.astype(np.int64), *book, self._separator, self._noise, out)
        if not (out.sum(1) > 0).all():
            b = int((out.sum(1) > 0).argmin())
            raise ConfigError(f"sequences[{b}] cannot be of this dictionary: check the dictionary, V and e.")
        return out / out.sum(1, keepdims=True)

    def _run(self, sequences: np.ndarray, book: Dictionary, ahead: int = 0) -> np.ndarray:
        """Predictions before each symbol, or after it if `ahead` is 1."""
        out = np.empty((*sequences.shape, self.alphabet))
        wrong = _predictions(sequences, *book, self._separator, self._noise, self._noisy, ahead, out)
        if wrong >= 0:
            b, t = divmod(wrong, sequences.shape[1])
            raise ConfigError(
                f"sequences[{b}, {t}]={sequences[b, t]} cannot follow in a sequence of this dictionary: check that the "
                "dictionary, V and e are those of the sequences, and that each begins at the start of an element."
            )
        return out

    def _books(self, count: int, part: slice) -> Dictionary:
        symbols, offsets = self._book
        if len(symbols) == 1:
            size = len(range(count)[part])
            symbols = np.ascontiguousarray(np.broadcast_to(symbols, (size, symbols.shape[1])))
            return Dictionary(symbols, np.ascontiguousarray(np.broadcast_to(offsets, (size, offsets.shape[1]))))
        if len(symbols) != count:
            raise ConfigError(f"dictionary holds {len(symbols)} languages for {count} sequences: give 1 or {count}.")
        return Dictionary(np.ascontiguousarray(symbols[part]), np.ascontiguousarray(offsets[part]))


@compiled()
def _predict(logs, place, symbols, offsets, separator, noise, noisy, probs):
    probs[:] = 0.0
    high, total, content = logs.max(), 0.0, 0.0
    for k in range(logs.size):
        weight = math.exp(logs[k] - high)
        total += weight
        at = offsets[k] + place
        if at < offsets[k + 1]:
            probs[symbols[at]] += weight
            content += weight
        elif at == offsets[k + 1]:
            probs[separator] += weight
    for a in range(probs.size):
        probs[a] /= total
    if noisy:
        content /= total
        for a in range(1, separator - 1):
            probs[a] = probs[a] * (noise[2] - noise[1]) + content * noise[1]
        probs[0] = content * noise[0]


@compiled()
def _update(symbol, logs, place, symbols, offsets, separator, noise):
    """Observe a symbol; returns the new position in the element, or -1 if no element allows the symbol."""
    possible = False
    for k in range(logs.size):
        at = offsets[k] + place
        if symbol == separator:
            possible = possible or (logs[k] > -np.inf and at == offsets[k + 1])
            continue
        likelihood = 0.0
        if at < offsets[k + 1] and symbol < separator - 1:
            likelihood = noise[0] if symbol == 0 else noise[2] if symbol == symbols[at] else noise[1]
        logs[k] = logs[k] + math.log(likelihood) if likelihood > 0.0 else -np.inf
    if symbol == separator:
        logs[:] = 0.0
        return 0 if possible else -1
    high = logs.max()
    if high == -np.inf:
        return -1
    for k in range(logs.size):
        logs[k] -= high
    return place + 1


@compiled()
def _predictions(sequences, symbols, offsets, separator, noise, noisy, ahead, out):
    """Fill `out`; returns the flat index of the first impossible symbol, or -1."""
    B, T = sequences.shape
    logs = np.empty(offsets.shape[1] - 1)
    for b in range(B):
        logs[:] = 0.0
        place = 0
        for t in range(T):
            if ahead == 0:
                _predict(logs, place, symbols[b], offsets[b], separator, noise, noisy, out[b, t])
            place = _update(sequences[b, t], logs, place, symbols[b], offsets[b], separator, noise)
            if place < 0:
                return b * T + t
            if ahead == 1:
                _predict(logs, place, symbols[b], offsets[b], separator, noise, noisy, out[b, t])
    return -1


@compiled()
def _fill(sequences, places, symbols, offsets, separator, noise, out):
    """Fill `out` with weights of the clean symbols at the hidden positions; rows without a possible symbol are 0."""
    B, T = sequences.shape
    n = offsets.shape[1] - 1
    logs, trial = np.empty(n), np.empty(n)
    probs, ahead = np.empty(out.shape[1]), np.empty(out.shape[1])
    for b in range(B):
        logs[:] = 0.0
        place = 0
        for t in range(places[b]):
            place = _update(sequences[b, t], logs, place, symbols[b], offsets[b], separator, noise)
            if place < 0:
                break
        out[b] = -np.inf
        if place >= 0:
            _predict(logs, place, symbols[b], offsets[b], separator, noise, False, probs)
            for a in range(out.shape[1]):
                if probs[a] > 0.0:
                    # The elements that remain possible if the clean symbol is a.
                    now = 0 if a == separator else place + 1
                    for k in range(n):
                        at = offsets[b, k] + place
                        fits = a == separator or (at < offsets[b, k + 1] and symbols[b, at] == a)
                        trial[k] = 0.0 if a == separator else logs[k] if fits else -np.inf
                    total = math.log(probs[a])
                    for t in range(places[b] + 1, T):
                        _predict(trial, now, symbols[b], offsets[b], separator, noise, True, ahead)
                        likelihood = ahead[sequences[b, t]]
                        if likelihood == 0.0:
                            total = -np.inf
                            break
                        total += math.log(likelihood)
                        now = _update(sequences[b, t], trial, now, symbols[b], offsets[b], separator, noise)
                    out[b, a] = total
        high = out[b].max()
        for a in range(out.shape[1]):
            out[b, a] = math.exp(out[b, a] - high) if high > -np.inf else 0.0
