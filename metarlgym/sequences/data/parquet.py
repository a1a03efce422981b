"""Resumable Parquet export: data is written in parts, finished parts survive a crash, and the next run continues."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from metarlgym.datatypes import ConfigError
from metarlgym.files import real_path, replacing
from metarlgym.sequences.data.tables import KEY, Export
from metarlgym.sequences.data.verify import DamagedError, read_head, tables, verify

MERGED = ".merged.tmp"
Progress = Callable[[int], None]
"""Callback with the number of sequences written so far."""
Notice = Callable[[str], None]
"""Callback with a message about damaged parts that were regenerated."""


class Written(NamedTuple):
    """The state of `out` after a call to `write`."""

    rows: int
    size: int
    """In bytes."""
    fresh: bool
    """False if everything was already there."""


def read_settings(path: str | Path) -> dict[str, Any]:
    """Read the settings of a file that `write` produced.

    Raises:
        ConfigError: not a Parquet file, or one that MetaRLGym did not write.
    """
    try:
        return read_head(Path(path))[0]
    except DamagedError as error:
        raise ConfigError(f"{str(path)!r} {error}.") from None


def write(export: Export, out: str | Path, progress: Progress | None = None, notice: Notice = warnings.warn) -> Written:
    """Write one file (`out` ends in .parquet) or a folder of part files (no suffix); only missing parts are written.

    For a single file, parts are kept in `out`.parts until the file has been written and verified. Shards may share a
    folder: their files sort in order. If `out` is a symbolic link, everything is written to its target. Existing parts
    are verified (page checksums and the `index` column), and damaged parts are regenerated.

    Raises:
        ConfigError: `out` cannot be written, holds other data, is damaged, or is being written by another process.
    """
    path = Path(out)
    _check_place(path)
    writer = _Writer(export, path, progress or (lambda done: None), notice)
    try:
        return writer.write()
    except OSError as error:
        raise ConfigError(
            f"out={str(path)!r} cannot be written: {error.strerror or error}; {writer.done:,} of "
            f"{export.stop - export.first:,} sequences are kept: fix this and run the same command again to resume."
        ) from None


def _check_place(out: Path) -> None:
    problem = None
    real = real_path(out)
    if out.suffix not in ("", ".parquet"):
        problem = f"ends in {out.suffix!r}: use .parquet for one file, or no ending for a folder of parts"
    elif real.is_symlink():
        problem = "is a link that leads to itself: remove it, or name another place"
    elif not real.absolute().parent.is_dir():
        leads = "" if real is out else f" (a link to {str(real)!r})"
        problem = f"cannot be written{leads}: {str(real.parent)!r} is not a folder; create it first"
    elif out.suffix and real.is_dir():
        problem = "is a folder: name a file in it"
    elif out.suffix and real.exists() and not real.is_file():
        problem = "is neither a file nor a folder: name another place"
    elif not out.suffix and real.exists() and not real.is_dir():
        problem = "is a file: name a folder, or end it in .parquet"
    elif not out.suffix and real is not out and not real.exists():
        problem = f"is a link to {str(real)!r}, which does not exist: create that folder first, or remove the link"
    if problem:
        raise ConfigError(f"out={str(out)!r} {problem}.")


class _Writer:
    def __init__(self, export: Export, out: Path, progress: Progress, notice: Notice) -> None:
        self.export, self.named, self.progress, self.notice = export, out, progress, notice
        self.single = out.suffix == ".parquet"
        self.out = real_path(out)
        self.folder = self.out.with_name(self.out.name + ".parts") if self.single else self.out
        self.done = 0
        """Number of sequences in finished parts."""
        metadata = {KEY: json.dumps(export.settings, sort_keys=True)}
        self.schema = export.schema.with_metadata(metadata)
        shard, shards = export.shard
        self.stem = "part-" if shards == 1 else f"shard-{shard:05d}-of-{shards:05d}-part-"
        size = export.part_size or 1
        starts = range(export.first, export.stop, size) or [export.first]  # an empty shard still gets its columns
        width = max(5, len(str(len(starts))))
        self.parts = {
            self.folder / f"{self.stem}{i:0{width}d}.parquet": (start, min(size, export.stop - start))
            for i, start in enumerate(starts)
        }
        self.damaged: dict[Path, str] = {}
        """Parts to regenerate, each with a description of the damage."""

    def write(self) -> Written:
        finished = self._finished()
        if finished:
            return finished
        self.folder.mkdir(exist_ok=True)
        with self._alone():
            self._check_folder()
            self.damaged |= {} if self.single else self._find_damage()  # a single file checks its parts on merging
            missing = [part for part in self.parts if part in self.damaged or not part.exists()]
            self.done = sum(count for part, (_, count) in self.parts.items() if part not in missing)
            self.progress(self.done)
            for part in missing:
                if part in self.damaged:
                    self._warn(part, self.damaged[part])
                self._write_part(part)
                self.done += self.parts[part][1]
            if self.single:
                self._merge()
        if self.single:
            self._clear()
        return self._report(fresh=True)

    def _finished(self) -> Written | None:
        """The existing output, if nothing is missing or damaged; otherwise None."""
        if not self.single:
            if not all(part.exists() for part in self.parts):
                return None
            self._check_folder()
            return None if self._find_damage() else self._report(fresh=False)
        if not self.out.exists():
            return None
        try:
            self._check_same(self.out, self.export.stop - self.export.first)
            self._verify(self.out)
        except DamagedError as error:
            raise ConfigError(
                f"out={str(self.named)!r} is damaged or not ours ({error}): name another place, or delete it and run "
                "this again."
            ) from None
        self._clear()
        return self._report(fresh=False)

    def _find_damage(self) -> dict[Path, str]:
        found = {}
        for part, place in self.parts.items():
            if part.exists():
                try:
                    verify(part, self.schema, *place)
                except DamagedError as error:
                    found[part] = str(error)
        return found

    def _verify(self, file: Path) -> None:
        verify(file, self.schema, self.export.first, self.export.stop - self.export.first)

    def _warn(self, part: Path, why: str) -> None:
        self.notice(f"{str(part)!r} was damaged ({why}) and is made again; the other parts are kept.")

    def _report(self, fresh: bool) -> Written:
        files = [self.out] if self.single else list(self.parts)
        rows = self.export.stop - self.export.first
        self.progress(rows)
        return Written(rows, sum(path.stat().st_size for path in files), fresh)

    def _check_folder(self) -> None:
        """Check that all data in the folder belongs together: this shard's parts, and one part of every other shard."""
        others = {path.name.rpartition("part-")[0]: path for path in sorted(self.folder.glob("*.parquet"))}
        for path in {*others.values(), *(part for part in self.parts if part.exists())}:
            try:
                self._check_same(path, self.parts[path][1] if path in self.parts else None)
            except DamagedError as error:
                if not (self.single and path in self.parts):  # we cannot tell whether we wrote it
                    raise ConfigError(f"{str(path)!r}: {error}: delete it and run this again.") from None
                self.damaged[path] = str(error)

    def _check_same(self, path: Path, rows: int | None) -> None:
        settings, found = read_head(path)
        here = dict(self.export.settings)
        if path not in self.parts and not self.single:
            settings.pop("shard", None)  # a part of another shard
            here.pop("shard")
        differences = _compare(_flat(settings), _flat(here))
        if differences:
            raise ConfigError(
                f"out={str(self.named)!r} holds other data ({'; '.join(differences)}): name another place, or delete "
                "it."
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
        with replacing(part, part.with_name(f".{part.name}.tmp")) as file:
            pq.write_table(table, file, row_group_size=max(1, count), compression="zstd", write_page_checksum=True)

    def _merge(self) -> None:
        temporary = self.folder / MERGED
        with replacing(self.out, temporary) as file:
            with pq.ParquetWriter(file, self.schema, compression="zstd", write_page_checksum=True) as merged:
                for part in self.parts:
                    for table in self._sound(part):
                        merged.write_table(table, row_group_size=max(1, len(table)))
            file.flush()
            try:
                self._verify(temporary)  # before the parts are removed
            except DamagedError as error:
                raise ConfigError(
                    f"out={str(self.named)!r} was not written as it should be ({error}): check this disk and run this "
                    "again; all parts are kept."
                ) from None

    def _sound(self, part: Path) -> list[pa.Table]:
        """The tables of a part, regenerated if it is damaged."""
        place = self.parts[part]
        try:
            return list(tables(part, self.schema, *place))
        except DamagedError as error:
            self._warn(part, str(error))
        self._write_part(part)
        try:
            return list(tables(part, self.schema, *place))
        except DamagedError as error:
            raise ConfigError(f"{str(part)!r} was just written and is damaged ({error}): check this disk.") from None

    def _clear(self) -> None:
        """Remove the parts of a finished file, and nothing else."""
        if self.folder.is_dir():
            unfinished = re.compile(rf"\.{re.escape(self.stem)}\d{{5,}}\.parquet\.tmp|{re.escape(MERGED)}")
            left = [path for path in self.folder.iterdir() if unfinished.fullmatch(path.name)]
            for path in (*self.parts, *left, self._lock):
                if path == self._lock and self._lock_problem():
                    continue
                if path.is_file() and not path.is_symlink():
                    path.unlink()
            with contextlib.suppress(OSError):  # the folder holds other files, which are not ours
                self.folder.rmdir()

    @property
    def _lock(self) -> Path:
        return self.folder / f".{self.stem}lock"

    def _lock_problem(self) -> bool:
        """Whether the lock's path is taken by a file, folder or link that is not ours."""
        lock = self._lock
        return lock.is_symlink() or (lock.exists() and not (lock.is_file() and lock.stat().st_size == 0))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold an exclusive lock; the operating system releases it when the process ends, for whatever reason."""
        if self._lock_problem():
            raise ConfigError(
                f"{str(self._lock)!r} is not the empty file that keeps other processes out: move it away, or name "
                "another place."
            )
        with os.fdopen(os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"out={str(self.named)!r} is being written by another process: wait for it, or name another place."
                ) from None
            except OSError:
                pass  # the file system does not support locks
            try:
                yield
            finally:
                self._lock.unlink(missing_ok=True)


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "arguments"} | settings.get("arguments", {})


def _compare(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Describe the differences in words."""
    if there.get("source") != here["source"]:  # arguments of different sources cannot be compared
        names = ["source"]
    else:
        names = [name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)]
        causes = [name for name in names if name not in ("part_size", "columns")]  # these may follow from others
        names = causes or names
    return [f"{name} is {there.get(name)} there and {here.get(name)} here" for name in names]
