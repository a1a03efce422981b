"""Rollouts: plays a trainer's rollouts, each when it is asked for or in the background while the trainer learns.

With `rollouts_ahead: N` a rollout starts N rollouts before it is trained on, with the weights of that moment. With
`weight_update: drain` they do not change while a rollout is in flight, so every trial has one version, N rollouts older
than the weights it trains. With `in_flight` they do, and a trial's later tokens are by newer weights.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from metarlgym.datatypes import MetaRLGymError, Task
from metarlgym.rollout.background import BackgroundRollout
from metarlgym.rollout.manager import RolloutManager, TrialSpec
from metarlgym.rollout.meter import Meter
from metarlgym.rollout.protocol import Policy
from metarlgym.seeding import derive
from metarlgym.training.phases import ROLLOUT, WAIT
from metarlgym.training.rollout_plan import PlayedRollout, RolloutPlan
from metarlgym.trial import Trial

if TYPE_CHECKING:
    from metarlgym.training.trainer import MetaGRPOTrainer


class Rollouts:
    """Plays the rollouts of one process.

    Args:
        trainer: the trainer that learns from them.
        ahead: number of rollouts that are played before the one to be trained on next.
    """

    close_seconds = 10.0
    """How long a rollout that is given up after an error may take to end."""

    def __init__(self, trainer: MetaGRPOTrainer, ahead: int) -> None:
        self.trainer = trainer
        self.ahead = ahead
        self._first_step = 0
        self._latest: RolloutPlan | None = None
        """The plan that was taken last."""
        self._played: deque[PlayedRollout] = deque()
        self._in_flight: BackgroundRollout[list[PlayedRollout]] | None = None
        self._trials: list[Trial] = []

    def take(self, rows: Sequence[dict[str, Any]]) -> PlayedRollout:
        """The rollout that the trainer learns from next: played ahead, or now.

        Args:
            rows: this process's rows of the data set.

        Raises:
            MetaRLGymError: another rollout was played ahead than is asked for.
        """
        plan = self._latest = self._plan(rows)
        if plan.index == 0:
            self._first_step = plan.step
        self.wait()
        if not self._played:
            return self._play_now(plan)
        played = self._played.popleft()
        self.trainer.clock.played_behind.append(played.meter.seconds)
        if played.plan != plan:
            raise MetaRLGymError(
                f"the rollout of step {plan.step} is due, and that of step {played.plan.step} was played ahead: TRL's "
                "order of the data set has changed."
            )
        return played

    def start_next(self) -> None:
        """Play in the background what will be taken next, with the current weights. All processes call it together."""
        assert self._latest is not None, "the first rollout is played when it is asked for"
        plans: list[RolloutPlan] = []
        plan = self._played[-1].plan if self._played else self._latest
        for _ in range(self.ahead - len(self._played)):
            plan = self._following(plan)
            if plan.step >= self.trainer.state.max_steps:
                break
            plans.append(plan)
        if not plans:
            return
        policies = []
        for plan in plans:
            with self.trainer.player(plan.step) as policy:  # acts on after the block: see Backend.acting
                policies.append(policy)
        self._in_flight = BackgroundRollout(self._play_ahead(plans, policies))

    async def _play_ahead(self, plans: list[RolloutPlan], policies: list[Policy]) -> list[PlayedRollout]:
        """Play one rollout after the other. A failure is kept, to be raised on all processes where it is taken."""
        trainer, done = self.trainer, []
        failure: Exception | None = None
        if trainer.accelerator.device.type == "cuda":
            torch.cuda.set_device(trainer.accelerator.device)  # which every thread has its own of
        for plan, policy in zip(plans, policies, strict=True):
            trainer.clock.background = meter = Meter()
            played = PlayedRollout(plan, meter, [], failure, trainer.backend.begin_counts(policy))
            if failure is None:
                try:
                    specs = self._specs(plan)
                    played.trajectories = await self._manager(policy, meter).run_async(specs, pause_collection=False)
                except Exception as error:
                    played.failure = failure = error
            done.append(played)  # also those after a failure: all processes hold equally many
        return done

    def before_update(self) -> None:
        """Called before weights change, or something else plays: wait for rollouts in flight, if they must not."""
        if not self.trainer.args.updates_in_flight:
            self.wait()

    def wait(self) -> None:
        """Until no process has a rollout in flight: from then on weights may change, and others may play. Collective.

        Gathering shards is no such barrier: ZeRO-3 keeps small parameters whole.
        """
        if self._in_flight is None:
            return
        clock = self.trainer.clock
        with clock.during(WAIT):
            if clock.background is not None:
                clock.meter = clock.background
            self._played += self._in_flight.result()
            self.trainer.accelerator.wait_for_everyone()
        self._in_flight = clock.background = None

    def give_up(self) -> None:
        """Give up what was played or is in flight, of a run that ends early. Collective; others may play afterwards."""
        if self._in_flight is not None:
            self._in_flight.cancel()
            self.trainer.accelerator.wait_for_everyone()
        self._forget()

    def close(self) -> None:
        """The same after an error, in this process alone, and without waiting long."""
        if self._in_flight is not None:
            self._in_flight.cancel(self.close_seconds)
        self._forget()

    def _forget(self) -> None:
        self._in_flight = self.trainer.clock.background = self._latest = None
        self._played.clear()

    # ------------------------------------------------------------------ plans

    def _plan(self, rows: Sequence[dict[str, Any]]) -> RolloutPlan:
        tasks = tuple(row["task_index"] for row in rows[:: self.trainer.args.rows_per_trial])
        step, last = self.trainer.state.global_step, self._latest
        if last is None:
            return RolloutPlan(0, step, 0, tasks)
        return RolloutPlan(last.index + 1, step, last.number + 1 if last.step == step else 0, tasks)

    def _following(self, plan: RolloutPlan) -> RolloutPlan:
        """The plan after this one, also beyond the end of the run."""
        args = self.trainer.args
        cycle, steps = args.steps_per_generation * args.num_iterations, args.gradient_accumulation_steps
        # In micro-batches: several rollouts may serve one optimizer step, or one rollout several steps.
        position = plan.index + 1
        since = position * cycle // steps
        number = position - -(-since * steps // cycle)
        groups = args.generation_batch_size // args.num_generations
        tasks = tuple(index + groups for index in plan.tasks)
        return RolloutPlan(position, self._first_step + since, number, tasks)

    # ------------------------------------------------------------------ playing

    def _play_now(self, plan: RolloutPlan) -> PlayedRollout:
        trainer, meter = self.trainer, Meter()
        trainer.clock.meter = meter
        played = PlayedRollout(plan, meter, [])
        with trainer.player(plan.step) as policy, trainer.clock.during(ROLLOUT):
            played.counts = trainer.backend.begin_counts(policy)
            try:
                played.trajectories = self._manager(policy, meter).run(self._specs(plan))
            except Exception as error:
                played.failure = error
        return played

    def _manager(self, policy: Policy, meter: Meter) -> RolloutManager:
        trainer = self.trainer
        return RolloutManager(
            policy,
            trainer.renderer,
            trainer.limits,
            trainer.args.rollout_concurrency,
            choices=trainer.choices,
            meter=meter,
        )

    def _specs(self, plan: RolloutPlan) -> list[TrialSpec]:
        args, step = self.trainer.args, plan.step
        offset = self.trainer.accelerator.process_index * len(plan.tasks)
        free_shots = args.free_shots_at(step)
        specs = []
        tasks: dict[int, Task] = {}
        for i, index in enumerate(plan.tasks):
            trial = offset + i
            noise = trial // args.trials_per_task if args.common_noise else trial
            seed = derive(args.seed, "trial", step, plan.number, noise)
            policy_seed = (args.seed, "policy", step, plan.number, trial)
            task = tasks.get(index) or tasks.setdefault(index, self.trainer.group.task(index))
            specs.append(TrialSpec(partial(self._pooled_trial, i, free_shots), task, seed, policy_seed))
        return specs

    def _pooled_trial(self, i: int, free_shots: int) -> Trial:
        """Trial number i of this process, created once and reused: a reset equals a fresh environment (`check_env`).

        A trial abandoned during a step is replaced, because that step may still be running and leak into the next one.
        """
        while len(self._trials) <= i:
            self._trials.append(self.trainer.make_trial())
        if self._trials[i].abandoned:
            self._trials[i] = self.trainer.make_trial()
        self._trials[i].free_shots = free_shots
        return self._trials[i]
