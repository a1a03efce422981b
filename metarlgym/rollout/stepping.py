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
from typing import Protocol

from metarlgym.rollout.protocol import ActRequest

GRACE = 0.25
"""Seconds for which the event loop waits for a single step before it goes on without it."""
REST = 10
"""After such a wait was in vain, the loop waits for no step during this many times `GRACE`: several hanging steps, one
after the other, must not stop the healthy trials."""

Outcome = ActRequest | BaseException | None
"""What a step came to: the next request, None where the trial is over, or an error of the rollout itself."""


class Player(Protocol):
    """A trial in flight, as the crew sees it."""

    job: Job | None
    """Its step that runs without the loop waiting for it."""

    def step(self) -> ActRequest | None:
        """Take the step that is due; called in a thread."""

    def land(self, job: Job) -> None:
        """Take the outcome of a job; called on the loop, perhaps after another job has taken its place."""


class Job:
    """A step that runs in a thread while the loop goes on."""

    __slots__ = ("dropped", "outcome", "player", "timer")

    def __init__(self, player: Player) -> None:
        self.player = player
        self.outcome: Outcome = None
        self.dropped = False
        """Nobody waits for it any longer."""
        self.timer: asyncio.TimerHandle | None = None


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
        self.idle = threading.Semaphore(0)
        """Released by a thread that is about to take more work, before the loop hears of what it has done: otherwise
        the loop would start another thread for the next step."""
        self._threads: set[threading.Thread] = set()
        self._patient_from = 0.0

    def alone(self, player: Player) -> None:
        """Run a step beside all others, as `player.job`."""
        job = player.job = Job(player)

        def work() -> bool:
            if job.dropped:  # it never came to a thread
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
        """Run steps one after the other in one thread, and wait for them.

        Returns:
            The outcomes of the first so many players: nearly always of all. Where a step takes longer than `grace`, it
            and those behind it go on as if started by `alone`.
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
        except BaseException:  # Ctrl-C: whose step is running now must not be used again
            series.leave()
            raise
        return series.outcomes

    def close(self) -> None:
        """End the threads, each as soon as its step returns."""
        self._work.put(None)

    def post(self, callback: Callable[..., object], *args: object) -> None:
        """Call something on the loop, from a thread."""
        try:
            self.loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            return  # the rollout has ended and its loop is closed: nobody waits for this

    def _start(self, work: Callable[[], bool]) -> None:
        """Have a thread do the work, which releases `idle`, or returns False where its thread was left behind."""
        self._work.put(work)
        if self.idle.acquire(blocking=False):
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
        self._work.put(None)  # for the next thread


class _Series:
    """Steps that one thread takes in turn while the loop waits for `ended`."""

    def __init__(self, crew: Crew, players: Sequence[Player]) -> None:
        self.crew = crew
        self.players = players
        self.outcomes: list[Outcome] = []
        self.began = time.monotonic()
        """When the step that is running now began."""
        self.ended = threading.Lock()
        self.ended.acquire()
        self._waiting = deque(players)
        self._left = False
        self._job: Job | None = None
        """The step that was running when the loop went on."""

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
            # Read after the outcome is there, and set by `leave` before it counts the outcomes: none is lost.
            if self._left:
                self.crew.post(self._land)
                return False
        self.crew.idle.release()
        self.ended.release()
        return True

    def leave(self) -> tuple[list[Outcome], list[Player]]:
        """The loop goes on: returns the outcomes until now, and who has not begun. Called on the loop."""
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
        if job is not None:  # None: `leave` had its outcome already
            job.outcome = self.outcomes[-1]
            job.player.land(job)
