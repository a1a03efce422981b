"""Ctrl-C and SIGTERM as exceptions that end a command with a one-line message."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from metarlgym.datatypes import MetaRLGymError

INTERRUPTED, TERMINATED = 130, 143
"""Exit statuses: 128 plus the signal number."""
PREEMPTED = 75
"""Exit status of a run that stopped on request: EX_TEMPFAIL of sysexits.h, try again later."""


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived. Derives from `KeyboardInterrupt`, because event loops let it through."""


class Interrupted(MetaRLGymError):
    """A command was stopped by a signal; the message says what is saved and how to resume."""

    def __init__(self, text: str, status: int = INTERRUPTED) -> None:
        super().__init__(text)
        self.status = status


class Preempted(MetaRLGymError):
    """The run stopped on request, on all its processes; its checkpoint holds all progress."""


_seen: type[BaseException] | None = None


def stopped_by(error: BaseException | None = None) -> type[BaseException] | None:
    """`KeyboardInterrupt` or `Terminated` if a signal caused the error, else None.

    In a launch of several processes, one may fail because another, stopped by the same Ctrl-C, has already exited.
    """
    if isinstance(error, KeyboardInterrupt | Terminated):
        return type(error)
    return _seen


def status_of(by: type[BaseException]) -> int:
    """Exit status of a command ended by `KeyboardInterrupt` or `Terminated`."""
    return TERMINATED if issubclass(by, Terminated) else INTERRUPTED


@contextmanager
def stoppable(*signals: signal.Signals) -> Iterator[None]:
    """Context in which the first Ctrl-C or SIGTERM raises; a second Ctrl-C ends the process at once.

    Does nothing outside the main thread, where signals cannot be handled.

    Args:
        signals: the signals to handle; default: both.
    """
    global _seen
    _seen = None

    def stop(number: int, frame: Any) -> None:
        global _seen
        again = _seen is not None
        if again and number == signal.SIGTERM:
            return  # launchers send it to processes that are already stopping
        if again:
            _end_now()
        _seen = KeyboardInterrupt if number == signal.SIGINT else Terminated
        raise _seen

    before: dict[signal.Signals, Any] = {}
    try:
        for which in signals or (signal.SIGINT, signal.SIGTERM):
            before[which] = signal.signal(which, stop)
    except ValueError:
        pass  # not the main thread
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
        _seen = None


def _end_now() -> None:
    if sys.stdout.isatty():
        sys.stdout.write("\x1b[?25h\n")  # a live display hides the cursor
        sys.stdout.flush()
    os._exit(INTERRUPTED)
