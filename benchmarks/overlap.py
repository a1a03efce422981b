"""Claim: with rollouts played one ahead, a training step takes the longer of rollout and update instead of their sum:
at least 1.8 times as fast where all turns are equally long and both take the same time, 1.5 times with lognormal turns.

Batches of 64 trials in GRPO groups of 8; a trial has 5 episodes of 6 turns. Players wait instead of computing: each
turn takes a latency that depends only on the action's seed, so all variants wait for the same. The trainer is
`MetaGRPOTrainer` on a tiny model, and each of its updates is stretched by waiting to a set time T. R is the mean
makespan of a batch, W the busy time of the players divided by their number; both follow from the latencies. The
variants run in turn in one process.
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
from dataclasses import dataclass
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
from metarlgym.seeding import stream
from metarlgym.training.config import MetaGRPOConfig
from metarlgym.training.trainer import MetaGRPOTrainer
from metarlgym.training.warmup import sample_text
from metarlgym.trial import TrialSettings

TRIALS, GROUP, EPISODES, TURNS = 64, 8, 5, 6
SIGMA = 0.8


class SixTurns(Env):
    """Six turns of guessing a hidden digit, whatever is guessed."""

    max_turns = TURNS

    def sample_task(self, rng: Any) -> dict[str, Any]:
        return {"digit": rng.randrange(4)}

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
    at_least: float | None = None
    """Bound of one rollout ahead, against none."""

    def latency(self, request_seed: int, trial_seed: int, mean: float) -> float:
        seed = trial_seed if self.by_trial else request_seed
        return mean * stream(seed, "latency").lognormvariate(-(self.sigma**2) / 2, self.sigma)


CASES = (
    Case("(a) equal turns, 64 players, T = R", 0.0, False, 64, "R", 1.8),
    Case("(b) independent turns, 64 players, T = W", SIGMA, False, 64, "W", 1.5),
    Case("(c) one factor a trial, 32 players, T = W", SIGMA, True, 32, "W"),
)


class Waiting(RandomTokenPolicy):
    """Random play that waits before each action, and keeps the seconds it waited in each trial."""

    def __init__(self, renderer: Renderer, case: Case, mean: float) -> None:
        super().__init__(renderer)
        self.case, self.mean = case, mean

    def submit(self, request: ActRequest, done: Callback) -> None:
        wait = self.case.latency(request.seed, request.trial.trial_seed, self.mean)
        WAITED.setdefault(request.trial.trial_seed, 0.0)
        WAITED[request.trial.trial_seed] += wait
        self.loop.call_later(wait, self._reply, request, done)


WAITED: dict[int, float] = {}
"""Seconds by trial, in the order in which the trials began."""


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


def trained(case: Case, ahead: int, mean: float, update: float, steps: int) -> tuple[float, MetaGRPOTrainer]:
    """Seconds of a run without its first two steps, and its trainer."""
    group = TaskGroup("SixTurns-v0", {})
    tokenizer = word_tokenizer(sample_text(group, lambda: group.make_trial(TrialSettings(EPISODES)), 16))
    renderer = make_renderer("plain", tokenizer, group)
    model = scratch_model(
        ScratchArguments(scratch_hidden_size=16, scratch_layers=1, scratch_heads=2), tokenizer, 512, 0
    )
    with tempfile.TemporaryDirectory() as folder:
        args = MetaGRPOConfig(
            output_dir=folder,
            episodes=EPISODES,
            trials_per_task=GROUP,
            per_device_train_batch_size=TRIALS,
            max_steps=steps,
            rollout_concurrency=case.players,
            rollouts_ahead=ahead,
            max_action_tokens=2,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Paced(model, args, group, tokenizer, renderer, policy=lambda _, shown, __: Waiting(shown, case, mean))
        trainer.seconds = update
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    times = [entry["step_time"] for entry in trainer.state.log_history if "step_time" in entry]
    return sum(times[2:]), trainer


def measure(report: Report, case: Case, mean: float, steps: int) -> None:
    WAITED.clear()
    _, trainer = trained(case, 0, mean, 0.0, steps)
    sums = list(WAITED.values())
    batches = [sums[i : i + TRIALS] for i in range(0, len(sums), TRIALS)]
    makespans = statistics.mean(makespan(batch, case.players) for batch in batches)
    work = statistics.mean(sum(batch) for batch in batches) / case.players
    update = makespans if case.update == "R" else work
    seconds = {}
    for ahead in (0, 1):
        seconds[ahead], trainer = trained(case, ahead, mean, update, steps)
        if ahead:
            idle = [entry["idle/trainer"] for entry in trainer.state.log_history if "idle/trainer" in entry]
    count = steps - 2
    report.add(f"{case.name}: R", makespans, "s")
    report.add(f"{case.name}: W", work, "s")
    report.add(f"{case.name}: a step, each rollout when it is due", seconds[0] / count, "s")
    report.add(f"{case.name}: a step, one rollout ahead", seconds[1] / count, "s")
    ideal = (makespans + update) / max(makespans, update)
    report.add(
        f"{case.name}: one ahead, times as fast (ideal {ideal:.2f})",
        seconds[0] / seconds[1],
        "x",
        at_least=case.at_least,
    )
    report.add(f"{case.name}: one ahead, trainer idle", statistics.mean(idle[2:]), "")


def main(quick: bool) -> int:
    register("SixTurns-v0", SixTurns)
    report = Report(
        "overlap", (__doc__ or "").split("\n\n")[0], " ".join((__doc__ or "").split("\n\n")[1].split()), quick
    )
    for case in CASES:
        measure(report, case, 0.005 if quick else 0.05, 5 if quick else 20)
    return report.finish()


if __name__ == "__main__":
    run(main, __doc__)
