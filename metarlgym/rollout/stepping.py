"""Crew: the threads that run those steps of a rollout which its event loop must be able to go on without.

A thread cannot be killed, so a step that hangs is left behind: its result is dropped, its trial is never used again,
and its thread ends when the step returns, if it ever does. All threads are daemons: none delays the exit of the
process, as the threads of `concurrent.futures` and of asyncio's default executor would.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from queue import SimpleQueue

from metarlgym.rollout.protocol import ActRequest

GRACE = 0.25
"""Seconds for which the event loop waits for a single step before it goes on without it."""
REST = 10
"""After such a wait was in vain, the loop waits for no step during this many times `GRACE`: several hanging steps, one
after the other, must not stop the healthy trials."""


class Job:
    """One step of a session, to be run in a thread.

    Args:
        step: as `Session.begin` and `Session.receive`.
        land: takes the finished job, on the loop's thread. It may be called twice, and after the job was dropped.
    """

    __slots__ = ("dropped", "error", "finished", "land", "request", "running", "step", "timer")

    def __init__(self, step: Callable[[], ActRequest | None], land: Callable[[Job], None]) -> None:
        self.step = step
        self.land = land
        self.request: ActRequest | None = None
        self.error: BaseException | None = None
        self.running = False
        """It was handed to a thread."""
        self.finished = False
        self.dropped = False
        """Nobody waits for it any longer."""
        self.timer: asyncio.TimerHandle | None = None

    def run(self) -> None:
        try:
            self.request = self.step()
        except BaseException as error:
            self.error = error
        self.finished = True


class Crew:
    """Daemon threads of one rollout: as many as there are steps side by side, reused, and ended by `close`.

    Args:
        loop: the rollout's event loop.
        grace: seconds for which `in_turn` waits for a single step.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, grace: float = GRACE) -> None:
        self.loop = loop
        self.grace = grace
        self._work: SimpleQueue[Callable[[], bool] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: set[threading.Thread] = set()
        self._patient_from = 0.0

    def alone(self, job: Job) -> None:
        """Run a job beside all others; `job.land` is called on the loop when it is finished."""
        job.running = True

        def work() -> bool:
            if job.dropped:
                return True
            job.run()
            self._post(job)
            return not job.dropped

        self._start(work)

    def in_turn(self, jobs: Sequence[Job]) -> list[Job]:
        """Run jobs one after the other in one thread, and wait for them.

        Returns:
            The finished jobs, in order: nearly always all of them. Where a step takes longer than `grace`, it and the
            jobs behind it go on as if started by `alone`.
        """
        if time.monotonic() < self._patient_from:
            for job in jobs:
                self.alone(job)
            return []
        for job in jobs:
            job.running = True
        series = _Series(jobs, self._post)
        self._start(series)
        patience = self.grace
        while not series.ended.acquire(timeout=patience):
            patience = series.began + self.grace - time.monotonic()
            if patience <= 0:
                self._patient_from = time.monotonic() + REST * self.grace
                for job in series.leave():
                    self.alone(job)
                return [job for job in jobs if job.finished]
        return list(jobs)

    def close(self) -> None:
        """End the threads, each as soon as its step returns."""
        self._work.put(None)

    def _start(self, work: Callable[[], bool]) -> None:
        """Have a thread do the work, which returns False where its thread was left behind and has to end."""
        self._work.put(work)
        if self._idle.acquire(blocking=False):
            return
        # A step sees the context variables of the rollout, as it would without a thread.
        target = copy_context().run
        thread = threading.Thread(target=target, args=(self._serve,), name="metarlgym-step", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:
            self._threads.discard(thread)
            if not self._threads:
                raise
            # The system allows no more threads: the work waits for one of those there are.

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            if not work():
                self._threads.discard(threading.current_thread())
                return
            del work  # an idle thread keeps no environment alive
            self._idle.release()
        self._work.put(None)  # for the next thread

    def _post(self, job: Job) -> None:
        if job.dropped:
            return
        try:
            self.loop.call_soon_threadsafe(job.land, job)
        except RuntimeError:
            job.dropped = True  # the rollout has ended and its loop is closed


class _Series:
    """Jobs that one thread runs in turn while the loop waits for `ended`."""

    def __init__(self, jobs: Sequence[Job], post: Callable[[Job], None]) -> None:
        self.began = time.monotonic()
        """When the job that is running now began."""
        self.ended = threading.Lock()
        self.ended.acquire()
        self._jobs = deque(jobs)
        self._post = post
        self._left = False

    def __call__(self) -> bool:
        jobs = self._jobs
        while jobs:
            try:
                job = jobs.popleft()
            except IndexError:  # `leave` took it
                break
            self.began = time.monotonic()
            job.run()
            # Read after `finished` was set, and set by the loop before it reads `finished`: no result is lost.
            if self._left:
                self._post(job)
                return False
        self.ended.release()
        return True

    def leave(self) -> list[Job]:
        """The loop goes on: the running job will be posted. Returns those that were not begun."""
        self._left = True
        rest: list[Job] = []
        while self._jobs:
            try:
                rest.append(self._jobs.popleft())
            except IndexError:  # the thread took it
                break
        return rest
