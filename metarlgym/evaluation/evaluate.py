"""evaluate: plays held-out trials and reports the adaptation curve, the optimum, random play and the two controls."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from metarlgym.author_errors import error_line
from metarlgym.datatypes import ConfigError, MetaRLGymError, MetaTrajectory, StopReason, Task
from metarlgym.evaluation.choice import FIRST, GROWTH, Choice, choose
from metarlgym.evaluation.controls import donors_of
from metarlgym.evaluation.metrics import cut_rates, mean_ci, normalized_score, return_matrix
from metarlgym.evaluation.report import Control, EvalReport
from metarlgym.evaluation.watch import Watch
from metarlgym.memory import Memory, NoMemory, Shuffled
from metarlgym.policies.scripted import RandomPolicy
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.manager import RolloutManager, TrialSpec
from metarlgym.rollout.prompt_room import no_room, stuck
from metarlgym.rollout.protocol import Policy
from metarlgym.rollout.render import Renderer
from metarlgym.rollout.reply import shortest_reply
from metarlgym.rollout.thinking import thought_rates
from metarlgym.seeding import derive
from metarlgym.tasks import TaskGroup
from metarlgym.trial import TrialSettings


@dataclass(frozen=True)
class EvalSettings:
    """Settings of an evaluation."""

    trial: TrialSettings
    trials: int
    """Number of trials to play; with `seconds`, the largest number."""
    seconds: float | None = None
    """If given, fewer trials are played so that all passes take about this long. Trial i is the same whatever the
    number. For one process.
    """
    seed: int = 0
    after_success: Literal["repeat", "zero"] = "repeat"
    controls: bool = True
    baselines: bool = True
    """Also play the random policy on the same trials."""
    concurrency: int | None = 1024
    limits: Limits = field(default_factory=Limits)


Gather = Callable[[list[Any]], list[Any]]


def evaluate(
    group: TaskGroup,
    policy: Policy,
    renderer: Renderer | None,
    settings: EvalSettings,
    *,
    shard: tuple[int, int] = (0, 1),
    gather: Gather | None = None,
    watch: Watch | None = None,
    keep: list[MetaTrajectory] | None = None,
) -> EvalReport:
    """Play `settings.trials` held-out trials and report on them.

    Trial i plays task i of the eval split with episode noise that depends only on the seed and i, so that two policies
    evaluated with the same seed face the same tasks and environment noise.

    Args:
        group: the task group.
        policy: chooses the actions.
        renderer: None for policies that act on text.
        settings: see `EvalSettings`.
        shard: (rank, processes): selects this process's share of the trials.
        gather: concatenates lists over processes.
        watch: is told what happens as it happens.
        keep: a list to which the trajectories of the main pass are appended.

    Returns:
        The report, without the fields about the model.

    Raises:
        ConfigError: if a content-split group holds fewer tasks than the requested trials.
    """
    return _Evaluation(group, policy, renderer, settings, shard, gather, watch or Watch()).report(keep)


class _Evaluation:
    def __init__(
        self,
        group: TaskGroup,
        policy: Policy,
        renderer: Renderer | None,
        settings: EvalSettings,
        shard: tuple[int, int],
        gather: Gather | None,
        watch: Watch,
    ) -> None:
        if settings.trials < 1:
            raise ConfigError(f"trials={settings.trials} must be at least 1.")
        if settings.seconds is not None and gather is not None:
            raise ConfigError(f"seconds={settings.seconds:g} is for one process: with several, give trials alone.")
        self.group, self.policy, self.renderer, self.settings = group, policy, renderer, settings
        self.gather, self.watch = gather, watch
        self.tasks = group.tasks(settings.trials, "eval")
        rank, processes = shard
        self.own = range(rank * settings.trials // processes, (rank + 1) * settings.trials // processes)

    def play(
        self, name: str, policy: Policy, renderer: Renderer | None, memory: Callable[[int], Memory] | None = None
    ) -> list[MetaTrajectory]:
        """Play one pass over all trials; every process gets all trajectories, in order."""
        self.watch.begin(name, len(self.own))
        return self._play(name, policy, renderer, memory, self.own)

    def _play(
        self,
        name: str,
        policy: Policy,
        renderer: Renderer | None,
        memory: Callable[[int], Memory] | None,
        part: range,
    ) -> list[MetaTrajectory]:
        settings = self.settings

        def spec(i: int) -> TrialSpec:
            trial = settings.trial if memory is None else replace(settings.trial, memory=memory(i))
            make_trial = partial(self.group.make_trial, trial)
            seed = derive(settings.seed, "eval", "trial", i)
            return TrialSpec(make_trial, self.tasks[i], seed, (settings.seed, "eval", name, i))

        def ended(i: int, trajectory: MetaTrajectory) -> None:
            self.watch.trial(name, part[i], trajectory)

        meter = self.watch.meter if policy is self.policy else None
        manager = RolloutManager(policy, renderer, settings.limits, settings.concurrency, on_trial=ended, meter=meter)
        if self.gather is None:
            return manager.run([spec(i) for i in part])
        played, failure = [], None
        try:
            played = manager.run([spec(i) for i in part])
        except Exception as error:  # gathered before raising: the other processes wait for this one's trials
            failure = error
        failed = [text for text in self.gather([error_line(failure) if failure else None]) if text]
        if failed:
            raise MetaRLGymError(f"the evaluation ({name}) failed: {failed[0]}") from failure
        return self.gather(played)

    def _play_main(self) -> list[MetaTrajectory]:
        """The main pass; with a time to keep, batch by batch until the number of trials is known."""
        budget, most = self.settings.seconds, self.settings.trials
        if budget is None:
            return self.play("main", self.policy, self.renderer)
        self.watch.begin("main", 0)
        passes = 3 if self.settings.controls else 1  # random play takes no time beside a model
        played: list[MetaTrajectory] = []
        goal = min(FIRST, most)
        start = time.monotonic()
        known = False
        while True:
            before, now = len(played), time.monotonic()
            played += self._play("main", self.policy, self.renderer, None, range(before, goal))
            if known:
                return played
            spent = time.monotonic() - now
            each = spent / (goal - before)
            chosen = choose(goal, each, passes, budget, most)
            goal, known = min(chosen, GROWTH * goal), chosen <= GROWTH * goal
            if known:
                rest = [passes * n - len(played) for n in (chosen, most)]
                took = time.monotonic() - start
                self.watch.chosen(Choice(chosen, most, took + rest[0] * each, took + rest[1] * each))
                self.settings = replace(self.settings, trials=chosen)
                self.tasks, self.own = self.tasks[:chosen], range(chosen)
                if chosen == len(played):
                    return played

    def report(self, keep: list[MetaTrajectory] | None) -> EvalReport:
        settings = self.settings
        main = self._play_main()
        prompt = stuck(main)
        if prompt is not None:
            action = shortest_reply(self.renderer) if self.renderer else 1
            raise ConfigError(
                no_room(prompt, action, {"max_context_tokens or the model's positions": settings.limits.context_tokens})
            )
        if keep is not None:
            keep.extend(main)
        report = self._summary(main)
        # Of all episodes, whether they count or not, like the return beside it.
        optimum = self.group.optimum(replace(settings.trial, free_shots=0))
        if settings.baselines:
            totals = self._matrix(self.play("random", RandomPolicy(), None)).sum(1)
            report.random, report.random_ci95 = mean_ci(totals)
        if optimum:
            report.optimum, report.optimum_kind = optimum.total, optimum.kind
            report.optimum_curve = list(optimum.curve) if optimum.curve else None
            report.optimum_lower = optimum.lower
        report.no_memory_bound = self.group.env.no_memory_bound(settings.trial.most_episodes)
        report.normalized_score = normalized_score(report.return_mean, report.optimum, report.random)
        if report.normalized_score is None and settings.baselines:
            report.optimum = None
        report.controls = {"no_memory": None, "shuffled": None}
        if settings.controls:
            report.controls, missing = self._controls(main)
            report.controls_missing = missing or None
        return report

    def _matrix(self, trajectories: list[MetaTrajectory]) -> np.ndarray:
        return return_matrix(trajectories, self.settings.after_success)

    def _summary(self, main: list[MetaTrajectory]) -> EvalReport:
        settings = self.settings
        returns = self._matrix(main)
        mean, interval = mean_ci(returns.sum(1))
        curve = [mean_ci(column) for column in returns.T]
        shots = settings.trial.free_shots
        cut = cut_rates(main)
        return EvalReport(
            task_group=self.group.env_id,
            env_args=self.group.env_args,
            episodes=settings.trial.most_episodes,
            trials=len(main),
            return_mean=mean,
            return_ci95=interval,
            curve=[value for value, _ in curve],
            curve_ci95=[ci for _, ci in curve],
            slope=curve[-1][0] - curve[0][0],
            invalid_rate=sum(e.invalid for t in main for e in t.episodes) / max(1, sum(t.turns for t in main)),
            truncation_rate=cut["truncation_rate"],
            episode_cut_rate=cut["episode_cut_rate"],
            action_cut_rate=cut["action_cut_rate"],
            errors=sum(t.stop is StopReason.ERROR for t in main),
            memory=str(settings.trial.memory),
            free_shots=shots,
            seed=settings.seed,
            task_keys_hash=_hash_keys(self.tasks),
            keep_thoughts=None if (kept := settings.trial.keep_thoughts) == "all" else kept,
            **self._thoughts(main),
            return_weighted_mean=float(returns[:, shots:].sum(1).mean()) if shots else None,
        )

    def _thoughts(self, main: list[MetaTrajectory]) -> dict[str, Any]:
        if self.renderer is None or self.renderer.thinking is None:
            return {}
        counts = [(t.turns, t.thoughts, t.cut_thoughts, t.thought_tokens) for t in main]
        return dict(thought_rates(*map(sum, zip(*counts))))

    def _controls(self, main: list[MetaTrajectory]) -> tuple[dict[str, Control | None], dict[str, str]]:
        """The controls, and why those that are None could not be played."""
        wiped = self._matrix(self.play("no_memory", self.policy, self.renderer, lambda i: NoMemory()))
        controls: dict[str, Control | None] = {"no_memory": _control(wiped), "shuffled": None}
        donors = donors_of([task.key for task in self.tasks], derive(self.settings.seed, "shuffled"))
        missing: dict[str, str] = {}
        if donors is None:
            missing["shuffled"] = "all trials are of one task, so that there is no other history to show"
        else:
            mixed = self.play(
                "shuffled", self.policy, self.renderer, lambda i: Shuffled(tuple(main[donors[i]].episodes))
            )
            controls["shuffled"] = _control(self._matrix(mixed))
        return controls, missing


def _control(returns: np.ndarray) -> Control:
    return {"return_mean": float(returns.sum(1).mean()), "curve": returns.mean(0).tolist()}


def _hash_keys(tasks: list[Task]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for task in tasks:
        digest.update(task.key.encode())
    return digest.hexdigest()
