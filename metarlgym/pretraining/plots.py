"""Plots of a pretraining run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

COLORS = {"model": "#0072B2", "floor": "black", "PTW": "#009E73", "LIN": "#CC79A7", "KT": "#D55E00"}


def plot_curves(found: dict[str, Any], title: str, path: Path) -> None:
    """Plot loss by position, and cumulative regret if there is any, of the model and the exact predictors."""
    from matplotlib.figure import Figure

    has_regret = max(abs(value) for value in found["floor"]["regret"]) > 1e-9
    figure = Figure(figsize=(11 if has_regret else 6.5, 4.2), layout="constrained")
    panels = figure.subplots(1, 2 if has_regret else 1, squeeze=False)[0]
    for name, line in found.items():
        style = {"color": COLORS.get(name), "linestyle": "--" if name == "floor" else "-"}
        places = np.arange(1, len(line["loss"]) + 1)
        mark = "o" if len(places) < 20 else ""
        panels[0].plot(places, line["loss"], marker=mark, label=f"{name}: {np.mean(line['loss']):.4f}", **style)
        if has_regret:
            total = line["cumulative_regret"][-1]
            panels[1].plot(places, line["cumulative_regret"], label=f"{name}: {total:.2f}", **style)
    panels[0].set_ylabel("expected loss, nats")
    panels[0].set_title(title, fontsize=10)
    if has_regret:
        panels[1].set_ylabel("cumulative regret to the true source, nats")
    for axes in panels:
        axes.set_xlabel("symbols seen")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def plot_dynamics(metrics: Path, path: Path) -> None:
    """Plot the training loss, the checkpoints' held-out loss and the floor by step, on a logarithmic axis."""
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    train = [(line["step"], line["loss"]) for line in lines if "loss" in line and line["step"] > 0]
    held = [(line["step"], line["eval_loss"]) for line in lines if "eval_loss" in line]
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    if train:
        axes.plot(*zip(*train, strict=True), color="#56B4E9", linewidth=1, label="training")
    if held:
        axes.plot(*zip(*held, strict=True), "o-", color=COLORS["model"], label="held out")
        floor = [line["eval_floor"] for line in lines if "eval_floor" in line][-1]
        axes.axhline(floor, color="black", linestyle="--", label=f"floor {floor:.4f}")
    axes.set_xscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats a symbol")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)
