"""Plots of the learned-loss experiment: losses over steps, and the weights of clean and wrong targets."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from metarlgym.selflearning.experiment import Picture
from metarlgym.selflearning.learned_loss.config import FIXED, LEARNED, Config

COLORS = {
    "uniform": "#D55E00",
    "oracle": "black",
    "weights-next": "#0072B2",
    "weights-random": "#009E73",
    "weights-similar": "#56B4E9",
    "weights_full-next": "#999999",
    "gist-next": "#CC79A7",
    "gist_ce-next": "#E69F00",
}


def pictures(config: Config, results: dict[str, dict[str, Any]]) -> list[Picture]:
    """Loss curves and token weights of the first available seed."""
    for seed in config.seeds:
        runs = {kind: results.get(f"{kind}-seed{seed}") for kind in (*FIXED, *LEARNED)}
        found = {kind: run for kind, run in runs.items() if run is not None}
        if found:
            learned = {kind: run for kind, run in found.items() if "histogram" in run}
            redrawn = results.get(f"redrawn-seed{seed}")
            if redrawn is not None:
                learned["redrawn"] = redrawn
            return [_losses(config, found, seed), *([_weights(learned, seed)] if learned else [])]
    return []


def _losses(config: Config, found: dict[str, dict[str, Any]], seed: int) -> Picture:
    figure = Figure(figsize=(9.5, 5.2), layout="constrained")
    axes = figure.add_subplot()
    for kind, run in found.items():
        steps = [line["step"] for line in run["curve"]]
        true = [line["true_loss"] for line in run["curve"]]
        axes.plot(steps, true, color=COLORS[kind], label=f"{kind}: {run['val_loss']:.3f}")
        axes.plot(steps, [line["self_loss"] for line in run["curve"]], color=COLORS[kind], linestyle=":", linewidth=1.1)
    floor = next(iter(found.values()))["floor"]
    axes.axhline(floor, color="black", linestyle="--", linewidth=1, label=f"exact floor: {floor:.3f}")
    axes.axvline(config.warm_steps, color="#bbbbbb", linewidth=1)
    axes.set_yscale("log")
    axes.set_yticks(ticks := [0.05, 0.1, 0.2, 0.5, 1, 2, 4], [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("steps of the learner")
    axes.set_ylabel("loss, nats a token")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, title="true loss, held out", title_fontsize=8)
    text = (
        f"Seed {seed}. Solid: cross-entropy on clean held-out labels. Dotted: the loss that the variant goes down, on "
        f"noisy targets. Up to the gray line (step {config.warm_steps}) all variants have uniform weights. A self-loss "
        "that falls while the true loss does not would be a hack."
    )
    return Picture("Self-loss and true loss", text, figure)


def _weights(found: dict[str, dict[str, Any]], seed: int) -> Picture:
    columns = min(4, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(2.9 * columns, 2.5 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, (kind, run) in zip(panels, found.items()):
        for name, color in (("clean", "#0072B2"), ("wrong", "#D55E00")):
            counts = np.array(run["histogram"][name], float)
            edges = np.linspace(0, 1, len(counts) + 1)
            axes.stairs(counts / max(1, counts.sum()), edges, fill=True, alpha=0.5, color=color, label=name)
        axes.set_title(f"{kind}, AUC {run['auc']:.3f}", fontsize=9)
        axes.set_yscale("log")
        axes.set_ylim(1e-4, 1.5)
        axes.grid(alpha=0.3)
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    panels[0].legend(fontsize=8, title="target", title_fontsize=8)
    figure.supxlabel("learned weight", fontsize=10)
    figure.supylabel("share of the targets", fontsize=10)
    text = (
        f"Seed {seed}, held-out tokens, at the end. A loss that has found out which targets are wrong gives them "
        "weights near 0 and the clean ones near 1. Shares on a logarithmic scale."
    )
    return Picture("Learned weights", text, figure)
