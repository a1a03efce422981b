"""RolloutManager: one event loop that plays all trials concurrently. There is no lock-step version of it.

The loop holds no task per trial: a policy's reply is a callback that steps one trial and hands the next request to the
policy, so trials drift apart freely and none waits for another.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from metarlgym.datatypes import MetaTrajectory, StopReason, Task
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.protocol import ActReply, ActRequest, Policy, PolicyLost, PolicyStop
from metarlgym.rollout.render import Renderer
from metarlgym.rollout.session import Session
from metarlgym.trial import Trial


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
            running = True
        except RuntimeError:
            running = False
        if not running:
            return asyncio.run(self.run_async(specs))
        # Inside a notebook a loop is running already: play in a thread with a loop of its own.
        result: list[MetaTrajectory] = []
        failure: list[BaseException] = []

        def work() -> None:
            try:
                result.extend(asyncio.run(self.run_async(specs)))
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=work, name="rollouts")
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return result

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

    async def play(self) -> list[MetaTrajectory]:
        total = len(self.results)
        if total:
            for _ in range(min(self.manager.concurrency or total, total)):
                self.start_next()
            await self.done.wait()
            if self.failure is not None:
                raise self.failure
        return [result for result in self.results if result is not None]

    def start_next(self) -> None:
        entry = next(self.waiting, None)
        if entry is not None and self.failure is None:
            try:
                _Play(self, *entry).start()
            except BaseException as error:
                self.fail(error)

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
        else:
            # Not called directly: a chain of trials that end at once would grow the stack.
            self.loop.call_soon(self.start_next)


class _Play:
    """One trial in flight. It is itself the callback that the policy calls with a reply."""

    __slots__ = ("index", "run", "session", "timer")

    def __init__(self, run: _Run, index: int, spec: TrialSpec) -> None:
        self.run = run
        self.index = index
        trial = spec.make_trial()
        self.session = Session(trial, spec.task, spec.seed, spec.policy_seed, run.renderer, run.manager.limits)
        self.timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
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
            elif session.trial.blocking:
                self.move(partial(session.receive, reply))
            else:
                self.follow(session.receive(reply))
        except BaseException as error:
            self.run.fail(error)

    def move(self, step: Callable[[], ActRequest | None]) -> None:
        """Run one step of the session, in a thread if its environment waits."""
        if self.session.trial.blocking:
            self.run.loop.run_in_executor(None, step).add_done_callback(self.landed)
        else:
            self.follow(step())

    def landed(self, future: asyncio.Future[ActRequest | None]) -> None:
        try:
            self.follow(future.result())
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
            if self.timer is not None:
                self.timer.cancel()
            run.record(self.index, session.trajectory)

    def expire(self) -> None:
        """The trial's wall time is over while the policy is still thinking."""
        if not self.session.over:
            self.session.stop(StopReason.TIME_LIMIT)
            try:
                self.follow(None)
            except BaseException as error:
                self.run.fail(error)


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
