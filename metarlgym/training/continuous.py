"""Continuous: a fixed number of trials is always in flight, and the trainer learns from groups in the order they end.

The trials play in a thread, and the weights are updated under them. A batch is made of whole groups; `GroupQueue`
decides which, so that no group is older than `max_staleness` updates and none is thrown away. A group's task and seeds
follow from its number, so a resumed run plays those again that were in flight.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object

from metarlgym.datatypes import MetaRLGymError, MetaTrajectory
from metarlgym.rollout.background import BackgroundRollout
from metarlgym.rollout.manager import RolloutManager, TrialSpec
from metarlgym.rollout.meter import Meter
from metarlgym.rollout.protocol import Policy
from metarlgym.rollout.rollout import Rollout
from metarlgym.seeding import derive
from metarlgym.training.group_queue import GroupQueue
from metarlgym.training.phases import WAIT
from metarlgym.training.rollout_plan import PlayedRollout, RolloutPlan
from metarlgym.training.rollouts import Rollouts
from metarlgym.training.trained_groups import TrainedGroups
from metarlgym.trial import Trial

if TYPE_CHECKING:
    from metarlgym.training.trainer import MetaGRPOTrainer

STATE = "trained_groups"
"""Where the trainer's state, and with it each checkpoint, keeps the groups that were trained on."""


class Continuous(Rollouts):
    """Plays the groups of one process.

    Args:
        trainer: the trainer that learns from them.
    """

    def __init__(self, trainer: MetaGRPOTrainer) -> None:
        super().__init__(trainer, ahead=0)
        args = trainer.args
        self._size: int = args.trials_per_task
        self._places: int | None = args.rollout_concurrency
        self._changed = threading.Condition()
        """Guards what both threads use, and tells the trainer's that a group has ended."""
        self._reset()

    def _reset(self) -> None:
        self._numbers: list[int] | None = None
        """Numbers of this process's groups, in the order in which they are played; None: not yet known."""
        self._trained = TrainedGroups()
        self._queue: GroupQueue | None = None
        self._stream: BackgroundRollout[None] | None = None
        self._manager_in_play: RolloutManager | None = None
        self._rollout: Rollout | None = None
        self._counts: Any = None
        self._trials_of: dict[int, list[MetaTrajectory | None]] = {}
        self._order: list[int] = []
        """Numbers of the groups that were begun."""
        self._begun_trials = 0
        self._in_play: dict[int, Trial] = {}
        self._idle_trials: list[Trial] = []
        self._alive, self._occupied, self._mark = 0, 0.0, time.monotonic()

    # ------------------------------------------------------------------ the trainer's thread

    def take(self, rows: Sequence[dict[str, Any]]) -> PlayedRollout:
        """The groups that the trainer learns from next; waits until enough of them have ended. Collective.

        Args:
            rows: this process's rows of the data set; only their number matters.
        """
        trainer, step = self.trainer, self.trainer.state.global_step
        batch = len(rows) // trainer.args.num_generations
        if self._numbers is None:
            self._numbers = self._left(batch)
        if step < trainer.args.format_steps:
            numbers = [self._numbers.pop(0) for _ in range(batch)]
            played = self._play_now(self._plan_of(step, numbers))
        else:
            if self._stream is None:
                self._begin(batch, step)
            with trainer.clock.during(WAIT):
                played = self._wait_for_batch(step)
        numbers = list(dict.fromkeys(played.plan.tasks)) if played.failure is None else []
        for trained in gather_object([numbers]):
            self._trained.add(trained)
        trainer.state.stateful_callbacks[STATE] = self._trained.to_dict()
        return played

    def _left(self, batch: int) -> list[int]:
        """Numbers of this process's groups that the run has not trained on yet."""
        trainer = self.trainer
        processes, step = trainer.accelerator.num_processes, trainer.state.global_step
        kept = trainer.state.stateful_callbacks.get(STATE) if step else None
        self._trained = TrainedGroups(**kept) if kept else TrainedGroups(below=step * batch * processes)
        left = self._trained.next((trainer.state.max_steps - step) * batch * processes)
        return left[trainer.accelerator.process_index :: processes]

    def _begin(self, batch: int, step: int) -> None:
        assert self._numbers is not None
        trainer = self.trainer
        self._queue = self._make_queue(batch, step)
        with trainer.player(step) as policy:  # acts on after the block: see Backend.acting
            pass
        meter = trainer.clock.background = Meter()
        self._manager_in_play = manager = self._manager(policy, meter)
        manager.concurrency = self._places = self._places or batch * self._size
        self._counts = trainer.backend.begin_counts(policy)
        self._stream = BackgroundRollout(self._play(manager, policy, len(self._numbers) * self._size))
        self._stream.when_done(self._notify)

    def _make_queue(self, batch: int, step: int) -> GroupQueue:
        return GroupQueue(batch, self.trainer.args.staleness, step)

    def _wait_for_batch(self, step: int) -> PlayedRollout:
        assert self._queue is not None and self._stream is not None
        clock = self.trainer.clock
        if clock.background is not None:
            clock.meter = clock.background
        self._admit()  # newer weights may begin more groups
        with self._changed:
            numbers = self._queue.take()
            while numbers is None and not self._stream.done:
                self._changed.wait()
                numbers = self._queue.take()
            trials = [trial for number in numbers or () for trial in self._trials_of.pop(number)]
            self._occupy(0)
            occupied, self._occupied = self._occupied, 0.0
        assert self._places is not None
        clock.played_behind.append(occupied / self._places)
        plan = self._plan_of(step, numbers or [])
        meter, counts = self._next_counts()
        played = PlayedRollout(plan, meter, [trial for trial in trials if trial is not None], counts=counts)
        if numbers is None:
            failure = self._stream.failure
            if not isinstance(failure, Exception):
                failure = MetaRLGymError(f"the trials ended before the training did: {failure!r}")
            played.failure = failure
        self._admit()  # and so is there now
        return played

    def _admit(self) -> None:
        """Begin groups for which there has been no room."""
        if self._rollout is not None and self._stream is not None:
            self._stream.call(self._rollout.admit)

    def _next_counts(self) -> tuple[Meter, Any]:
        """Begin to count anew; returns what was counted since the last call."""
        trainer, manager, rollout = self.trainer, self._manager_in_play, self._rollout
        assert manager is not None
        meter, counts = manager.meter, self._counts
        self._counts = trainer.backend.begin_counts(manager.policy)
        if rollout is not None and self._stream is not None and not self._stream.done:
            new = Meter()
            new.begin(0, manager.policy, rollout.in_flight)
            manager.meter = rollout.meter = trainer.clock.background = new
        meter.end()
        return meter, counts

    def _plan_of(self, step: int, numbers: Sequence[int]) -> RolloutPlan:
        return RolloutPlan(step, step, 0, tuple(number for number in numbers for _ in range(self._size)))

    def start_next(self) -> None:
        """Nothing to do: trials are in flight all the time."""

    def give_up(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
            self.trainer.accelerator.wait_for_everyone()
        self._forget()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.cancel(self.close_seconds)
        self._forget()

    def _forget(self) -> None:
        super()._forget()
        self._reset()

    # ------------------------------------------------------------------ the thread that plays

    async def _play(self, manager: RolloutManager, policy: Policy, total: int) -> None:
        if self.trainer.accelerator.device.type == "cuda":
            torch.cuda.set_device(self.trainer.accelerator.device)  # which every thread has its own of

        def started(rollout: Rollout) -> None:
            self._rollout = rollout
            manager.meter.planned = 0
            rollout.may_start = partial(self._may_start, policy)

        await manager.play_async(self._specs_in_turn(policy), total, self._ended, started)

    def _may_start(self, policy: Policy) -> bool:
        assert self._queue is not None
        with self._changed:
            midway = self._begun_trials % self._size > 0  # a group that has begun goes on
            return midway or self._queue.may_begin(self._version(policy))

    def _specs_in_turn(self, policy: Policy) -> Iterator[TrialSpec]:
        """The trials of one group after the other, each made when there is a place for it."""
        assert self._numbers is not None and self._queue is not None
        args = self.trainer.args
        for number in self._numbers:
            version = self._version(policy)
            task = self.trainer.group.task(number)
            shots = args.free_shots_at(version)
            with self._changed:
                self._queue.begin(number, version)
                self._order.append(number)
                self._trials_of[number] = [None] * self._size
            for i in range(self._size):
                with self._changed:
                    self._occupy(1)
                    index, self._begun_trials = self._begun_trials, self._begun_trials + 1
                seed = derive(args.seed, "group", number, 0 if args.common_noise else i)
                yield TrialSpec(
                    partial(self._idle_trial, index, shots), task, seed, (args.seed, "policy", "group", number, i)
                )

    @staticmethod
    def _version(policy: Policy) -> int:
        assert policy.version is not None
        return policy.version

    def _idle_trial(self, index: int, free_shots: int) -> Trial:
        """A trial that nobody plays; reused, because a reset equals a fresh environment (`check_env`)."""
        trial = self._idle_trials.pop() if self._idle_trials else self.trainer.make_trial()
        trial.free_shots = free_shots
        self._in_play[index] = trial
        return trial

    def _ended(self, index: int, trajectory: MetaTrajectory) -> None:
        trial = self._in_play.pop(index)
        if not trial.abandoned:  # else one of its steps may still be running
            self._idle_trials.append(trial)
        with self._changed:
            self._occupy(-1)
            number = self._order[index // self._size]
            trials = self._trials_of[number]
            trials[index % self._size] = trajectory
            if all(trial is not None for trial in trials):
                assert self._queue is not None
                self._queue.finish(number)
                self._changed.notify_all()

    def _occupy(self, more: int) -> None:
        """Count the seconds of all places in use, before `more` of them are."""
        now = time.monotonic()
        self._occupied += self._alive * (now - self._mark)
        self._mark, self._alive = now, self._alive + more

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
