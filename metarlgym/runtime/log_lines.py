"""JSON lines that a run appends to, kept whole: no unfinished line, no step twice, nothing lost to a full disk."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metarlgym.runtime.run_folder import replace_text

SUMMARY = "train_runtime"
"""A value that only the line at the end of training has."""


def cut_lines(path: Path, step: int, summary: bool = True) -> None:
    """Drop the lines after a step, which come again when a run goes on from there, and an unfinished last one.

    Args:
        path: the file; it need not exist.
        step: the last one whose lines stay.
        summary: keep the line at the end of training too; else it goes, whatever its step.
    """
    if not path.exists():
        return
    content = path.read_text(encoding="utf-8", errors="replace")
    whole = content.split("\n")[:-1]  # not splitlines: texts may hold other line ends
    kept = "".join(line + "\n" for line in whole if _step(line) <= step and (summary or not is_summary(line)))
    if kept != content:
        replace_text(path, kept)


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return float("inf")  # damaged


def is_summary(line: str) -> bool:
    """Whether a line is that of the end of training."""
    try:
        return SUMMARY in json.loads(line)
    except (ValueError, TypeError):
        return False


class Lines:
    """Appends JSON objects to a file. What a full disk refuses is kept and written later.

    Args:
        path: the file; made with the first line.
        tell: called once with one line when writing fails, and when it works again.
    """

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        self.path, self.tell = path, tell
        self.waiting: list[str] = []
        """Lines that are not in the file yet."""

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
                file.truncate(size)  # what was written of a line
            if not failed:
                self.tell(
                    f"{self.path} cannot be written ({error.strerror}): its lines are kept until there is room again; "
                    "training goes on."
                )
            return
        if failed:
            self.tell(f"{self.path} is written again, {len(self.waiting)} lines at once.")
        self.waiting = []

    def close(self) -> None:
        """Try once more to write what waits, and say so if it cannot be."""
        if self.waiting:
            self.write()
        if self.waiting:
            self.tell(f"{self.path}: the last {len(self.waiting)} lines could not be written and are lost.")
