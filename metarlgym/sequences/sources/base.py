"""Base class of the sources, with validation of their settings."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.sources.random_streams import MOST_SEED, stream_key
from metarlgym.whole_numbers import check_whole as check_whole

SPLITS = ("train", "eval")
CONCENTRATIONS = (1e-280, 1e100)
"""Smallest and largest Dirichlet concentration. In this range, the sources' logarithms are finite and the predictors
exact: below it, the weights they drop as negligible (e^-700) would matter; above it, sums overflow."""


class Source:
    """A generator of sequences. Sequence `i` of a split depends only on the seed and `i`.

    A subclass defines `tokens`, and `columns` if there is further ground truth about a sequence. `register_source`
    makes it available to commands and configs by name.
    """

    vocab_size: int
    """Symbols are 0..vocab_size-1."""
    length: int
    """Number of symbols per sequence."""
    seed_name: ClassVar[str] = "seed"
    """Name of the argument that seeds the sequences."""
    exact: ClassVar[str] = ""
    """`module:function` that creates the exact predictor, called as `function(source, start, count, split, noisy)` for
    these sequences; empty if none is known. (A name, because predictors import sources.)"""
    references: ClassVar[str] = "metarlgym.sequences.predictors.baselines:cheap_learners"
    """`module:function` that creates the reference predictors by name, called as `function(source)`."""
    labelled: ClassVar[bool] = False
    """Whether each token comes with the clean next token, in the column `labels`."""
    ends_in_target: ClassVar[bool] = False
    """Whether predicting the last token of a sequence is a task of its own."""
    in_segments: ClassVar[bool] = False
    """Whether sequences consist of segments: there is a column `switches`, bool, True where a new segment begins, and
    the exact predictor has `log_ages`."""
    optional_columns: ClassVar[tuple[str, ...]] = ()
    """Columns that are generated only on request."""

    def __init__(self, seed: int | np.random.Generator | None) -> None:
        if isinstance(seed, np.random.Generator):
            seed = int(seed.integers(2**62))
        elif seed is None:
            seed = secrets.randbits(62)
        elif isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            raise ConfigError(f"{self.seed_name}={seed!r} must be a whole number, a numpy Generator or None.")
        self.seed = check_seed(self.seed_name, seed)
        """Seed of the samples; random if none was given."""
        self._next = 0

    def tokens(self, start: int, count: int, split: str = "train") -> np.ndarray:
        """Sequences `start` to `start + count - 1` of a split, shape `(count, length)`, int64."""
        raise NotImplementedError

    def columns(self, start: int, count: int, split: str = "train", optional: bool = False) -> dict[str, np.ndarray]:
        """Sequences and their ground truth, by column; the first axis of each array indexes the sequences.

        Integers are symbols, floats are probabilities, and bool arrays mark positions. The first column is `tokens`.
        """
        return {"tokens": self.tokens(start, count, split)}

    @property
    def cells(self) -> int:
        """Number of values generated per sequence."""
        return 2 * self.length

    @property
    def exact_name(self) -> str:
        """Description of the exact predictor, for tables."""
        return "exact predictor"

    def words(self) -> list[str] | None:
        """Text of each symbol for a language model; None to write symbols as numbers."""
        return None

    @classmethod
    def unused(cls, arguments: Mapping[str, Any], split: str) -> dict[str, str]:
        """Arguments that have no effect on a split given the other arguments, each with the reason."""
        return {}

    def _key(self, split: str, purpose: str) -> np.uint64:
        if split not in SPLITS:
            raise ConfigError(f"split={split!r} is not known: use 'train' or 'eval'.")
        return stream_key(self.seed, type(self).__name__, split, purpose)

    @staticmethod
    def _check_range(start: int, count: int) -> None:
        check_whole("start", start, 0, 2**62)
        check_whole("count", count, 0, 2**62)

    def _advance(self, count: int) -> int:
        """Reserve the next `count` indices; returns the first."""
        check_whole("batch_size", count, 1)
        first = self._next
        self._next += count
        return first


def check_seed(name: str, value: Any) -> int:
    """Validate `value` as a 64-bit seed; distinct seeds give distinct sequences.

    Raises:
        ConfigError: not an integer, or out of range.
    """
    return check_whole(name, value, 0, MOST_SEED, ", as seeds have 64 bits")


def check_concentration(name: str, value: Any) -> float:
    """Validate `value` as the concentration of a Dirichlet, or the pseudo-count of a predictor.

    Raises:
        ConfigError: not a number, or outside `CONCENTRATIONS`.
    """
    return check_number(name, value, *CONCENTRATIONS)


def check_number(name: str, value: Any, low: float, high: float, open_low: bool = False) -> float:
    """Validate `value` as a finite float.

    Raises:
        ConfigError: not a number, or out of range.
    """
    fits = isinstance(value, int | float | np.floating | np.integer) and not isinstance(value, bool)
    if not fits or not (low < value <= high if open_low else low <= value <= high) or not np.isfinite(value):
        bounds = f"above {low:g}" if open_low else f"at least {low:g}"
        raise ConfigError(
            f"{name}={value!r} must be a number {bounds}" + (f" and at most {high:g}." if np.isfinite(high) else ".")
        )
    return float(value)


def check_distribution(name: str, values: Any, shape: tuple[int, ...], sums_over: int = 1) -> np.ndarray:
    """Validate a table of probabilities whose last `sums_over` axes sum to 1; returns it as float64.

    Raises:
        ConfigError: wrong shape, negative or NaN entries, or a sum that is not 1.
    """
    try:
        table = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ConfigError(
            f"{name}={str(values)[:40]!r} is not a table of numbers: it must have shape {shape}."
        ) from None
    if table.shape != shape:
        raise ConfigError(f"{name} has shape {table.shape}: it must have {shape}.")
    if not (np.isfinite(table).all() and (table >= 0).all()):
        worst = table[~(np.isfinite(table) & (table >= 0))].flat[0]
        raise ConfigError(f"{name} holds {worst}: probabilities must be 0 or more.")
    sums = table.reshape(*shape[: len(shape) - sums_over], -1).sum(-1)
    if (np.abs(sums - 1) > 1e-6).any():
        worst = np.atleast_1d(sums).flat[np.abs(np.atleast_1d(sums) - 1).argmax()]
        raise ConfigError(f"{name} sums to {worst:.6g}: divide it by its sum, so that it sums to 1.")
    return table / sums.reshape(*sums.shape, *(1,) * sums_over)


def check_memory(name: str, value: Any, needed: float, why: str) -> None:
    """Reject sizes that cannot fit into this machine's memory.

    Raises:
        ConfigError: `needed` bytes exceed half of the physical memory.
    """
    have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > have / 2:
        raise ConfigError(
            f"{name}={value} needs {needed / 2**30:,.1f} GiB for {why}, more than half of this machine's "
            f"{have / 2**30:,.1f} GiB: make it smaller."
        )
