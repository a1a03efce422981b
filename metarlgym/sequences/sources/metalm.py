"""MetaLM: noisy sequences of repeating random elements, where each sequence has its own language.

Reimplements the generator of PaddlePaddle's MetaGym (`metagym/metalm`, at the commit whose README documents
`meta-lm-v0`). Where that README and the code disagree, this follows the code:

- Content symbols: the README says 1..V; the code draws 1..V-1 (the upper bound of `randint` is exclusive), so id V is
  never used.
- Separator: not in the README; the code writes V+1 after every element, in input and label, never noised.
- Noise: the README says "other numbers or 0"; in the code a symbol is corrupted with probability e; it then becomes 0
  with probability 0.3, otherwise uniform over 1..V-1, which may be the original symbol.
- Element length: the README says Poisson(l), the code max(3, Poisson(l)).
- Input and label: in the README x and y refer to the same position; in the code x is noisy and not shifted, and `y[i]`
  is the clean symbol at position i + 1.
- Default L: 4096 in the README and on the original's command line, 2048 in its class; here 4096.

Elements are drawn uniformly from all n (later commits of the original never draw the last). The dictionary is redrawn
for every sequence, unless `elements` fixes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.sources.alias import alias_draw, alias_tables
from metarlgym.sequences.sources.base import Source, check_memory, check_number, check_whole
from metarlgym.sequences.sources.compiled import compiled
from metarlgym.sequences.sources.random_streams import below, open_stream, uniform

MASK = 0
MASK_SHARE = 0.3
"""Fraction of the corrupted symbols that become 0."""
MIN_ELEMENT = 3
DICTIONARY_CELLS = 2**24
"""Maximum number of dictionary symbols held in memory."""
RUN = 63
"""Longest run of clean symbols covered by one draw."""


class Dictionary(NamedTuple):
    """Elements of B languages, concatenated."""

    symbols: np.ndarray
    """`(B, S)` int64; element k of language b is `symbols[b, offsets[b, k]:offsets[b, k + 1]]`, the rest is padding."""
    offsets: np.ndarray
    """`(B, n + 1)` int64."""

    def elements(self, b: int = 0) -> list[np.ndarray]:
        """The elements of language `b`, one array each."""
        return [self.symbols[b, i:j] for i, j in zip(self.offsets[b], self.offsets[b, 1:], strict=False)]


class MetaLM(Source):
    """MetaLM(V, n, l, e, L).

    Args:
        V: content symbols are 1..V-1, the separator is V+1; `vocab_size` is V+2.
        n: elements of a language.
        l: mean length of an element before the minimum of 3.
        e: probability that a symbol is corrupted.
        L: length of a sequence.
        seed: seed of languages and sequences; a number, a numpy Generator, or None for a random one.
        elements: a fixed dictionary for all samples, n sequences of symbols in 1..V-1; n and l then describe it.
    """

    def __init__(
        self,
        V: int = 64,
        n: int = 10,
        l: float = 64,  # noqa: E741 (the published name)
        e: float = 0.1,
        L: int = 4096,
        seed: int | np.random.Generator | None = None,
        elements: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(seed)
        self.V = check_whole("V", V, 2, 2**31, ": symbols are 1..V-1")
        self.n = check_whole("n", n, 1)
        self.l = check_number("l", l, 0, math.inf, open_low=True)
        self.e = check_number("e", e, 0, 1)
        self.L = self.length = check_whole("L", L, 1)
        self.vocab_size = self.V + 2
        self.separator = self.V + 1
        check_memory("L", L, 3 * 8.0 * L, "one sequence")
        check_memory("l", l, 8.0 * self.n * self.l, "one language")
        self.fixed = None if elements is None else self._fix(elements)
        """The dictionary of all samples, if fixed."""
        if self.fixed is not None:
            self.n = self.fixed.offsets.shape[1] - 1
            self.l = float(self.fixed.offsets[0, -1] / self.n)

    @cached_property
    def _gaps(self) -> np.ndarray:
        return _gap_table(self.e)

    @cached_property
    def _lengths(self) -> np.ndarray:
        return _poisson_table(self.l) if self.fixed is None else np.zeros(0)

    exact = "metarlgym.sequences.predictors.metalm:known_dictionary"
    labelled = True

    @property
    def exact_name(self) -> str:
        return "known dictionary"

    def columns(self, start: int, count: int, split: str = "train", optional: bool = False) -> dict[str, np.ndarray]:
        x, y = self.batch(start, count, split)
        return {"tokens": x, "labels": y}

    def words(self) -> list[str]:
        """The same words as in the game MetaLM-v0; V is never used."""
        return ["_", *map(str, range(1, self.V)), str(self.V), "|"]

    @classmethod
    def unused(cls, arguments: Mapping[str, Any], split: str) -> dict[str, str]:
        if arguments.get("elements") is None:
            return {}
        return {name: "elements are given" for name in ("n", "l") if name in arguments}

    def data_generator(self) -> tuple[np.ndarray, np.ndarray]:
        """The next sample: input and label, each `(L,)` int64."""
        x, y = self.batch(self._advance(1), 1)
        return x[0], y[0]

    def batch_generator(self, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """The next `batch_size` samples: inputs and labels, each `(batch_size, L)` int64."""
        return self.batch(self._advance(batch_size), batch_size)

    def batch(self, start: int, count: int, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
        """Samples `start` to `start + count - 1`: inputs and labels, each `(count, L)` int64."""
        return self._make(start, count, split, self._gaps)

    def tokens(self, start: int, count: int, split: str = "train") -> np.ndarray:
        return self.batch(start, count, split)[0]

    def clean(self, start: int, count: int, split: str = "train") -> np.ndarray:
        """The inputs of the samples without noise, `(count, L)` int64."""
        return self._make(start, count, split, _gap_table(0.0))[0]

    def _make(self, start: int, count: int, split: str, gaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._check_range(start, count)
        check_memory("batch_size", count, 16.0 * count * self.L, "the batch")
        x, y = np.empty((2, count, self.L), np.int64)
        step = int(min(256, max(1, DICTIONARY_CELLS // (self.n * max(self.l, MIN_ELEMENT)))))
        for first in range(0, count, step):
            part = slice(first, min(count, first + step))
            book = self.dictionaries(start + first, part.stop - first, split)
            _write(self._keys(split), start + first, *book, self.V, gaps, x[part], y[part])
        return x, y

    def dictionaries(self, start: int, count: int, split: str = "train") -> Dictionary:
        """The languages of samples `start` to `start + count - 1`."""
        if self.fixed is not None:
            symbols, offsets = self.fixed
            return Dictionary(
                np.broadcast_to(symbols, (count, symbols.shape[1])),
                np.broadcast_to(offsets, (count, offsets.shape[1])),
            )
        offsets = np.zeros((count, self.n + 1), np.int64)
        key = self._key(split, "language")
        _draw_lengths(key, start, self._lengths, offsets)
        symbols = np.ones((count, int(offsets[:, -1].max())), np.int64)
        _draw_symbols(key, start, offsets, self.V, symbols)
        return Dictionary(symbols, offsets)

    def language(self, index: int = 0, split: str = "train") -> list[list[int]]:
        """The elements of sample `index` as plain lists, as accepted by `elements`."""
        return [element.tolist() for element in self.dictionaries(index, 1, split).elements()]

    def _keys(self, split: str) -> np.ndarray:
        return np.array([self._key(split, "sequence"), self._key(split, "noise")])

    def _fix(self, elements: Sequence[Sequence[int]]) -> Dictionary:
        if not isinstance(elements, Sequence | np.ndarray):
            raise ConfigError(f"elements={elements!r} must be a list of elements, each a list of symbols.")
        if not len(elements):
            raise ConfigError("elements=[] holds no element: give at least one.")
        for k, element in enumerate(elements):
            if np.ndim(element) == 0 and not isinstance(element, Sequence):
                raise ConfigError(f"elements[{k}]={element!r} must be a list of symbols.")
            if not len(element):
                raise ConfigError(f"elements[{k}] is empty: give it at least one symbol.")
            for symbol in element:
                check_whole(f"elements[{k}]: symbol", symbol, 1, self.V - 1, ", the content symbols")
        offsets = np.cumsum([0, *map(len, elements)])
        return Dictionary(np.concatenate([np.asarray(s, np.int64) for s in elements])[None], offsets[None])


def _poisson_table(mean: float) -> np.ndarray:
    """Cumulative Poisson probabilities, up to where they reach 1 in float64."""
    most = int(mean + 12 * math.sqrt(mean) + 60)
    k = np.arange(most + 1)
    logs = k * math.log(mean) - mean - np.array([math.lgamma(i + 1.0) for i in k])
    return np.minimum(np.cumsum(np.exp(logs)), 1.0)


# A language's stream yields the n lengths before the symbols, so that the lengths can be drawn on their own.
@compiled()
def _draw_lengths(key, start, table, offsets):
    state = np.empty(2, np.uint64)
    for b in range(offsets.shape[0]):
        open_stream(key, start + b, state)
        for k in range(offsets.shape[1] - 1):
            length = np.searchsorted(table, uniform(state), side="right")
            offsets[b, k + 1] = offsets[b, k] + max(MIN_ELEMENT, length)


@compiled()
def _draw_symbols(key, start, offsets, V, symbols):
    state = np.empty(2, np.uint64)
    n = offsets.shape[1] - 1
    for b in range(offsets.shape[0]):
        open_stream(key, start + b, state)
        for _ in range(n):
            uniform(state)
        for i in range(offsets[b, n]):
            symbols[b, i] = 1 + below(state, V - 1)


def _gap_table(e: float) -> np.ndarray:
    """Alias table of the number of clean symbols before the next corrupted one: 0..RUN-1, or RUN for RUN clean symbols
    after which the next gap is drawn afresh (the gaps are memoryless)."""
    each = (1 - e) ** np.arange(RUN) * e
    return alias_tables(np.append(each, (1 - e) ** RUN)[None])[0]


# Elements and noise have separate streams, so that the clean sequence does not depend on the noise.
@compiled()
def _write(keys, start, symbols, offsets, V, gaps, x, y):
    state, noise_state = np.empty(2, np.uint64), np.empty(2, np.uint64)
    n = offsets.shape[1] - 1
    length = x.shape[1]
    for b in range(x.shape[0]):
        open_stream(keys[0], start + b, state)
        open_stream(keys[1], start + b, noise_state)
        row, label = x[b], y[b]
        corrupt = alias_draw(gaps, uniform(noise_state))
        skips = corrupt == RUN  # no symbol is corrupted there; the next gap begins
        at = 0
        while at <= length:
            k = below(state, n)
            first = offsets[b, k]
            size = offsets[b, k + 1] - first
            end = at + size
            fits = min(end, length)
            row[at:fits] = symbols[b, first : first + fits - at]
            low, high = max(at, 1), min(end, length + 1)
            label[low - 1 : high - 1] = symbols[b, first + low - at : first + high - at]
            if end <= length:
                label[end - 1] = V + 1
                if end < length:
                    row[end] = V + 1
            # Apply the noise right after the element was written, while it is still in the L1 cache.
            while corrupt <= end and corrupt < length:
                if not skips:
                    u = uniform(noise_state)
                    other = 1 + np.int64((u - MASK_SHARE) * ((V - 1) / (1.0 - MASK_SHARE)))
                    noise = min(other, V - 1) * np.int64(
                        u >= MASK_SHARE
                    )  # min: rounding could reach V; the mask symbol is 0
                    row[corrupt] = noise if corrupt < end else V + 1  # separators are never noised
                    corrupt += 1
                gap = alias_draw(gaps, uniform(noise_state))
                skips = gap == RUN
                corrupt += gap
            at = end + 1
