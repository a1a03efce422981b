"""Claim: with rollouts played beside the update, a training step takes the longer of the two instead of their sum. One
rollout ahead is at least 1.8 times as fast where all turns are equally long and both take the same time, 1.5 times with
lognormal turns; continuous play is at least 2.3 times as fast, and 3.0 times where whole trials differ.

Batches of 64 trials in GRPO groups of 8; a trial has 5 episodes of 6 turns. Players wait instead of computing: each
turn takes a latency that depends only on its trial and its number, so all variants wait for the same. The trainer is
`MetaGRPOTrainer` on a tiny model, and each of its updates is stretched by waiting to a set time T. R is the mean
makespan of a batch, W the busy time of the players divided by their number; both follow from the latencies. The
variants run in turn in one process. The first two steps and the last five of each are left out. "Dropping" is
continuous play without the bound on what is begun, where groups older than 4 updates are thrown away, as TRL's
AsyncGRPO does it. Length bias: mean length (turns' seconds) of the trials trained on against that of all trials.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import heapq
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from common import Report, run
from transformers import PrinterCallback

from metarlgym import Env, Step, TaskGroup, register
from metarlgym.models.scratch import ScratchArguments, scratch_model, word_tokenizer
from metarlgym.policies.scripted import RandomTokenPolicy
from metarlgym.rollout.make_renderer import make_renderer
from metarlgym.rollout.protocol import ActRequest, Callback
from metarlgym.rollout.render import Renderer
from metarlgym.seeding import derive, stream
from metarlgym.training.config import MetaGRPOConfig
from metarlgym.training.continuous import Continuous
from metarlgym.training.group_queue import GroupQueue
from metarlgym.training.trainer import MetaGRPOTrainer
from metarlgym.training.warmup import sample_text
from metarlgym.trial import TrialSettings

TRIALS, GROUP, EPISODES, TURNS = 64, 8, 5, 6
SIGMA = 0.8


class SixTurns(Env):
    """Six turns of guessing a hidden digit, whatever is guessed."""

    max_turns = TURNS

    def sample_task(self, rng: Any) -> dict[str, Any]:
        return {"digit": rng.randrange(4), "number": rng.randrange(2**40)}

    def on_reset(self, params: dict[str, Any], rng: Any) -> str:
        self._digit = params["digit"]
        return "go"

    def on_step(self, action: str) -> Step:
        hit = action.strip() == str(self._digit)
        return Step("yes" if hit else "no", hit / TURNS, False, False, {"valid": action.strip() in "0123"})

    def random_action(self, rng: Any) -> str:
        return str(rng.randrange(4))


@dataclass(frozen=True)
class Case:
    """Which latencies, how many players, and how long an update takes."""

    name: str
    sigma: float
    """Standard deviation of a turn's log latency."""
    by_trial: bool
    """Whether one factor holds for all turns of a trial."""
    players: int
    update: str
    """`R` or `W`: the time that an update takes."""
    bounds: dict[str, float] = field(default_factory=dict)
    """Least speed of variants, against rollouts that are played when they are due."""
    idle: float | None = None
    """Largest share of a step in which the trainer may wait in continuous play."""

    def latency(self, trial: tuple[str, int], turn: int, mean: float) -> float:
        seed = 0 if self.by_trial else turn
        return mean * stream(derive(*trial, seed), "latency").lognormvariate(-(self.sigma**2) / 2, self.sigma)


CASES = (
    Case("(a) equal turns, 64 players, T = R", 0.0, False, 64, "R", {"one ahead": 1.8}),
    Case(
        "(b) independent turns, 64 players, T = W",
        SIGMA,
        False,
        64,
        "W",
        {"one ahead": 1.5, "continuous": 2.3},
        0.1,
    ),
    Case("(c) one factor a trial, 32 players, T = W", SIGMA, True, 32, "W", {"continuous": 3.0}, 0.2),
)
VARIANTS: dict[str, dict[str, Any]] = {
    "when it is due": {},
    "one ahead": {"rollouts_ahead": 1},
    "one ahead, updates in flight": {"rollouts_ahead": 1, "weight_update": "in_flight"},
    "continuous": {"rollouts_ahead": "continuous"},
    "dropping": {"rollouts_ahead": "continuous"},
}


class Waiting(RandomTokenPolicy):
    """Random play that waits before each action, and keeps the seconds it waited in each trial."""

    follows_updates = True

    def __init__(self, renderer: Renderer, case: Case, mean: float) -> None:
        super().__init__(renderer)
        self.case, self.mean = case, mean
        self.names: dict[int, tuple[str, int]] = {}
        self.turns: Counter[int] = Counter()
        self.members: Counter[str] = Counter()

    def submit(self, request: ActRequest, done: Callback) -> None:
        seed, task = request.trial.trial_seed, request.trial.task
        assert task is not None
        if seed not in self.names:  # the same trial of its group in all variants, whatever its seed
            self.names[seed] = (task.key, self.members[task.key])
            self.members[task.key] += 1
            turns = range(EPISODES * TURNS)
            WAITED[seed] = sum(self.case.latency(self.names[seed], turn, self.mean) for turn in turns)
            BEGUN[seed] = self.version or 0
        wait = self.case.latency(self.names[seed], self.turns[seed], self.mean)
        self.turns[seed] += 1
        self.loop.call_later(wait, self._reply, request, done)


WAITED: dict[int, float] = {}
"""Seconds that a trial takes, by its seed, in the order in which the trials began."""
BEGUN: dict[int, int] = {}
"""The version of the weights that began it."""


class Dropped(GroupQueue):
    """Groups begin without a bound, and those that are too old are thrown away."""

    def may_begin(self, version: int) -> bool:
        return True

    def take(self) -> list[int] | None:
        old = {group for group in self.finished if self.next_step - self.begun[group] > self.staleness}
        self.finished = [group for group in self.finished if group not in old]
        if len(self.finished) < self.batch:
            return None
        taken, self.finished = self.finished[: self.batch], self.finished[self.batch :]
        self.next_step += 1
        return taken


class Dropping(Continuous):
    def _make_queue(self, batch: int, step: int) -> GroupQueue:
        return Dropped(batch, self.trainer.args.staleness, step)

    def _left(self, batch: int) -> list[int]:
        return list(range(20 * len(super()._left(batch))))


class Paced(MetaGRPOTrainer):
    """Each update takes `seconds`."""

    seconds = 0.0

    def _compute_loss(self, model: Any, inputs: Any) -> torch.Tensor:
        start = time.perf_counter()
        loss = super()._compute_loss(model, inputs)
        time.sleep(max(0.0, self.seconds - (time.perf_counter() - start)))
        return loss


def makespan(sums: list[float], players: int) -> float:
    """List scheduling: each free player takes the next trial."""
    free = [0.0] * players
    for seconds in sums:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


@dataclass
class Run:
    """What was measured of one variant."""

    step: float
    """Mean seconds of a step."""
    idle: float
    """Share of a step in which the trainer waited."""
    learned: Counter[int]
    """How often each trial was trained on, by its seed."""


def paced_trainer(
    folder: str,
    case: Case,
    variant: str,
    mean: float,
    update: float,
    steps: int,
    trials: int = TRIALS,
    size: int = GROUP,
    player: type[Waiting] = Waiting,
) -> Paced:
    """A trainer on waiting players, whose updates take `update` seconds."""
    WAITED.clear()
    BEGUN.clear()
    group = TaskGroup("SixTurns-v0", {})
    tokenizer = word_tokenizer(sample_text(group, lambda: group.make_trial(TrialSettings(EPISODES)), 16))
    renderer = make_renderer("plain", tokenizer, group)
    model = scratch_model(
        ScratchArguments(scratch_hidden_size=16, scratch_layers=1, scratch_heads=2), tokenizer, 512, 0
    )
    args = MetaGRPOConfig(
        output_dir=folder,
        episodes=EPISODES,
        trials_per_task=size,
        per_device_train_batch_size=trials,
        max_steps=steps,
        rollout_concurrency=case.players,
        **VARIANTS[variant],
        max_action_tokens=2,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Paced(model, args, group, tokenizer, renderer, policy=lambda _, shown, __: player(shown, case, mean))
    trainer.seconds = update
    if variant == "dropping":
        trainer.rollouts = Dropping(trainer)
    trainer.remove_callback(PrinterCallback)
    return trainer


def trained(case: Case, variant: str, mean: float, update: float, steps: int) -> Run:
    """Train with a variant."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = paced_trainer(folder, case, variant, mean, update, steps)
        learned: Counter[int] = Counter()
        trainer.on_trials = lambda _, trials: learned.update(trial.seed for trial in trials)
        trainer.train()
    log = [entry for entry in trainer.state.log_history if "step_time" in entry]
    middle = log[2:-5]
    idle = statistics.mean(entry.get("idle/trainer", 0.0) for entry in middle)
    return Run(statistics.mean(entry["step_time"] for entry in middle), idle, learned)


def measure(report: Report, case: Case, mean: float, steps: int) -> None:
    trained(case, "when it is due", mean, 0.0, steps)
    sums = list(WAITED.values())
    batches = [sums[i : i + TRIALS] for i in range(0, len(sums), TRIALS)]
    makespans = statistics.mean(makespan(batch, case.players) for batch in batches)
    work = statistics.mean(sum(batch) for batch in batches) / case.players
    update = makespans if case.update == "R" else work
    report.add(f"{case.name}: R", makespans, "s")
    report.add(f"{case.name}: W", work, "s")
    due = 0.0
    for variant in VARIANTS:
        found = trained(case, variant, mean, update, steps)
        due = due or found.step
        report.add(f"{case.name}: a step, {variant}", found.step, "s")
        if variant == "when it is due":
            continue
        longest = max(work if VARIANTS[variant]["rollouts_ahead"] == "continuous" else makespans, update)
        report.add(
            f"{case.name}: {variant}, times as fast (ideal {(makespans + update) / longest:.2f})",
            due / found.step,
            "x",
            at_least=case.bounds.get(variant),
        )
        report.add(
            f"{case.name}: {variant}, trainer idle",
            found.idle,
            "",
            at_most=case.idle if variant == "continuous" else None,
        )


def bias(report: Report, case: Case, mean: float, steps: int) -> None:
    """How much shorter the trials that are trained on are than those that were begun, up to the last five updates."""
    update = mean * EPISODES * TURNS * TRIALS / case.players
    for variant in ("continuous", "dropping"):
        found = trained(case, variant, mean, update, steps)
        begun = [seed for seed, version in BEGUN.items() if version < steps - 5]
        learned = [WAITED[seed] for seed in begun if found.learned[seed]]
        kept = variant == "continuous"
        name = f"{case.name}, {steps} updates, {variant}"
        once = sum(found.learned[seed] == 1 for seed in begun) / len(begun)
        difference = statistics.mean(learned) / statistics.mean(WAITED[seed] for seed in begun) - 1
        report.add(f"{name}: share of trials trained on exactly once", once, "", at_least=1.0 if kept else None)
        report.add(f"{name}: length bias, absolute", abs(difference), "", at_most=0.01 if kept else None)
        report.add(f"{name}: length bias", difference, "")


def main(quick: bool) -> int:
    register("SixTurns-v0", SixTurns)
    report = Report(
        "overlap", (__doc__ or "").split("\n\n")[0], " ".join((__doc__ or "").split("\n\n")[1].split()), quick
    )
    for case in CASES:
        measure(report, case, 0.002 if quick else 0.04, 9 if quick else 18)
    bias(report, CASES[2], 0.002 if quick else 0.01, 12 if quick else 200)
    return report.finish()


if __name__ == "__main__":
    run(main, __doc__)
