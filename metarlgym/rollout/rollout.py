"""Rollout: the trials of one call of the manager, in flight on an event loop.

With a time limit, steps run in threads that the loop can abandon (`stepping.Crew`). The steps of one tick of the loop
still run sequentially and the loop waits for them, so replies keep their order. Steps of `blocking` environments run in
parallel. Without a time limit nothing is ever cut off, and steps that do not block run on the loop itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from metarlgym.author_errors import contained
from metarlgym.datatypes import MetaTrajectory, StopReason, Task
from metarlgym.rollout.choices import Choices
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.meter import Meter
from metarlgym.rollout.protocol import ActReply, ActRequest, Policy, PolicyLost, PolicyStop
from metarlgym.rollout.render import Renderer
from metarlgym.rollout.session import Session
from metarlgym.rollout.stepping import GRACE, Crew, Job
from metarlgym.trial import Trial

LATE = 0.5
"""Grace period in seconds for a running step after its time limit. A step that is slow but does not hang still ends its
trial properly, with its last reward.
"""


@dataclass(frozen=True)
class TrialSpec:
    """One trial to play."""

    make_trial: Callable[[], Trial]
    task: Task
    seed: int
    """Seed for the noise of the episodes."""
    policy_seed: tuple[int | str, ...] = field(default=(0,))
    """Seed parts of this trial's policy-sampling streams."""


def _always() -> bool:
    return True


class Rollout:
    """Plays trials concurrently.

    Args:
        specs: the trials; taken from an iterator only when there is a free place.
        total: their number.
        policy: as for the manager, like those that follow.
        ended: called with the index and the trajectory of each trial as it ends.
        loop: the running event loop.
    """

    def __init__(
        self,
        specs: Iterable[TrialSpec],
        total: int,
        policy: Policy,
        renderer: Renderer | None,
        limits: Limits,
        concurrency: int | None,
        ended: Callable[[int, MetaTrajectory], None],
        meter: Meter,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.policy = policy
        self.renderer = renderer if policy.wants_tokens else None
        self.limits = limits
        self.concurrency = concurrency
        self.ended = ended
        self.meter = meter
        self.loop = loop
        self.choices: Choices | None = None
        """Records where actions chose among legal ones."""
        self.waiting: Iterator[tuple[int, TrialSpec]] = iter(enumerate(specs))
        self.may_start: Callable[[], bool] = _always
        """Whether the next trial may start now; if not, `admit` is to be called when it may."""
        self.total = total
        self.finished = 0
        self.done = asyncio.Event()
        self.failure: BaseException | None = None
        self.timed = limits.counts_time
        shortest = min(seconds for seconds in (limits.trial_seconds, limits.episode_seconds, 4 * GRACE) if seconds)
        self.crew = Crew(loop, shortest / 4)
        self.active: set[Play] = set()
        self.ready: list[Play] = []
        """Trials whose step is taken at the end of this tick of the loop."""
        self.flush_due = self.flushing = False
        self.free = 0
        """Slots that became free during a flush."""
        self.held = 0
        self.admitting = False
        """Slots that are free because the policy has no room for another trial."""

    async def play(self) -> None:
        """Play all trials.

        Raises:
            Exception: a fault of the policy or of the rollout itself; what is in flight is lost.
        """
        try:
            if self.total:
                for _ in range(min(self.concurrency or self.total, self.total)):
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

    def in_flight(self) -> float:
        """The trials in flight, each by the fraction of its episodes that are over; callable from any thread."""
        played = [play.session.trajectory for play in list(self.active)]
        return sum((len(trial.episodes) - 1) / trial.max_episodes for trial in played if trial.episodes)

    def start_next(self) -> None:
        """Start a trial in a free slot, and in those held back, as far as the policy has room."""
        self.held += 1
        self.admit()

    def admit(self) -> None:
        """Start trials in the slots held back, as far as the policy has room."""
        self.admitting = False
        try:
            while self.held and self.failure is None and (not self.active or self.policy.room(len(self.active))):
                if not self.may_start():
                    return
                self.held -= 1
                entry = next(self.waiting, None)
                if entry is None:
                    return
                Play(self, *entry).start()
        except BaseException as error:
            self.fail(error)

    def admit_soon(self) -> None:
        """Look once more for room, after the policy has seen a request and knows more about lengths."""
        if self.held and not self.admitting:
            self.admitting = True
            self.loop.call_soon(self.admit)

    def enqueue(self, play: Play) -> None:
        self.ready.append(play)
        if not self.flush_due:
            self.flush_due = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Take the steps queued in this tick, and start trials in the slots that became free.

        Trials start here and not a tick later, so that their requests reach the policy before its next tick, as they do
        without threads.
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
        self.flushing = self.flush_due = False
        for _ in range(self.free):
            self.loop.call_soon(self.start_next)
        self.free = 0
        if self.ready:
            self.flush_due = True
            self.loop.call_soon(self.flush)

    def step_all(self) -> None:
        plays = [play for play in self.ready if not play.session.over]  # a limit may have ended some in the meantime
        self.ready = []
        if not plays or self.failure is not None:
            return
        outcomes = self.crew.in_turn(plays)
        for play in plays[len(outcomes) :]:
            play.watch()
        for play, outcome in zip(plays, outcomes):
            if isinstance(outcome, BaseException):
                raise outcome
            play.follow(outcome)

    def fail(self, error: BaseException) -> None:
        """On a fault of the manager or of the policy's `submit` itself, end the whole rollout instead of hanging."""
        self.failure = self.failure or error
        self.done.set()

    def record(self, index: int, trajectory: MetaTrajectory) -> None:
        self.finished += 1
        self.meter.trials += 1
        self.ended(index, trajectory)
        if self.finished == self.total:
            self.done.set()
        elif self.flushing:
            self.free += 1
        else:
            # Not called directly: a chain of trials that end immediately would grow the stack.
            self.loop.call_soon(self.start_next)


class Play:
    """One trial in flight. It is itself the callback that the policy calls with a reply."""

    __slots__ = ("finished", "index", "job", "reply", "run", "session", "timer")

    def __init__(self, run: Rollout, index: int, spec: TrialSpec) -> None:
        self.run = run
        self.index = index
        with contained("making a trial's environment"):
            trial = spec.make_trial()
        self.session = Session(trial, spec.task, spec.seed, spec.policy_seed, run.renderer, run.limits, run.choices)
        self.timer: asyncio.TimerHandle | None = None
        self.job: Job | None = None
        self.finished = False
        self.reply: ActReply | None = None
        """The reply for the next step; None for the first step, which starts the trial."""

    def start(self) -> None:
        run = self.run
        run.active.add(self)
        seconds = run.limits.trial_seconds
        if seconds is not None:
            self.timer = run.loop.call_later(seconds, self.expire)
        if run.timed or self.session.trial.blocking:
            self.move()
        else:
            self.follow(self.session.begin())

    def __call__(self, reply: ActReply | BaseException) -> None:
        session = self.session
        if session.over or self.run.failure is not None:
            return  # the trial ended while the policy was computing
        try:
            if isinstance(reply, PolicyStop):
                session.stop(reply.reason)
                self.follow(None)
            elif isinstance(reply, PolicyLost):
                self.run.fail(reply)
            elif isinstance(reply, BaseException):
                session.fail(reply)
                self.follow(None)
            else:
                if reply.versions is None and self.run.policy.version is not None:
                    reply.versions = [self.run.policy.version] * len(reply.ids)
                meter = self.run.meter
                meter.turns += 1
                forced = reply.thought.forced if reply.thought is not None else None
                meter.sampled_tokens += len(reply.ids) - (forced[1] - forced[0] if forced else 0)
                if self.run.timed or session.trial.blocking:
                    self.reply = reply
                    self.move()
                else:
                    self.follow(session.receive(reply))
        except BaseException as error:
            self.run.fail(error)

    def move(self) -> None:
        """Schedule the next step in a thread."""
        if self.session.trial.blocking:
            self.run.crew.alone(self)
            self.watch()
        else:
            self.run.enqueue(self)

    def step(self) -> ActRequest | None:
        return self.session.begin() if self.reply is None else self.session.receive(self.reply)

    def land(self, job: Job) -> None:
        """Continue after a step that the loop did not wait for, unless it was cut off."""
        if job is self.job:
            self.job = None
            if job.timer is not None:
                job.timer.cancel()
            if self.run.failure is not None:
                return
            try:
                if isinstance(job.outcome, BaseException):
                    raise job.outcome
                self.follow(job.outcome)
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
            run.admit_soon()
        elif not self.finished:
            self.finish(session.trajectory)

    def finish(self, trajectory: MetaTrajectory) -> None:
        self.finished = True
        if self.timer is not None:
            self.timer.cancel()
        self.run.active.discard(self)
        self.run.record(self.index, trajectory)

    # ------------------------------------------------------------------ time

    def expire(self) -> None:
        """The trial's time has run out."""
        if self.session.over or self.run.failure is not None:
            return
        if self.job is not None:
            self.timer = self.run.loop.call_later(LATE, self.cut_off, self.job)
            return
        self.session.stop(StopReason.TIME_LIMIT)
        try:
            self.follow(None)
        except BaseException as error:
            self.run.fail(error)

    def watch(self) -> None:
        """Schedule a cut-off of the running step for when its episode's time runs out."""
        job, seconds = self.job, self.run.limits.episode_seconds
        if seconds is not None and job is not None:
            rest = max(0.0, seconds - self.session.episode_age)
            job.timer = self.run.loop.call_later(rest + LATE, self.overdue, job)

    def overdue(self, job: Job) -> None:
        """An episode's time has run out while its step is still running."""
        if job is self.job and self.session.between_episodes:
            # The step ended that episode in time and is resetting the environment, so the next episode's time applies.
            seconds = self.run.limits.episode_seconds
            assert seconds is not None
            job.timer = self.run.loop.call_later(seconds, self.cut_off, job)
        else:
            self.cut_off(job)

    def cut_off(self, job: Job) -> None:
        """Continue without a step that hangs: what was played so far is the trial's result."""
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
        """Clean up when the rollout ends before the trial."""
        if self.timer is not None:
            self.timer.cancel()
        if self.job is not None:
            if self.job.timer is not None:
                self.job.timer.cancel()
            self.job.dropped = True
            self.session.trial.abandoned = True
