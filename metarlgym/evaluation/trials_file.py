"""TrialsFile: the trials of an evaluation on disk, each as soon as it ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from metarlgym.datatypes import ConfigError, MetaRLGymError, MetaTrajectory
from metarlgym.files import is_special, new_file, real_path, remove_leftover, write_whole
from metarlgym.runtime.interrupt import Interrupted, status_of


class TrialsFile:
    """Writes one JSON object per line, with the index of the trial as `trial`.

    Trials are appended to `FILE.partial` as they end, in any order. The complete `FILE`, ordered by index, replaces an
    earlier one when all trials are played; the partial file is then removed. If the evaluation is killed, the partial
    file holds what was played. Devices and pipes are written at the end.

    Args:
        path: FILE.
        record: turns a trial into a JSON-serialisable object.
        notify: called with a message if the partial file cannot be written; the evaluation continues.
    """

    def __init__(
        self, path: Path, record: Callable[[MetaTrajectory], dict[str, Any]], notify: Callable[[str], None]
    ) -> None:
        self.path, self.record, self.notify = path, record, notify
        self.partial = partial_of(path)
        self.written = 0
        """Trials in the partial file."""
        self._file: BinaryIO | None = None
        self._failed = self.partial is None

    def add(self, index: int, trajectory: MetaTrajectory) -> None:
        """Append a trial to the partial file, which is created with the first."""
        if self._failed:
            return
        assert self.partial is not None
        try:
            if self._file is None:
                remove_leftover(self.partial)
                self._file = new_file(self.partial)
            self._file.write(self._line(index, trajectory))
            self._file.flush()
            self.written += 1
        except (OSError, ConfigError) as error:  # a full disk, or a link in its place
            why = getattr(error, "strerror", None) or str(error).rstrip(".")
            self._failed = True
            self.notify(
                f"{self.partial} cannot be written ({why}): the evaluation continues, and "
                f"{self.path} is written at its end."
            )

    def finish(self, played: list[MetaTrajectory]) -> None:
        """Write the complete file; all trials, ordered by index.

        Raises:
            MetaRLGymError: it cannot be written, with the reason and where the trials in the partial file are.
        """
        lines = [self._line(i, trajectory) for i, trajectory in enumerate(played)]
        self.close()
        if self.written and self.partial is not None and self._fits_in_its_place(sum(map(len, lines))):
            self.discard()
        try:
            with write_whole(self.path) as file:
                file.writelines(lines)
        except MetaRLGymError as error:
            if not self.written:
                raise
            raise MetaRLGymError(f"{str(error).rstrip('.')}; {self.written} trials are in {self.partial}.") from error
        self.discard()

    def _fits_in_its_place(self, size: int) -> bool:
        """Whether the disk has room for so many bytes only if the partial file gives way."""
        assert self.partial is not None
        free = shutil.disk_usage(self.partial.parent).free
        return free < size <= free + self.partial.stat().st_size

    def discard(self) -> None:
        """Remove the partial file."""
        self.close()
        if self.partial is not None and self.written:
            self.partial.unlink(missing_ok=True)
        self.written = 0

    def close(self) -> None:
        """Keep the partial file as it is."""
        self._failed = True
        if self._file is not None:
            self._file.close()
            self._file = None

    def _line(self, index: int, trajectory: MetaTrajectory) -> bytes:
        return (json.dumps({"trial": index, **self.record(trajectory)}) + "\n").encode()


def partial_of(path: Path) -> Path | None:
    """Where the trials are collected until all are played; None for a device or a pipe."""
    if is_special(path):
        return None
    real = real_path(path)
    return real.with_name(real.name + ".partial")


@contextmanager
def keeping(file: TrialsFile | None, played: list[MetaTrajectory]) -> Iterator[None]:
    """Play an evaluation inside. If it is stopped, the trials played so far stay in a file.

    Args:
        file: its `add` is called for each trial, and `finish` by the caller; None if no file is asked for.
        played: empty until all trials of the main pass are played.

    Raises:
        Interrupted: by Ctrl-C or SIGTERM; says where the trials are that were played.
        MetaRLGymError: what was raised inside, with the same added.
    """
    if file is None:
        yield
        return
    try:
        yield
    except ConfigError:
        file.discard()
        raise
    except BaseException as error:
        if played:  # a control was interrupted
            file.finish(played)
            kept = f"all {len(played)} trials are in {file.path}"
        else:
            file.close()
            kept = f"the {file.written} trials that ended are in {file.partial}"
        if (played or file.written) and isinstance(error, KeyboardInterrupt):
            raise Interrupted(
                f"the evaluation is not done, {kept}. The same command plays all of them again and replaces that file.",
                status_of(type(error)),
            ) from error
        if (played or file.written) and isinstance(error, MetaRLGymError):
            raise MetaRLGymError(f"{str(error).rstrip('.')}; {kept}.") from error
        raise
