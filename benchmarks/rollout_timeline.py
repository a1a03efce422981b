"""Draws who plays, who learns and who waits, from three short runs: `results/rollout_timeline.png`.

    python benchmarks/rollout_timeline.py

The runs are those of `overlap.py` on a smaller scale: batches of 12 trials in groups of 4, 12 places, waiting instead
of computing, and trials of lognormal length.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import overlap
from common import HERE

from metarlgym import register
from metarlgym.rollout.protocol import ActRequest, Callback

TRIALS, SIZE, PLACES, STEPS = 12, 4, 12, 9
MEAN = 0.03
"""Mean seconds of a turn."""
SHOWN = {
    "when it is due": "rollouts_ahead: 0",
    "one ahead": "rollouts_ahead: 1",
    "continuous": "rollouts_ahead: continuous",
}
CASE = overlap.Case("", 0.8, True, PLACES, "W")


class Traced(overlap.Waiting):
    """Keeps when each trial was played."""

    def submit(self, request: ActRequest, done: Callback) -> None:
        PLAYED.setdefault(request.trial.trial_seed, [time.monotonic(), 0.0])
        super().submit(request, done)

    def _reply(self, request: ActRequest, done: Callback) -> None:
        PLAYED[request.trial.trial_seed][1] = time.monotonic()
        super()._reply(request, done)


PLAYED: dict[int, list[float]] = {}
"""Beginning and end of each trial, by its seed."""


def trace(variant: str) -> tuple[list[tuple[float, float, int]], list[tuple[float, float]]]:
    """(beginning, end, step that learns from it) of each trial, and (beginning, end) of each update, in seconds."""
    PLAYED.clear()
    updates: list[tuple[float, float]] = []
    learned: dict[int, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = MEAN * overlap.EPISODES * overlap.TURNS * TRIALS / PLACES
        trainer = overlap.paced_trainer(folder, CASE, variant, MEAN, work, STEPS, TRIALS, SIZE, Traced)
        compute = trainer._compute_loss

        def timed(model: Any, inputs: Any) -> Any:
            begin = time.monotonic()
            loss = compute(model, inputs)
            updates.append((begin, time.monotonic()))
            return loss

        trainer._compute_loss = timed  # type: ignore[method-assign]
        trainer.on_trials = lambda step, trials: learned.update({trial.seed: step for trial in trials})
        trainer.train()
    start = min(begin for begin, _ in PLAYED.values())
    trials = [(begin - start, end - start, learned[seed]) for seed, (begin, end) in PLAYED.items()]
    return sorted(trials), [(begin - start, end - start) for begin, end in updates]


def draw(runs: dict[str, tuple[list[tuple[float, float, int]], list[tuple[float, float]]]], path: Path) -> None:
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    shades = colormaps["viridis"].resampled(STEPS)
    end = max(updates[-1][1] for _, updates in runs.values())
    for axes, (variant, (trials, updates)) in zip(figure.subplots(len(runs), 1, sharex=True), runs.items()):
        busy_until: list[float] = []
        for begin, until, step in trials:
            place = next((i for i, last in enumerate(busy_until) if last <= begin + 1e-3), len(busy_until))
            busy_until[place : place + 1] = [until]
            axes.barh(
                place + 1.5, until - begin, left=begin, height=0.85, color=shades(step), edgecolor="white", lw=0.5
            )
            if until - begin > 0.03 * end:
                light = step > STEPS * 0.6
                axes.text((begin + until) / 2, place + 1.5, step + 1, ha="center", va="center", fontsize=6,
                          color="black" if light else "white")  # fmt: skip
        for step, (begin, until) in enumerate(updates):
            light = step > STEPS * 0.6
            axes.barh(-0.4, until - begin, left=begin, height=1.5, color=shades(step), edgecolor="white", lw=0.5)
            axes.text((begin + until) / 2, -0.4, step + 1, ha="center", va="center", fontsize=9,
                      color="black" if light else "white")  # fmt: skip
            axes.axvline(until, color="grey", lw=0.6, ls=":", zorder=0)
        axes.set_ylim(len(busy_until) + 1.2, -1.4)
        axes.set_yticks([-0.4, (len(busy_until) + 2) / 2], ["trainer", f"{PLACES} trials\nat once"])
        axes.tick_params(left=False)
        axes.set_title(f"{SHOWN[variant]}: {updates[-1][1]:.1f} s for {STEPS} steps", loc="left", fontsize=10)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    axes.set_xlabel("seconds; numbers and shades: the step that learns from a trial; dotted: the weights change")
    figure.savefig(path, dpi=110)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    register("SixTurns-v0", overlap.SixTurns)
    path = HERE / "results" / "rollout_timeline.png"
    draw({variant: trace(variant) for variant in SHOWN}, path)
    print(path)


if __name__ == "__main__":
    main()
