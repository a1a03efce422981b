"""Integrity checks of written Parquet files: page checksums and expected rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.data.tables import KEY


class DamagedError(ConfigError):
    """A file does not hold what was written; the message describes the problem without the file's name."""


def read_head(path: Path) -> tuple[dict[str, Any], int]:
    """Read the settings and the number of rows of a file.

    Raises:
        DamagedError: it cannot be read as Parquet.
        ConfigError: MetaRLGym did not write it.
    """
    try:
        with pq.ParquetFile(path) as file:
            stored = (file.schema_arrow.metadata or {}).get(KEY)
            rows = file.metadata.num_rows
        settings = None if stored is None else json.loads(stored)
    except (pa.ArrowException, OSError, ValueError) as error:
        _reraise(error)
        raise DamagedError("cannot be read as Parquet") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{str(path)!r} was not written by metarlgym generate: name another place, or delete it.")
    return settings, rows


def tables(path: Path, schema: pa.Schema, start: int, count: int) -> Iterator[pa.Table]:
    """The row groups of a file, verified to hold sequences `start` to `start + count - 1`.

    Raises:
        DamagedError: the file does not hold these sequences.
    """
    done = 0
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if not file.schema_arrow.equals(schema):
                raise DamagedError("its columns are not those that were written")
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                table.validate(full=True)
                index = table["index"].to_numpy()
                if not np.array_equal(index, np.arange(start + done, start + done + len(index))):
                    raise DamagedError("its column index does not count up as it should")
                done += len(index)
                yield table
    except DamagedError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        _reraise(error)
        raise DamagedError(" ".join(str(error).split())[:160]) from error
    if done != count:
        raise DamagedError(f"it has {done:,} rows instead of {count:,}")


def verify(path: Path, schema: pa.Schema, start: int, count: int) -> None:
    """Read a whole file and verify that it holds sequences `start` to `start + count - 1`.

    Raises:
        DamagedError: the file does not hold these sequences.
    """
    for _ in tables(path, schema, start, count):
        pass


def _reraise(error: BaseException) -> None:
    """Re-raise operating system errors (no permission, a failing disk): regenerating the file would not fix them."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error
