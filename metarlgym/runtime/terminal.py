"""Robust standard output and error: neither an unencodable character nor a closed pipe ends a command."""

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
    """Make standard output and error robust; call this first in a command.

    Characters that the terminal cannot encode are shown as "?". When the reader of a pipe is gone (`metarlgym ... |
    head`), the remaining output is dropped and the command runs to its end, so that it writes its files and keeps its
    exit status. Warnings from this package are shown on one line, without the source line. Streams replaced by a test
    or a notebook are left alone.
    """
    if sys.stderr is sys.__stderr__:
        _show_warnings_as_lines()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, _lasting(stream))


def finish_output() -> OSError | None:
    """Flush standard output. If that fails, drop the remaining output and return the error."""
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
    """A file that survives losing its reader."""

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
    """Redirect a file descriptor to the null device, in this process and its future children."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def say(text: str, stopped: bool = False, by_all: bool = True) -> None:
    """Print one line on stderr about how a command ended; with `by_all`, on the first process of each machine only."""
    if not by_all or os.environ.get("LOCAL_RANK", "0") == "0":
        mark = "[bold yellow]stopped:[/]" if stopped else "[bold red]error:[/]"
        Console(stderr=True).print(f"{mark} {escape(text)}", highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """Print a line on stderr, on the first process of each machine only."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)
