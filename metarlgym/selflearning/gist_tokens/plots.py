"""Plots of the gist-tokens experiment."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from metarlgym.selflearning.curves import Course, how_to_read, self_against_truth
from metarlgym.selflearning.experiment import Picture
from metarlgym.selflearning.gist_tokens.config import Config
from metarlgym.selflearning.gist_tokens.report import Results, summarize

GISTS, CONTROL, EXACT = "#0072B2", "#D55E00", "black"


def pictures(config: Config, results: Results) -> list[Picture]:
    """Plots for the available variants: loss by number of gists, training curves of phase B, own loss against true
    loss."""
    summary = summarize(config, results)
    found = []
    if summary["loss_by_gist_tokens"]:
        text = (
            "Loss on chunk 2 when chunk 1 reaches it through k gist tokens alone; dots are seeds. Lines: the same "
            "model seeing all of chunk 1, or nothing of it, and the best that any predictor can do. Right: what gets "
            "through, in bits over all of chunk 2, against the model that sees nothing."
        )
        found.append(Picture("Loss by number of gists", text, _loss_by_gists(config, summary)))
    runs = {space: _runs(results, space) for space in summary["space"]}
    if runs:
        panels = {space: [_course(run) for run in each] for space, each in runs.items()}
        text = how_to_read("1 - the score")
        found.append(Picture("Self against truth", text, self_against_truth(panels)))
        text = (
            "Every check of phase B: change since the start of the own loss (1 - score) and of the true loss. An "
            "honest score has its points on a rising line; points to the upper left are hacks."
        )
        found.append(Picture("Own loss against true loss", text, _scatter(runs, summary)))
    return found


def _runs(results: Results, space: str) -> list[dict[str, Any]]:
    return sorted((each for each in results.values() if each.get("space") == space), key=lambda each: each["seed"])


def _loss_by_gists(config: Config, summary: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers = [int(k) for k in summary["loss_by_gist_tokens"]]
    left.plot(numbers, list(summary["loss_by_gist_tokens"].values()), "-", color=GISTS, label="k gists")
    for k in numbers:
        losses = summary["loss_by_seed"][str(k)]
        left.plot([k] * len(losses), losses, "o", color=GISTS, markersize=4)
    lines = {"no gist": (summary["no_gist"], "--", CONTROL), "no bottleneck": (summary["no_bottleneck"], "-", CONTROL)}
    lines["exact, chunk 2 alone"] = (summary["exact"]["chunk_alone"], "--", EXACT)
    lines["exact, full context"] = (summary["exact"]["full_context"], "-", EXACT)
    for name, (value, style, color) in lines.items():
        if value is not None:
            left.axhline(value, linestyle=style, color=color, linewidth=1, label=f"{name}: {value:.3f}")
    left.set_ylabel("loss on chunk 2, nats a symbol")
    left.legend(fontsize=8)
    if summary["bits_kept"]:
        kept = list(summary["bits_kept"].values())
        right.plot(numbers, kept, "o-", color=GISTS, label="in all")
        right.plot(numbers, list(summary["bits_per_gist"].values()), "s--", color=GISTS, label="a gist")
        if summary["no_bottleneck"] is not None:
            most = (summary["no_gist"] - summary["no_bottleneck"]) * config.n2 / np.log(2)
            right.axhline(most, color=CONTROL, linewidth=1, label=f"no bottleneck: {most:.1f}")
        right.axhline(
            summary["exact"]["bits"], color=EXACT, linewidth=1, label=f"exact: {summary['exact']['bits']:.1f}"
        )
        right.set_ylim(bottom=0)
        right.legend(fontsize=8)
    right.set_ylabel("bits of chunk 1 over chunk 2")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(numbers, [str(k) for k in numbers])
        axes.set_xlabel("gist tokens k")
        axes.grid(alpha=0.3)
    return figure


def _course(run: dict[str, Any]) -> Course:
    checks = run["checks"]
    own, true = [1 - check["score"] for check in checks], [check["true_loss"] for check in checks]
    return Course([check["step"] for check in checks], own, true, run["hack_step"])


def _scatter(runs: dict[str, list[dict[str, Any]]], summary: dict[str, Any]) -> Figure:
    runs = {space: each for space, each in runs.items() if summary["space"][space]["correlation"] is not None}
    columns = min(3, max(1, len(runs)))
    rows = max(1, -(-len(runs) // columns))
    figure = Figure(figsize=(13 / 4 * columns, 2.8 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes, (space, each) in zip(panels, runs.items()):
        for number, run in enumerate(each):
            first = run["checks"][0]
            own = [first["score"] - check["score"] for check in run["checks"]]
            true = [check["true_loss"] - first["true_loss"] for check in run["checks"]]
            axes.plot(own, true, marker="osv^"[number % 4], linestyle="", markersize=3, color=GISTS, alpha=0.7)
        r = summary["space"][space]["correlation_from_start"]
        axes.set_title(f"{space}: r = {r:.2f}", fontsize=10)
        axes.axhline(0, color="gray", linewidth=0.8)
        axes.axvline(0, color="gray", linewidth=0.8)
        axes.grid(alpha=0.3)
    for axes in panels[len(runs) :]:
        axes.set_visible(False)
    figure.supxlabel("change of own loss", fontsize=10)
    figure.supylabel("change of true loss, nats", fontsize=10)
    return figure
