"""Crew: worker threads for steps that the rollout's event loop must be able to abandon.

A thread cannot be killed, so a hanging step is abandoned: its result is dropped, its trial is never used again, and its
thread ends when the step returns, if ever. All threads are daemons and do not delay the exit of the process, unlike
those of `concurrent.futures` and asyncio's default executor.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from queue import SimpleQueue
from typing import Protocol

from metarlgym.rollout.protocol import ActRequest

GRACE = 0.25
"""Seconds that the event loop waits for a single step before it continues without it."""
REST = 10
"""After such a timeout, the loop waits for no step during this many times `GRACE`, so that several hanging steps in a
row do not stall the healthy trials.
"""

Outcome = ActRequest | BaseException | None
"""Outcome of a step: the next request, None if the trial is over, or an error of the rollout itself."""


class Player(Protocol):
    """A trial in flight, as the crew sees it."""

    job: Job | None
    """The step that is running without the loop waiting for it."""

    def step(self) -> ActRequest | None:
        """Take the pending step; called in a thread."""

    def land(self, job: Job) -> None:
        """Handle the outcome of a job; called on the loop, possibly after another job has replaced it."""


class Job:
    """A step that runs in a thread while the loop continues."""

    __slots__ = ("dropped", "outcome", "player", "timer")

    def __init__(self, player: Player) -> None:
        self.player = player
        self.outcome: Outcome = None
        self.dropped = False
        """Abandoned: nothing waits for it any more."""
        self.timer: asyncio.TimerHandle | None = None


class Crew:
    """The daemon threads of one rollout: as many as there are parallel steps, reused, and ended by `close`.

    Args:
        loop: the rollout's event loop.
        grace: seconds that `in_turn` waits for a single step.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, grace: float = GRACE) -> None:
        self.loop = loop
        self.grace = grace
        self._work: SimpleQueue[Callable[[], bool] | None] = SimpleQueue()
        self.idle = threading.Semaphore(0)
        """Released by a thread that is about to take more work, before the loop learns of its result: otherwise the
        loop would start another thread for the next step.
        """
        self._threads: set[threading.Thread] = set()
        self._patient_from = 0.0

    def alone(self, player: Player) -> None:
        """Run a step in parallel to all others, as `player.job`."""
        job = player.job = Job(player)

        def work() -> bool:
            if job.dropped:  # it never reached a thread
                self.idle.release()
                return True
            try:
                job.outcome = player.step()
            except BaseException as error:
                job.outcome = error
            if job.dropped:
                return False
            self.idle.release()
            self.post(player.land, job)
            return True

        self._start(work)

    def in_turn(self, players: Sequence[Player]) -> list[Outcome]:
        """Run steps sequentially in one thread, and wait for them.

        Returns:
            The outcomes of the leading players, nearly always of all. If a step takes longer than `grace`, it and those
            after it continue as if started by `alone`.
        """
        if time.monotonic() < self._patient_from:
            for player in players:
                self.alone(player)
            return []
        series = _Series(self, players)
        self._start(series)
        patience = self.grace
        try:
            while not series.ended.acquire(timeout=patience):
                patience = series.began + self.grace - time.monotonic()
                if patience <= 0:
                    self._patient_from = time.monotonic() + REST * self.grace
                    outcomes, rest = series.leave()
                    for player in rest:
                        self.alone(player)
                    return outcomes
        except BaseException:  # Ctrl-C: the trial whose step is running must not be reused
            series.leave()
            raise
        return series.outcomes

    def close(self) -> None:
        """End the threads, each as soon as its step returns."""
        self._work.put(None)

    def post(self, callback: Callable[..., object], *args: object) -> None:
        """Schedule a callback on the loop, from a thread."""
        try:
            self.loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            return  # the rollout has ended and its loop is closed: nothing waits for this

    def _start(self, work: Callable[[], bool]) -> None:
        """Have a thread do the work, which releases `idle`, or returns False if its thread was abandoned."""
        self._work.put(work)
        if self.idle.acquire(blocking=False):
            return
        # A step sees the rollout's context variables, as it would without a thread.
        target = copy_context().run
        thread = threading.Thread(target=target, args=(self._serve,), name="metarlgym-step", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:
            self._threads.discard(thread)
            if not self._threads:
                raise
            # The system allows no more threads: the work waits for an existing one.

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            if not work():
                self._threads.discard(threading.current_thread())
                return
            del work  # so that an idle thread does not keep an environment alive
        self._work.put(None)  # for the next thread


class _Series:
    """Steps that one thread takes sequentially while the loop waits for `ended`."""

    def __init__(self, crew: Crew, players: Sequence[Player]) -> None:
        self.crew = crew
        self.players = players
        self.outcomes: list[Outcome] = []
        self.began = time.monotonic()
        """Start time of the running step."""
        self.ended = threading.Lock()
        self.ended.acquire()
        self._waiting = deque(players)
        self._left = False
        self._job: Job | None = None
        """The step that was running when the loop stopped waiting."""

    def __call__(self) -> bool:
        while self._waiting:
            try:
                player = self._waiting.popleft()
            except IndexError:  # `leave` took it
                break
            self.began = time.monotonic()
            try:
                outcome: Outcome = player.step()
            except BaseException as error:
                outcome = error
            self.outcomes.append(outcome)
            # Read after the outcome is stored, and set by `leave` before it counts the outcomes, so none is lost.
            if self._left:
                self.crew.post(self._land)
                return False
        self.crew.idle.release()
        self.ended.release()
        return True

    def leave(self) -> tuple[list[Outcome], list[Player]]:
        """Stop waiting: returns the outcomes so far, and the players that have not started. Called on the loop."""
        self._left = True
        rest: list[Player] = []
        while self._waiting:
            try:
                rest.append(self._waiting.popleft())
            except IndexError:  # the thread took it
                break
        outcomes = list(self.outcomes)
        if len(outcomes) + len(rest) < len(self.players):
            player = self.players[len(outcomes)]
            self._job = player.job = Job(player)
        return outcomes, rest

    def _land(self) -> None:
        job = self._job
        if job is not None:  # None: `leave` already had its outcome
            job.outcome = self.outcomes[-1]
            job.player.land(job)
