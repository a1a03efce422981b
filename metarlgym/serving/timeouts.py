"""Timeouts for server calls: work in background threads, and a watchdog for calls that cannot be interrupted."""

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
"""Seconds for doomed work to fail by itself before the process is ended."""


class WeightSyncError(MetaRLGymError):
    """Sending the weights to the servers failed."""


def in_background(work: Callable[[], Any]) -> Future[Any]:
    """Run in a daemon thread, which, unlike an executor's, does not keep the process from exiting when it hangs."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def wait_for_all(futures: list[Future[Any]], timeout: float, what: str, quiet: bool = False) -> None:
    """Wait for all futures; the first exception is raised as soon as it occurs, or with `quiet` nothing is raised.

    Raises:
        WeightSyncError: if they are not done in time.
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
    """End this process if the work inside hangs: a waiting NCCL broadcast cannot be interrupted in any other way.

    Args:
        seconds: time limit for the work.
        what: description of the work.
        refusal: returns a server's error, if any; after one there is nothing left to wait for.
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
                    f"error: {what} failed: {why}. This process ends now, without a new checkpoint: resume from the "
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
