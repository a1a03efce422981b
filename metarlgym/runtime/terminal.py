"""Standard output and error of a command: no character that they lack, and no reader who leaves, ends it."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

PACKAGE = str(Path(__file__).parent.parent)


def prepare_output() -> None:
    """Call this first in a command.

    What the terminal cannot encode is shown as "?". When the reader of a pipe has gone (`metarlgym ... | head`), the
    rest of the output is dropped and the command goes on to its end, so that its files are written and its exit status
    is its own. Warnings of this package are shown as one line, without the code that gave them. Streams that a test or
    a notebook has put in place are left alone.
    """
    if sys.stderr is sys.__stderr__:
        _show_warnings_as_lines()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, _lasting(stream))


def finish_output() -> OSError | None:
    """Write out what standard output still holds; returns why that failed, and drops it then."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):
            _drop(sys.stdout.fileno())
        return error
    return None


def _show_warnings_as_lines() -> None:
    shown_by_python = warnings.showwarning

    def show(message: Any, category: Any, filename: str, *place: Any, **more: Any) -> None:
        if category is UserWarning and filename.startswith(PACKAGE):
            print(f"warning: {message}", file=sys.stderr)
        else:
            shown_by_python(message, category, filename, *place, **more)

    warnings.showwarning = show


class _Lasting(io.FileIO):
    """A file whose reader may go."""

    def write(self, data: Any) -> int:  # type: ignore[override]
        try:
            return super().write(data)
        except BrokenPipeError:
            _drop(self.fileno())
            return memoryview(data).nbytes


def _lasting(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    with contextlib.suppress(OSError):
        stream.flush()
    raw = _Lasting(stream.fileno(), "w", closefd=False)
    buffered = isinstance(stream.buffer, io.BufferedWriter)
    return io.TextIOWrapper(
        io.BufferedWriter(raw) if buffered else raw,  # type: ignore[arg-type]
        encoding=stream.encoding,
        errors="backslashreplace" if stream.errors == "backslashreplace" else "replace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _drop(number: int) -> None:
    """Let the open file of this number lead nowhere, here and in processes started later."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def say(text: str, stopped: bool = False, by_all: bool = True) -> None:
    """One line on stderr about how a command ended; with `by_all`, on the main process only."""
    if not by_all or os.environ.get("RANK", "0") == "0":
        mark = "[bold yellow]stopped:[/]" if stopped else "[bold red]error:[/]"
        Console(stderr=True).print(f"{mark} {escape(text)}", highlight=False, soft_wrap=True)
