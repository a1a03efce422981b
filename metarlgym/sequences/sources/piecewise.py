"""Piecewise-stationary sources: i.i.d. symbols whose distribution changes at hidden times.

The sources of Genewein et al. 2023 ("Memory-based meta-learning on non-stationary distributions", arXiv:2302.03067),
for any alphabet. Each segment has its own distribution, drawn from a Dirichlet; a law determines where segments end:

- `static`: one segment.
- `regular`: all of length `period`.
- `random`: lengths uniform over `low`..`high`.
- `ptw`: the prior of Partition Tree Weighting (Veness et al. 2013, arXiv:1210.3572): blocks of 2^d, each split in half
  with probability 1/2, down to single symbols.
- `lin`: the prior of Willems' linear-complexity predictor (1996): a segment ends after its m-th symbol with probability
  1/(2m).

Switch points are drawn for each sequence (the original shares them within a batch for some laws), gaps are at least 1
(in the original, a gap of 0 ends all switching), and the true distribution at every step is returned, for exact regret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.sources.base import Source, check_concentration, check_memory, check_whole
from metarlgym.sequences.sources.compiled import compiled
from metarlgym.sequences.sources.random_streams import below, dirichlet, open_stream, uniform

MOST = 2**62
LAWS = ("static", "regular", "random", "ptw", "lin")
OWN = {"period": "regular", "low": "random", "high": "random"}
"""Settings that apply to a single law."""


class PiecewiseBatch(NamedTuple):
    """B sequences and their ground truth."""

    tokens: np.ndarray
    """`(B, T)` int64."""
    switches: np.ndarray
    """`(B, T)` bool: a new segment begins here; False at t = 0."""
    theta: np.ndarray
    """`(B, T, A)` float64: the true distribution of each token. Entries may be exactly 0 or 1."""


class Piecewise(Source):
    """A source of piecewise-stationary sequences.

    Args:
        law: `static`, `regular`, `random`, `ptw` or `lin`.
        T: length of a sequence.
        alphabet: symbols A.
        concentration: concentration of the segments' Dirichlet prior, one number or A numbers; 1/2 is the prior of KT.
        period: segment length of `regular`; unused by other laws.
        low: shortest segment of `random`; unused by other laws.
        high: longest segment of `random`; unused by other laws.
        seed: seed of the sequences; a number, a numpy Generator, or None for a random one.
    """

    def __init__(
        self,
        law: str = "ptw",
        T: int = 256,
        alphabet: int = 2,
        concentration: float | Sequence[float] = 0.5,
        period: int = 20,
        low: int = 1,
        high: int = 39,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(seed)
        if law not in LAWS:
            raise ConfigError(f"law={law!r} is not known: use one of {', '.join(LAWS)}.")
        self.law = law
        self.T = self.length = check_whole("T", T, 1)
        self.alphabet = self.vocab_size = check_whole("alphabet", alphabet, 2)
        several = isinstance(concentration, list | tuple | np.ndarray)
        each: list[Any] = list(concentration) if several else [concentration] * alphabet  # type: ignore[arg-type]
        if len(each) != alphabet:
            raise ConfigError(f"concentration has {len(each)} numbers: give one, or one for each of the {alphabet}.")
        self.concentration = np.array([check_concentration("concentration", c) for c in each])
        self.period = check_whole("period", period, 1, MOST)
        self.low = check_whole("low", low, 1, MOST)
        self.high = check_whole("high", high, 1, MOST)
        if self.high < self.low:
            raise ConfigError(f"low={low} is above high={high}: exchange them.")
        self.depth = max(0, (self.T - 1).bit_length())
        """Tree depth of `ptw`: the smallest d with 2^d >= T."""
        check_memory("T", T, 8.0 * T * (alphabet + 2), "one sequence")

    exact = "metarlgym.sequences.predictors.exact:known_law"
    references = "metarlgym.sequences.predictors.exact:universal"
    in_segments = True
    optional_columns = ("theta",)

    @property
    def exact_name(self) -> str:
        return f"exact predictor of {self.law}"

    @property
    def cells(self) -> int:
        return self.length * (self.vocab_size + 2)

    def columns(self, start: int, count: int, split: str = "train", optional: bool = False) -> dict[str, np.ndarray]:
        batch = self.batch(start, count, split)
        found = {"tokens": batch.tokens, "switches": batch.switches}
        return found | {"theta": batch.theta} if optional else found

    @classmethod
    def unused(cls, arguments: Mapping[str, Any], split: str) -> dict[str, str]:
        law = arguments.get("law", "ptw")
        return {name: f"it is for law {own!r}" for name, own in OWN.items() if name in arguments and own != law}

    def batch(self, start: int, count: int, split: str = "train") -> PiecewiseBatch:
        """Sequences `start` to `start + count - 1` with their ground truth."""
        self._check_range(start, count)
        check_memory("batch_size", count, 8.0 * count * self.T * (self.alphabet + 2), "the batch")
        found = PiecewiseBatch(
            np.empty((count, self.T), np.int64),
            np.zeros((count, self.T), np.bool_),
            np.empty((count, self.T, self.alphabet)),
        )
        numbers = np.array([self.period, self.low, self.high, self.depth])
        _write(self._key(split, self.law), start, LAWS.index(self.law), numbers, self.concentration, *found)
        return found

    def tokens(self, start: int, count: int, split: str = "train") -> np.ndarray:
        return self.batch(start, count, split).tokens

    def hazard(self) -> np.ndarray | None:
        """Probability that a segment ends after its m-th symbol, `(T + 1,)` by m; entry 0 is 0. None for `ptw`, whose
        segment ends depend on absolute time rather than on age."""
        m = np.arange(self.T + 1)
        if self.law == "static":
            return np.zeros(self.T + 1)
        if self.law == "regular":
            return np.where((m > 0) & (m % self.period == 0), 1.0, 0.0)
        if self.law == "random":
            return np.where((m >= self.low) & (m <= self.high), 1 / np.maximum(1, self.high - m + 1), 0.0)
        return np.where(m > 0, 0.5 / np.maximum(1, m), 0.0) if self.law == "lin" else None


@compiled()
def _mark_switches(state, law, numbers, switches):
    T = switches.size
    period, low, high, depth = numbers
    if law == 1 or law == 2:
        t = period if law == 1 else low + below(state, high - low + 1)
        while t < T:
            switches[t] = True
            t += period if law == 1 else low + below(state, high - low + 1)
    elif law == 3:
        # The left half is processed first, so at most one right half per level is pending.
        starts, sizes = np.empty(depth + 2, np.int64), np.empty(depth + 2, np.int64)
        starts[0], sizes[0], waiting = 0, 2**depth, 1
        while waiting > 0:
            waiting -= 1
            t, size = starts[waiting], sizes[waiting]
            if t >= T:
                continue
            if size > 1 and uniform(state) < 0.5:
                starts[waiting], sizes[waiting] = t + size // 2, size // 2
                starts[waiting + 1], sizes[waiting + 1] = t, size // 2
                waiting += 2
            elif t > 0:
                switches[t] = True
    elif law == 4:
        m = 1
        for t in range(1, T):
            if uniform(state) < 0.5 / m:
                switches[t] = True
                m = 0
            m += 1


@compiled()
def _write(key, start, law, numbers, concentration, tokens, switches, theta):
    state = np.empty(2, np.uint64)
    A = concentration.size
    for b in range(tokens.shape[0]):
        open_stream(key, start + b, state)
        _mark_switches(state, law, numbers, switches[b])
        for t in range(tokens.shape[1]):
            if t == 0 or switches[b, t]:
                dirichlet(state, concentration, theta[b, t])
            else:
                theta[b, t] = theta[b, t - 1]
            u = uniform(state)
            symbol, last, total = -1, 0, 0.0
            for a in range(A):  # never a symbol of probability 0, even if the sum is rounded
                if theta[b, t, a] > 0.0:
                    last = a
                    total += theta[b, t, a]
                    if u < total:
                        symbol = a
                        break
            tokens[b, t] = symbol if symbol >= 0 else last
