"""JSON Lines logs without partial lines, duplicate steps, or losses to a full disk."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metarlgym.runtime.run_folder import replace_text

SUMMARY = "train_runtime"
"""Key that occurs only in the summary line at the end of training."""


def cut_lines(path: Path, step: int, summary: bool = True) -> None:
    """Drop a partial last line and all lines after a step, which a run resumed there writes again.

    Args:
        path: the file; need not exist.
        step: the last step whose lines are kept.
        summary: whether to keep the summary line at the end of training; if False it is dropped whatever its step.
    """
    if not path.exists():
        return
    content = path.read_text(encoding="utf-8", errors="replace")
    whole = content.split("\n")[:-1]  # not splitlines: texts may contain other line separators
    kept = "".join(line + "\n" for line in whole if _step(line) <= step and (summary or not is_summary(line)))
    if kept != content:
        replace_text(path, kept)


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return float("inf")  # damaged


def is_summary(line: str) -> bool:
    """Whether a line is the summary at the end of training."""
    try:
        return SUMMARY in json.loads(line)
    except (ValueError, TypeError):
        return False


class Lines:
    """Appends JSON objects to a file; lines that cannot be written, as on a full disk, are kept and written later.

    Args:
        path: the file; created with the first line.
        notify: called with a message once when writing fails, and again when it recovers.
    """

    def __init__(self, path: Path, notify: Callable[[str], None]) -> None:
        self.path, self.notify = path, notify
        self.waiting: list[str] = []
        """Lines not yet written to the file."""

    def write(self, *values: dict[str, Any]) -> None:
        lines = [json.dumps(value, ensure_ascii=False) + "\n" for value in values]
        failed = bool(self.waiting)
        self.waiting += lines
        size = self.path.stat().st_size if self.path.is_file() else 0
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(self.waiting))
        except OSError as error:
            with contextlib.suppress(OSError), self.path.open("r+b") as file:
                file.truncate(size)  # remove a partial line
            if not failed:
                self.notify(
                    f"{self.path} cannot be written ({error.strerror}): its lines are kept until there is room again; "
                    "training continues."
                )
            return
        if failed:
            self.notify(f"{self.path} is written again, {len(self.waiting)} lines at once.")
        self.waiting = []

    def close(self) -> None:
        """Try once more to write the waiting lines; report if they are lost."""
        if self.waiting:
            self.write()
        if self.waiting:
            self.notify(f"{self.path}: the last {len(self.waiting)} lines could not be written and are lost.")
