"""Arrow tables of a source's sequences and their ground truth."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.sources import Source, find_source
from metarlgym.sequences.sources.base import SPLITS, check_seed, check_whole
from metarlgym.sequences.sources.settings import check_used
from metarlgym.version import __version__

KEY = b"metarlgym"
"""Key of the settings (JSON) in the schema metadata of a file."""
PART_CELLS, CHUNK_CELLS = 2**22, 2**18
"""Target number of values in a part (held in memory), and in one chunk of generation."""
_NOT_FOR_FILES = ("transform", "rules")  # a function, and v^3 numbers: not suitable as metadata of every file


@dataclass
class Export:
    """Which sequences to write. Concatenating shards 0..N-1 in order gives exactly the unsharded data.

    Raises:
        ConfigError: an invalid value, including one of the source's own settings.
    """

    source: str
    """A registered name, such as `metalm`, `rlm`, `piecewise` or `pseudo`."""
    sequences: int
    """Total number over all shards."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Settings of the source, except its seed; the source's defaults apply to the rest."""
    seed: int = 0
    split: str = "train"
    shard: tuple[int, int] = (0, 1)
    """(K, N): shard K of N, counted from 0."""
    probabilities: bool = False
    """Include the source's optional columns, such as the true distributions of `piecewise`."""
    part_size: int | None = None
    """Sequences per part; None for about two million tokens per part."""
    made: Source = field(init=False, repr=False, compare=False)
    """The source instance."""
    settings: dict[str, Any] = field(init=False, repr=False, compare=False)
    """All of the above, the package version and the columns, as JSON-compatible values."""

    def __post_init__(self) -> None:
        kind = find_source(self.source)
        check_whole("sequences", self.sequences, 1, 2**62)
        check_seed("seed", self.seed)
        if self.split not in SPLITS:
            raise ConfigError(f"split={self.split!r} is not known: use 'train' or 'eval'.")
        shard, shards = self.shard
        check_whole("shard: N", shards, 1)
        check_whole("shard: K", shard, 0, shards - 1, f", as there are {shards}, counted from 0")
        if self.probabilities and not kind.optional_columns:
            raise ConfigError(f"probabilities=True has no effect on source={self.source!r}: leave it out.")
        parameters = inspect.signature(kind).parameters
        known = {k: p.default for k, p in parameters.items() if k != kind.seed_name and k not in _NOT_FOR_FILES}
        for name in self.arguments:
            if name not in known:
                raise ConfigError(f"{name} is not a setting of {self.source}: it has {', '.join(known)}.")
        check_used(kind, self.arguments, self.split)
        arguments = known | self.arguments
        made = kind(**arguments, **{kind.seed_name: self.seed})
        if made.length * (made.vocab_size if self.probabilities else 1) >= 2**31:
            raise ConfigError(f"a sequence of {made.length:,} tokens is too long for a row: make it shorter.")
        self.made = made
        if self.part_size is None:
            self.part_size = max(1, PART_CELLS // self._cells)
        check_whole("part_size", self.part_size, 1)
        settings = {
            "source": self.source,
            "arguments": arguments,
            "seed": self.seed,
            "split": self.split,
            "sequences": self.sequences,
            "shard": shard,
            "shards": shards,
            "part_size": self.part_size,
            "version": __version__,
            "columns": list(self.schema.names),
        }
        self.settings = json.loads(json.dumps(settings, default=_plain))

    @property
    def first(self) -> int:
        """Index of this shard's first sequence."""
        return self.sequences * self.shard[0] // self.shard[1]

    @property
    def stop(self) -> int:
        """Index of this shard's last sequence, plus one."""
        return self.sequences * (self.shard[0] + 1) // self.shard[1]

    @property
    def chunk(self) -> int:
        """Number of sequences to generate at a time."""
        return max(1, CHUNK_CELLS // self._cells)

    @property
    def _cells(self) -> int:
        """Number of values that the source generates per sequence."""
        return self.made.cells

    @property
    def schema(self) -> pa.Schema:
        """Columns and their types, without the settings."""
        columns = {"index": pa.int64()}
        for name, values in self.made.columns(0, 0, self.split, self.probabilities).items():
            columns[name] = self._type(values)
        return pa.schema(list(columns.items()))

    def _type(self, values: np.ndarray) -> pa.DataType:
        """Arrow type of one row of a column: bool arrays mark positions, integers are symbols."""
        if values.dtype == bool:
            return _list_of(pa.from_numpy_dtype(_smallest(self.made.length)))
        symbols = np.issubdtype(values.dtype, np.integer)
        kind = pa.from_numpy_dtype(_smallest(self.made.vocab_size - 1)) if symbols else pa.float64()
        for _ in values.shape[1:]:
            kind = _list_of(kind)
        return kind

    def table(self, start: int, count: int) -> pa.Table:
        """Sequences `start` to `start + count - 1` as rows."""
        schema = self.schema
        found = self.made.columns(start, count, self.split, self.probabilities)
        columns = {"index": np.arange(start, start + count), **found}
        arrays = [
            _places(columns[item.name], item.type)
            if columns[item.name].dtype == bool
            else _array(columns[item.name], item.type)
            for item in schema
        ]
        return pa.Table.from_arrays(arrays, schema=schema)


def _plain(value: Any) -> Any:
    """Convert numpy scalars and arrays to JSON-compatible values."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise ConfigError(f"{value!r} cannot be kept in a file's settings: use plain numbers and lists.")


def _smallest(most: int) -> np.dtype:
    return np.min_scalar_type(most)


def _list_of(kind: pa.DataType) -> pa.DataType:
    # Parquet calls the field "element"; using the same name makes the type survive a round trip.
    return pa.list_(pa.field("element", kind))


def _array(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """`values` as an Arrow array; it has one axis for the rows and one for each list level of `kind`."""
    if values.ndim == 1:
        # pa.array would import pandas, which adds a second to every start.
        plain = np.ascontiguousarray(values, np.dtype(str(kind).replace("double", "float64")))
        return pa.Array.from_buffers(kind, len(plain), [None, pa.py_buffer(plain)])
    rows, each = values.shape[:2]
    inner = _array(values.reshape(rows * each, *values.shape[2:]), kind.value_type)
    return pa.ListArray.from_arrays(_array(np.arange(rows + 1) * each, pa.int32()), inner, type=kind)


def _places(marks: np.ndarray, kind: pa.DataType) -> pa.Array:
    """For each row of `marks`, `(B, T)` bool, the list of positions that are True."""
    rows, places = np.nonzero(marks)
    offsets = np.searchsorted(rows, np.arange(len(marks) + 1))
    return pa.ListArray.from_arrays(_array(offsets, pa.int32()), _array(places, kind.value_type), type=kind)
