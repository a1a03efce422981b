"""Waiting for servers with a limit: threads that may hang, and a last resort where nothing can be interrupted."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from metarlgym.datatypes import MetaRLGymError

GRACE = 10.0
"""Seconds in which work that is bound to fail may do so by itself."""


class WeightSyncError(MetaRLGymError):
    """The servers could not be given the weights."""


def in_background(work: Callable[[], Any]) -> Future[Any]:
    """Run in a daemon thread: one that hangs must not keep the process from ending, as an executor's would."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def wait_for_all(futures: list[Future[Any]], timeout: float, what: str, quiet: bool = False) -> None:
    """Wait for all; the first exception is raised as soon as it happens.

    Raises:
        WeightSyncError: not done in time.
    """
    deadline = time.monotonic() + timeout
    while not all(future.done() for future in futures):
        failed = next((f for f in futures if f.done() and f.exception() is not None), None)
        if failed is not None or time.monotonic() > deadline:
            break
        time.sleep(0.002)
    if quiet:
        return
    for future in futures:
        if future.done():
            future.result()
    if not all(future.done() for future in futures):
        raise WeightSyncError(f"{what} took longer than weight_sync_timeout={timeout:g} s")


@contextmanager
def last_resort(seconds: float, what: str, refusal: Callable[[], str | None]) -> Iterator[None]:
    """End this process when the work inside hangs: a broadcast that NCCL waits in cannot be interrupted otherwise.

    Args:
        seconds: longest time for the work.
        what: the work, in words.
        refusal: what a server refused meanwhile, after which there is nothing to wait for.
    """
    over = threading.Event()

    def watch() -> None:
        deadline = time.monotonic() + seconds + GRACE
        refused_at: float | None = None
        while not over.wait(0.5):
            if refusal() is not None:
                refused_at = refused_at or time.monotonic()
            if time.monotonic() > deadline or (refused_at and time.monotonic() > refused_at + GRACE):
                why = refusal() or f"it took longer than weight_sync_timeout={seconds:g} s; a server may have died"
                print(
                    f"error: {what} failed: {why}. This process ends now, without a new checkpoint: go on from the "
                    "last one with --resume.",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()
