"""Tables as Parquet files, in parts: what was written stays, whatever happens, and the next run goes on from there."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from metarlgym.datatypes import ConfigError
from metarlgym.export.tables import KEY, Export

Progress = Callable[[int], None]
"""Told how many sequences there are so far."""


class Written(NamedTuple):
    """What lies at `out` now."""

    rows: int
    size: int
    """Bytes."""
    fresh: bool
    """False if all of it was there before."""


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings of a file written here.

    Raises:
        ConfigError: no Parquet file, or not one of ours.
    """
    return _read(Path(path))[0]


def write(export: Export, out: str | Path, progress: Progress | None = None) -> Written:
    """Write one file (`out` ends in .parquet) or a folder of part files (no ending), whatever of it is missing.

    A file's parts lie in `out`.parts until all are there. Shards may share a folder: their files sort in order.

    Raises:
        ConfigError: `out` cannot be written, holds other data, or is being written by another process.
    """
    path = Path(out)
    _check_place(path)
    writer = _Writer(export, path, progress or (lambda done: None))
    try:
        return writer.write()
    except OSError as error:
        raise ConfigError(
            f"out={str(path)!r} cannot be written: {error.strerror or error}; {writer.done:,} of "
            f"{export.stop - export.first:,} sequences are there and stay: mend this and run the same again to go on."
        ) from None


def _check_place(out: Path) -> None:
    problem = None
    if out.suffix not in ("", ".parquet"):
        problem = f"ends in {out.suffix!r}: use .parquet for one file, or no ending for a folder of parts"
    elif not out.absolute().parent.is_dir():
        problem = f"cannot be written: {str(out.parent)!r} is no folder; create it first"
    elif out.suffix and out.is_dir():
        problem = "is a folder: name a file in it"
    elif not out.suffix and out.exists() and not out.is_dir():
        problem = "is a file: name a folder, or end it in .parquet"
    if problem:
        raise ConfigError(f"out={str(out)!r} {problem}.")


class _Writer:
    def __init__(self, export: Export, out: Path, progress: Progress) -> None:
        self.export, self.out, self.progress = export, out, progress
        self.single = out.suffix == ".parquet"
        self.folder = out.with_name(out.name + ".parts") if self.single else out
        self.done = 0
        """Sequences that lie in finished parts."""
        metadata = {KEY: json.dumps(export.settings, sort_keys=True)}
        self.schema = export.schema.with_metadata(metadata)
        shard, shards = export.shard
        self.stem = "part-" if shards == 1 else f"shard-{shard:05d}-of-{shards:05d}-part-"
        size = export.part_size or 1
        starts = range(export.first, export.stop, size) or [export.first]  # an empty shard still has its columns
        width = max(5, len(str(len(starts))))
        self.parts = {
            self.folder / f"{self.stem}{i:0{width}d}.parquet": (start, min(size, export.stop - start))
            for i, start in enumerate(starts)
        }

    def write(self) -> Written:
        finished = self._finished()
        if finished:
            return finished
        self.folder.mkdir(exist_ok=True)
        with self._alone():
            self._check_folder()
            missing = [part for part in self.parts if not part.exists()]
            self.done = sum(count for part, (_, count) in self.parts.items() if part not in missing)
            self.progress(self.done)
            for part in missing:
                self._write_part(part)
            if self.single:
                self._merge()
        if self.single:
            self._clear()
        return self._report(fresh=True)

    def _finished(self) -> Written | None:
        """What lies there, if nothing is missing."""
        if not self.single:
            if not all(part.exists() for part in self.parts):
                return None
            self._check_folder()
            return self._report(fresh=False)
        if not self.out.exists():
            return None
        self._check_same(self.out, self.export.stop - self.export.first)
        self._clear()
        return self._report(fresh=False)

    def _report(self, fresh: bool) -> Written:
        files = [self.out] if self.single else list(self.parts)
        rows = self.export.stop - self.export.first
        self.progress(rows)
        return Written(rows, sum(path.stat().st_size for path in files), fresh)

    def _check_folder(self) -> None:
        """What a reader of the folder would find belongs together: this shard's parts, and one of each other shard."""
        others = {path.name.rpartition("part-")[0]: path for path in sorted(self.folder.glob("*.parquet"))}
        for path in {*others.values(), *(part for part in self.parts if part.exists())}:
            self._check_same(path, self.parts[path][1] if path in self.parts else None)

    def _check_same(self, path: Path, rows: int | None) -> None:
        settings, found = _read(path)
        here = dict(self.export.settings)
        if path not in self.parts and not self.single:
            settings.pop("shard", None)  # the part of another shard
            here.pop("shard")
        differences = _compare(_flat(settings), _flat(here))
        if differences:
            raise ConfigError(
                f"out={str(self.out)!r} holds other data ({'; '.join(differences)}): name another place, or delete it."
            )
        if rows is not None and rows != found:
            raise ConfigError(f"{str(path)!r} has {found:,} rows instead of {rows:,}: delete it and run this again.")

    def _write_part(self, part: Path) -> None:
        start, count = self.parts[part]
        tables = []
        for first in range(start, start + count, self.export.chunk) or [start]:
            size = min(self.export.chunk, start + count - first)
            tables.append(self.export.table(first, size).replace_schema_metadata(self.schema.metadata))
            self.progress(self.done + first + size - start)
        table = pa.concat_tables(tables)
        with _renamed(part) as file:
            pq.write_table(table, file, row_group_size=max(1, count), compression="zstd")
        self.done += count

    def _merge(self) -> None:
        temporary = self.folder / ".merged.tmp"
        with (
            _renamed(self.out, temporary) as file,
            pq.ParquetWriter(file, self.schema, compression="zstd") as merged,
        ):
            for part in self.parts:
                with pq.ParquetFile(part) as source:
                    for group in range(source.num_row_groups):
                        table = source.read_row_group(group)
                        merged.write_table(table, row_group_size=max(1, len(table)))

    def _clear(self) -> None:
        """Remove the parts of a file that is finished, and nothing else."""
        if self.folder.is_dir():
            for path in (*self.parts, *self.folder.glob(".*.tmp"), self._lock):
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # something of somebody else's lies there
                self.folder.rmdir()

    @property
    def _lock(self) -> Path:
        return self.folder / f".{self.stem}lock"

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time; the system ends the claim with the process, however that ends."""
        with self._lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"out={str(self.out)!r} is being written by another process: wait for it, or name another place."
                ) from None
            except OSError:
                pass  # a file system without locks
            try:
                yield
            finally:
                self._lock.unlink(missing_ok=True)


def _read(path: Path) -> tuple[dict[str, Any], int]:
    """Settings and rows of a file."""
    try:
        with pq.ParquetFile(path) as file:
            stored = (file.schema_arrow.metadata or {}).get(KEY)
            rows = file.metadata.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(f"{str(path)!r} cannot be read as Parquet: delete it, or name another place.") from error
    if stored is None:
        raise ConfigError(f"{str(path)!r} was not written by metarlgym generate: name another place, or delete it.")
    return json.loads(stored), rows


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "arguments"} | settings.get("arguments", {})


def _compare(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """What differs, in words."""
    if there.get("source") != here["source"]:  # whose arguments cannot be compared
        names = ["source"]
    else:
        names = [name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)]
        causes = [name for name in names if name not in ("part_size", "columns")]  # these may follow from others
        names = causes or names
    return [f"{name} is {there.get(name)} there and {here.get(name)} here" for name in names]


@contextlib.contextmanager
def _renamed(path: Path, temporary: Path | None = None) -> Iterator[Any]:
    """A file that gets its name when it is complete and on the disk; hidden until then, so that no reader takes it."""
    temporary = temporary or path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
