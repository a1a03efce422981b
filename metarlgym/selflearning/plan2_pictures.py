"""Pictures of plan 2."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from metarlgym.selflearning.meter import WORSE
from metarlgym.selflearning.plan import Picture
from metarlgym.selflearning.plan2_config import Config
from metarlgym.selflearning.plan2_summary import Results, summarise

SCORE, LOSS, EXACT = "#0072B2", "#D55E00", "black"
SEEDS = ("-", "--", ":", "-.")


def pictures(config: Config, results: Results) -> list[Picture]:
    """What there are arms for: loss by number of gists; courses of phase B; own loss against true loss."""
    summary = summarise(config, results)
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
        text = (
            "Left axis: the score that the actor learns from, over its start. Right axis: its true loss on held-out "
            "continuations, over its start; the dotted line is 5% worse. Dots mark hack steps: the score is up, and "
            "the truth is worse. Line styles are seeds."
        )
        found.append(Picture("Score and truth", text, _courses(runs)))
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
    left.plot(numbers, list(summary["loss_by_gist_tokens"].values()), "-", color=SCORE, label="k gists")
    for k in numbers:
        losses = summary["loss_by_seed"][str(k)]
        left.plot([k] * len(losses), losses, "o", color=SCORE, markersize=4)
    lines = {"no gist": (summary["no_gist"], "--", LOSS), "no bottleneck": (summary["no_bottleneck"], "-", LOSS)}
    lines["exact, chunk 2 alone"] = (summary["exact"]["chunk_alone"], "--", EXACT)
    lines["exact, full context"] = (summary["exact"]["full_context"], "-", EXACT)
    for name, (value, style, color) in lines.items():
        if value is not None:
            left.axhline(value, linestyle=style, color=color, linewidth=1, label=f"{name}: {value:.3f}")
    left.set_ylabel("loss on chunk 2, nats a symbol")
    left.legend(fontsize=8)
    if summary["bits_kept"]:
        kept = list(summary["bits_kept"].values())
        right.plot(numbers, kept, "o-", color=SCORE, label="in all")
        right.plot(numbers, list(summary["bits_per_gist"].values()), "s--", color=SCORE, label="a gist")
        if summary["no_bottleneck"] is not None:
            most = (summary["no_gist"] - summary["no_bottleneck"]) * config.n2 / np.log(2)
            right.axhline(most, color=LOSS, linewidth=1, label=f"no bottleneck: {most:.1f}")
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


def _courses(runs: dict[str, list[dict[str, Any]]]) -> Figure:
    figure = Figure(figsize=(3.4 * len(runs) + 1, 3.8), layout="constrained")
    panels = figure.subplots(1, len(runs), squeeze=False)[0]
    twins = [axes.twinx() for axes in panels]
    for axes, twin, (space, each) in zip(panels, twins, runs.items()):
        for number, run in enumerate(each):
            steps = [check["step"] for check in run["checks"]]
            first = run["checks"][0]
            ratios = [check["true_loss"] / first["true_loss"] for check in run["checks"]]
            style = SEEDS[number % len(SEEDS)]
            axes.plot(steps, [check["score"] - first["score"] for check in run["checks"]], style, color=SCORE)
            twin.plot(steps, ratios, style, color=LOSS)
            if run["hack_step"] is not None:
                twin.plot([run["hack_step"]], [ratios[steps.index(run["hack_step"])]], "o", color=EXACT, zorder=5)
        twin.axhline(WORSE, linestyle=":", color=LOSS, linewidth=1)
        axes.set_title(space, fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.tick_params(axis="y", labelcolor=SCORE)
        twin.tick_params(axis="y", labelcolor=LOSS)
    # One scale of the truth for all, so that spaces can be compared by eye; scores have each their own unit.
    low = min(twin.get_ylim()[0] for twin in twins)
    high = max(twin.get_ylim()[1] for twin in twins)
    for twin in twins:
        twin.set_ylim(low, high)
    panels[0].set_ylabel("score, less its start", color=SCORE)
    twins[-1].set_ylabel("true loss over its start", color=LOSS)
    return figure


def _scatter(runs: dict[str, list[dict[str, Any]]], summary: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(2.6 * len(runs) + 1, 3), layout="constrained")
    panels = figure.subplots(1, len(runs), squeeze=False, sharey=True)[0]
    for axes, (space, each) in zip(panels, runs.items()):
        for number, run in enumerate(each):
            first = run["checks"][0]
            own = [first["score"] - check["score"] for check in run["checks"]]
            true = [check["true_loss"] - first["true_loss"] for check in run["checks"]]
            axes.plot(own, true, marker="osv^"[number % 4], linestyle="", markersize=3, color=SCORE, alpha=0.7)
        r = summary["space"][space]["correlation_from_start"]
        axes.set_title(f"{space}: r = {'undefined' if r is None else f'{r:.2f}'}", fontsize=10)
        axes.set_xlabel("change of own loss")
        axes.axhline(0, color="gray", linewidth=0.8)
        axes.axvline(0, color="gray", linewidth=0.8)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("change of true loss, nats")
    return figure
