"""RolloutManager: one event loop that plays all trials concurrently. There is no lock-step version of it.

The loop holds no task per trial: a policy's reply is a callback that steps one trial and hands the next request to the
policy, so trials drift apart freely and none waits for another.

Where a time limit is set, steps run in threads that the loop can leave behind (`stepping.Crew`). The steps of one tick
of the loop still run one after the other, and the loop waits for them, so replies keep their order. Steps of `blocking`
environments run side by side. Without a time limit nothing is ever cut off, and steps that do not block run on the loop
itself.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from metarlgym.datatypes import MetaTrajectory, StopReason, Task
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.protocol import ActReply, ActRequest, Policy, PolicyLost, PolicyStop
from metarlgym.rollout.render import Renderer
from metarlgym.rollout.session import Session
from metarlgym.rollout.stepping import GRACE, Crew, Job
from metarlgym.trial import Trial

LATE = 0.5
"""Seconds that a running step has to return after a time limit has passed. A step that is slow but does not hang still
ends its trial in order, with its last reward."""


@dataclass(frozen=True)
class TrialSpec:
    """One trial to play."""

    make_trial: Callable[[], Trial]
    task: Task
    seed: int
    """Seeds the episodes' noise."""
    policy_seed: tuple[int | str, ...] = field(default=(0,))
    """Names the policy's sampling streams of this trial."""


class RolloutManager:
    """Plays trials against a policy.

    Args:
        policy: picks the actions.
        renderer: text to tokens; None for policies that work on text.
        limits: see `Limits`.
        concurrency: most trials alive at once; None for all.
        progress: called with the number of trials finished so far, after each.
    """

    def __init__(
        self,
        policy: Policy,
        renderer: Renderer | None = None,
        limits: Limits | None = None,
        concurrency: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.policy = policy
        self.renderer = renderer
        self.limits = limits or Limits()
        self.concurrency = concurrency
        self.progress = progress

    def run(self, specs: Sequence[TrialSpec]) -> list[MetaTrajectory]:
        """Play all trials and return their trajectories in the order of `specs`."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self.run_async(specs))
        return _run_beside(self.run_async(specs))

    async def run_async(self, specs: Sequence[TrialSpec]) -> list[MetaTrajectory]:
        """As `run`, inside a running event loop."""
        loop = asyncio.get_running_loop()
        await self.policy.begin(loop)
        try:
            with _no_garbage_collection():
                return await _Run(self, specs, loop).play()
        finally:
            await self.policy.end()


class _Run:
    """One call of `run_async`."""

    def __init__(self, manager: RolloutManager, specs: Sequence[TrialSpec], loop: asyncio.AbstractEventLoop) -> None:
        self.manager = manager
        self.policy = manager.policy
        self.renderer = manager.renderer if self.policy.wants_tokens else None
        self.loop = loop
        self.waiting: Iterator[tuple[int, TrialSpec]] = iter(enumerate(specs))
        self.results: list[MetaTrajectory | None] = [None] * len(specs)
        self.finished = 0
        self.done = asyncio.Event()
        self.failure: BaseException | None = None
        limits = manager.limits
        self.timed = limits.counts_time
        shortest = min(seconds for seconds in (limits.trial_seconds, limits.episode_seconds, 4 * GRACE) if seconds)
        self.crew = Crew(loop, shortest / 4)
        self.active: set[_Play] = set()
        self.ready: list[_Play] = []
        """Trials whose step waits for the end of this tick."""
        self.flushing = False
        self.free = 0
        """Places that became free during a flush."""

    async def play(self) -> list[MetaTrajectory]:
        total = len(self.results)
        try:
            if total:
                for _ in range(min(self.manager.concurrency or total, total)):
                    self.start_next()
                await self.done.wait()
                if self.failure is not None:
                    raise self.failure
        except BaseException as error:
            self.fail(error)
            raise
        finally:
            self.crew.close()
            for play in self.active:
                play.leave()
        return [result for result in self.results if result is not None]

    def start_next(self) -> None:
        entry = next(self.waiting, None)
        if entry is not None and self.failure is None:
            try:
                _Play(self, *entry).start()
            except BaseException as error:
                self.fail(error)

    def enqueue(self, play: _Play) -> None:
        """Have the trial's job run at the end of this tick of the loop."""
        self.ready.append(play)
        if len(self.ready) == 1 and not self.flushing:
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Run the steps that this tick has brought, and begin the trials for which places became free.

        New trials begin in the same call, because without threads, too, they would ask before the policy's next tick.
        """
        self.flushing = True
        try:
            self.step_all()
            if self.free:
                free, self.free = self.free, 0
                for _ in range(free):
                    self.start_next()
                self.step_all()
        except BaseException as error:
            self.fail(error)
        self.flushing = False
        for _ in range(self.free):
            self.loop.call_soon(self.start_next)
        self.free = 0
        if self.ready:
            self.loop.call_soon(self.flush)

    def step_all(self) -> None:
        plays, self.ready = self.ready, []
        if self.failure is not None:
            return
        jobs = [play.job for play in plays if play.job is not None]  # None: the trial was ended while it waited
        finished = self.crew.in_turn(jobs)
        if len(finished) < len(jobs):
            for play in plays:
                play.watch()
        for job in finished:
            job.land(job)

    def fail(self, error: BaseException) -> None:
        """A fault of the manager or of the policy's `submit` itself: end the whole rollout instead of hanging it."""
        self.failure = self.failure or error
        self.done.set()

    def record(self, index: int, trajectory: MetaTrajectory) -> None:
        self.results[index] = trajectory
        self.finished += 1
        if self.manager.progress is not None:
            self.manager.progress(self.finished)
        if self.finished == len(self.results):
            self.done.set()
        elif self.flushing:
            self.free += 1
        else:
            # Not called directly: a chain of trials that end at once would grow the stack.
            self.loop.call_soon(self.start_next)


class _Play:
    """One trial in flight. It is itself the callback that the policy calls with a reply."""

    __slots__ = ("index", "job", "run", "session", "timer")

    def __init__(self, run: _Run, index: int, spec: TrialSpec) -> None:
        self.run = run
        self.index = index
        trial = spec.make_trial()
        self.session = Session(trial, spec.task, spec.seed, spec.policy_seed, run.renderer, run.manager.limits)
        self.timer: asyncio.TimerHandle | None = None
        self.job: Job | None = None
        """The step that runs in a thread, or waits for one."""

    def start(self) -> None:
        self.run.active.add(self)
        seconds = self.run.manager.limits.trial_seconds
        if seconds is not None:
            self.timer = self.run.loop.call_later(seconds, self.expire)
        self.move(self.session.begin)

    def __call__(self, reply: ActReply | BaseException) -> None:
        session = self.session
        if session.over or self.run.failure is not None:
            return  # the trial was ended while the policy was thinking
        try:
            if isinstance(reply, PolicyStop):
                session.stop(reply.reason)
                self.follow(None)
            elif isinstance(reply, PolicyLost):
                self.run.fail(reply)
            elif isinstance(reply, BaseException):
                session.fail(reply)
                self.follow(None)
            elif self.run.timed or session.trial.blocking:
                self.move(partial(session.receive, reply))
            else:
                self.follow(session.receive(reply))
        except BaseException as error:
            self.run.fail(error)

    def move(self, step: Callable[[], ActRequest | None]) -> None:
        """Run one step of the session, in a thread if it may wait or hang."""
        run = self.run
        if self.session.trial.blocking:
            self.job = Job(step, self.land)
            run.crew.alone(self.job)
            self.watch()
        elif run.timed:
            self.job = Job(step, self.land)
            run.enqueue(self)
        else:
            self.follow(step())

    def land(self, job: Job) -> None:
        """Go on after a step that ran in a thread, unless it was cut off."""
        if job is not self.job or self.run.failure is not None:
            return
        self.job = None
        if job.timer is not None:
            job.timer.cancel()
        try:
            if job.error is not None:
                raise job.error
            self.follow(job.request)
        except BaseException as error:
            self.run.fail(error)

    def follow(self, request: ActRequest | None) -> None:
        run, session = self.run, self.session
        if session.retired:
            for context in session.retired:
                run.policy.forget(context)
            session.retired.clear()
        if request is not None:
            run.policy.submit(request, self)
        elif run.results[self.index] is None:
            self.finish(session.trajectory)

    def finish(self, trajectory: MetaTrajectory) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.run.active.discard(self)
        self.run.record(self.index, trajectory)

    # ------------------------------------------------------------------ time

    def expire(self) -> None:
        """The trial's time is over."""
        job = self.job
        if self.session.over or self.run.failure is not None:
            return
        if job is not None and job.running:
            self.timer = self.run.loop.call_later(LATE, self.cut_off, job)
            return
        self.job = None
        self.session.stop(StopReason.TIME_LIMIT)
        try:
            self.follow(None)
        except BaseException as error:
            self.run.fail(error)

    def watch(self) -> None:
        """Have the running step cut off when its episode takes too long."""
        job, seconds = self.job, self.run.manager.limits.episode_seconds
        if seconds is not None and job is not None and not job.finished:
            rest = max(0.0, seconds - self.session.episode_age)
            job.timer = self.run.loop.call_later(rest + LATE, self.overdue, job)

    def overdue(self, job: Job) -> None:
        """An episode's time is over and its step still running."""
        if job is self.job and self.session.between_episodes:
            # The step has ended that episode in time and resets the environment: this is the next episode's time.
            seconds = self.run.manager.limits.episode_seconds
            assert seconds is not None
            job.timer = self.run.loop.call_later(seconds, self.cut_off, job)
        else:
            self.cut_off(job)

    def cut_off(self, job: Job) -> None:
        """Go on without a step that hangs: what was played until now is the trial's result."""
        if job is not self.job or self.run.failure is not None:
            return
        self.job = None
        job.dropped = True
        try:
            trajectory = self.session.abandon()
            context = self.session.marked_context
            if context is not None:
                self.run.policy.forget(context)
            self.finish(trajectory)
        except BaseException as error:
            self.run.fail(error)

    def leave(self) -> None:
        """The rollout ends before the trial does."""
        for timer in (self.timer, self.job and self.job.timer):
            if timer is not None:
                timer.cancel()
        if self.job is not None and self.job.running and not self.job.finished:
            self.job.dropped = True
            self.session.trial.abandoned = True


def _run_beside(play: Coroutine[Any, Any, list[MetaTrajectory]]) -> list[MetaTrajectory]:
    """Run a rollout in a thread with a loop of its own: in a notebook a loop is running already."""
    outcome: Future[list[MetaTrajectory]] = Future()
    started: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    async def main() -> list[MetaTrajectory]:
        task = asyncio.current_task()
        assert task is not None
        started.append((asyncio.get_running_loop(), task))
        return await play

    def work() -> None:
        try:
            outcome.set_result(asyncio.run(main()))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=work, name="rollouts", daemon=True).start()
    try:
        return outcome.result()
    except KeyboardInterrupt:
        for loop, task in started:  # or the rollout would go on unseen
            with suppress(RuntimeError):  # it has just ended
                loop.call_soon_threadsafe(task.cancel)
        raise


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A rollout makes many small objects and no cycles; collecting over torch's heap took 40% of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
