"""Exact prediction of MetaLM for one who knows the dictionary: the floor of every learner's loss on it.

A filter over the elements. A separator is never noised, so it tells that an element has ended and that all are equally
likely again; between separators every element that is still possible stands at the same place.
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
    """The exact predictor of some of a source's sequences, each with the language it was drawn from."""
    return MetaLMFilter(source, source.dictionaries(start, count, split), noisy)


class MetaLMFilter(Predictor):
    """Predicts the next clean symbol of a MetaLM sequence from the noisy symbols so far, knowing the dictionary.

    Args:
        source: gives V and e and, if it has a fixed one, the dictionary.
        dictionary: one language, or as many as there will be sequences; `source.dictionaries(...)` makes them.
        noisy: predict the next symbol as it will be seen, with noise, instead of the clean one.

    `log_loss(x, y)` with a sample's input and label is the loss at each of its places.
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
                MASK_SHARE * source.e,  # seen as 0
                (1 - MASK_SHARE) * source.e / (source.V - 1),  # seen as any one other symbol
                1 - source.e + (1 - MASK_SHARE) * source.e / (source.V - 1),  # seen as it is
            ]
        )
        self._noisy = noisy
        self.reset()

    def reset(self) -> None:
        self._logs = np.zeros(self._book.offsets.shape[1] - 1)
        self._place = 0

    def predict(self) -> np.ndarray:
        chances = np.empty(self.alphabet)
        _predict(self._logs, self._place, *self._only(), self._separator, self._noise, self._noisy, chances)
        return chances

    def update(self, symbol: int) -> None:
        self._check_symbol(symbol)
        self._place = _update(symbol, self._logs, self._place, *self._only(), self._separator, self._noise)
        if self._place < 0:
            self.reset()
            raise ConfigError(f"symbol={symbol} cannot follow in a sequence of this dictionary: check the dictionary.")

    def _only(self) -> tuple[np.ndarray, np.ndarray]:
        """The one language that is followed symbol by symbol."""
        if len(self._book.symbols) > 1:
            raise ConfigError(
                f"dictionary holds {len(self._book.symbols)} languages: one sequence is followed symbol by symbol, so "
                "give that of one; or use log_loss or predictions."
            )
        return self._book.symbols[0], self._book.offsets[0]

    def predictions(self, sequences: Any, after: bool = False) -> np.ndarray:
        """As `Predictor.predictions`; with `after`, entry t is the distribution of the clean symbol t + 1 given symbols
        0..t: what MetaLM's label t is drawn from."""
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
            chances = self._run(found[part], self._books(len(found), part), 0 if labels is None else 1)
            with np.errstate(divide="ignore"):
                out[part] = -np.log(np.take_along_axis(chances, wanted[part][..., None], 2)[..., 0])
        return out

    def fill(self, sequences: Any, places: Any) -> np.ndarray:
        """Distribution of the clean symbol at one hidden place of each sequence, given all its other symbols.

        Args:
            sequences: `(B, T)`; what stands at the hidden place does not matter.
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
        """Predictions before each symbol, or with `ahead` = 1 after it."""
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
def _predict(logs, place, symbols, offsets, separator, noise, noisy, chances):
    chances[:] = 0.0
    high, total, content = logs.max(), 0.0, 0.0
    for k in range(logs.size):
        weight = math.exp(logs[k] - high)
        total += weight
        at = offsets[k] + place
        if at < offsets[k + 1]:
            chances[symbols[at]] += weight
            content += weight
        elif at == offsets[k + 1]:
            chances[separator] += weight
    for a in range(chances.size):
        chances[a] /= total
    if noisy:
        content /= total
        for a in range(1, separator - 1):
            chances[a] = chances[a] * (noise[2] - noise[1]) + content * noise[1]
        chances[0] = content * noise[0]


@compiled()
def _update(symbol, logs, place, symbols, offsets, separator, noise):
    """See a symbol; returns the new place in the element, -1 if no element allows the symbol."""
    possible = False
    for k in range(logs.size):
        at = offsets[k] + place
        if symbol == separator:
            possible = possible or (logs[k] > -np.inf and at == offsets[k + 1])
            continue
        chance = 0.0
        if at < offsets[k + 1] and symbol < separator - 1:
            chance = noise[0] if symbol == 0 else noise[2] if symbol == symbols[at] else noise[1]
        logs[k] = logs[k] + math.log(chance) if chance > 0.0 else -np.inf
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
    """Returns the flat place of the first impossible symbol, or -1."""
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
    """Fill `out` with weights of the clean symbols at the hidden places; a row of 0 where nothing fits."""
    B, T = sequences.shape
    n = offsets.shape[1] - 1
    logs, trial = np.empty(n), np.empty(n)
    chances, ahead = np.empty(out.shape[1]), np.empty(out.shape[1])
    for b in range(B):
        logs[:] = 0.0
        place = 0
        for t in range(places[b]):
            place = _update(sequences[b, t], logs, place, symbols[b], offsets[b], separator, noise)
            if place < 0:
                break
        out[b] = -np.inf
        if place >= 0:
            _predict(logs, place, symbols[b], offsets[b], separator, noise, False, chances)
            for a in range(out.shape[1]):
                if chances[a] > 0.0:
                    # Which elements remain if the clean symbol is a.
                    now = 0 if a == separator else place + 1
                    for k in range(n):
                        at = offsets[b, k] + place
                        fits = a == separator or (at < offsets[b, k + 1] and symbols[b, at] == a)
                        trial[k] = 0.0 if a == separator else logs[k] if fits else -np.inf
                    total = math.log(chances[a])
                    for t in range(places[b] + 1, T):
                        _predict(trial, now, symbols[b], offsets[b], separator, noise, True, ahead)
                        chance = ahead[sequences[b, t]]
                        if chance == 0.0:
                            total = -np.inf
                            break
                        total += math.log(chance)
                        now = _update(sequences[b, t], trial, now, symbols[b], offsets[b], separator, noise)
                    out[b, a] = total
        high = out[b].max()
        for a in range(out.shape[1]):
            out[b, a] = math.exp(out[b, a] - high) if high > -np.inf else 0.0
