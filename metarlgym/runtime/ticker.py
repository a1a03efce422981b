"""Ticker: calls a function at intervals while the main thread is busy."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Ticker:
    """Calls `tick` from a thread of its own until it is closed. A context manager.

    A rollout of a model in this process keeps the main thread busy, so that it could not report by itself.

    Args:
        tick: what to call; it must be safe to call from another thread.
        first: seconds until the first call.
        every: seconds between later calls.
    """

    def __init__(self, tick: Callable[[], None], first: float = 5.0, every: float = 10.0) -> None:
        self.tick, self.first, self.every = tick, first, every
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ticker", daemon=True)

    def __enter__(self) -> Ticker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop; no call is made after this returns."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        wait = self.first
        while not self._closed.wait(wait):
            self.tick()
            wait = self.every
