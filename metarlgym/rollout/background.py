"""BackgroundRollout: a rollout in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Generic, TypeVar

Played = TypeVar("Played")


class BackgroundRollout(Generic[Played]):
    """Runs a coroutine in a daemon thread, beside what the caller goes on doing.

    Args:
        play: the coroutine; it must not use the caller's event loop.
    """

    def __init__(self, play: Coroutine[Any, Any, Played]) -> None:
        self._play = play
        self._outcome: Future[Played] = Future()
        self._started: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        self._lock = threading.Lock()
        self._cancelled = False
        self._thread = threading.Thread(target=self._work, name="rollouts", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return self._outcome.done()

    @property
    def failure(self) -> BaseException | None:
        """What it raised; None if it is still running, or has ended well."""
        return self._outcome.exception() if self.done else None

    def when_done(self, call: Callable[[], object]) -> None:
        """Call something when it has ended, in its thread, or now."""
        self._outcome.add_done_callback(lambda _: call())

    def call(self, call: Callable[[], object]) -> None:
        """Call something on its event loop, unless it has ended."""
        with self._lock:
            if self._started is not None:
                with suppress(RuntimeError):  # it has just ended
                    self._started[0].call_soon_threadsafe(call)

    def result(self) -> Played:
        """Wait for the end.

        Raises:
            Exception: what the coroutine raised.
        """
        outcome = self._outcome.result()
        self._thread.join()
        return outcome

    def cancel(self, seconds: float | None = None) -> None:
        """End it early; its result is lost.

        Args:
            seconds: how long to wait for the end, which a step of an environment can delay; None: without limit.
        """
        with self._lock:
            self._cancelled = True
            if self._started is not None:
                loop, task = self._started
                with suppress(RuntimeError):  # it has just ended
                    loop.call_soon_threadsafe(task.cancel)
        self._thread.join(seconds)

    def _work(self) -> None:
        try:
            self._outcome.set_result(asyncio.run(self._main()))
        except asyncio.CancelledError as error:
            # A future that raises CancelledError would look as if it was itself cancelled.
            self._outcome.set_exception(RuntimeError(f"the rollout was cancelled ({error})"))
        except BaseException as error:
            self._outcome.set_exception(error)

    async def _main(self) -> Played:
        task = asyncio.current_task()
        assert task is not None
        with self._lock:
            self._started = (asyncio.get_running_loop(), task)
            if self._cancelled:
                self._play.close()
                raise asyncio.CancelledError
        return await self._play
