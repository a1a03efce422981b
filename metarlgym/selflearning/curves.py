"""The central plot of every experiment: a model's own loss against its true loss, on one axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from metarlgym.training.hack_detector import WORSE

SELF, TRUTH = "#D55E00", "#0072B2"
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 4, 8)
SEEDS = ("-", "--", ":", "-.")


@dataclass
class Course:
    """The checks of one run in order, the first at the start.

    Attributes:
        steps: steps of the checks.
        own: the loss that the model minimizes.
        true: the true held-out loss.
        hack_step: step of the hack, one of `steps`, or None.
        alarm_step: step of the detector's alarm, or None.
    """

    steps: Sequence[int]
    own: Sequence[float]
    true: Sequence[float]
    hack_step: int | None = None
    alarm_step: int | None = None


def how_to_read(own: str) -> str:
    """Caption of the plot; `own` describes the model's own loss."""
    return (
        f"Orange: {own}, which the model is trained to lower. Blue: the true held-out loss. Both over their start; the "
        f"thin dashed line is {WORSE - 1:.0%} worse. A dot on the blue line marks the step of the hack. Line styles "
        "are seeds."
    )


def self_against_truth(panels: dict[str, list[Course]], log_steps: bool = False) -> Figure:
    """Plot one panel per name, all with the same axes.

    Args:
        panels: runs by panel title.
        log_steps: use a logarithmic step axis, for hacks that take anything from 5 to 1,000 steps.
    """
    columns = min(4 if len(panels) > 6 else 3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(13 / 4 * columns, 2.8 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, (title, courses) in zip(grid, panels.items()):
        for course, style in zip(courses, SEEDS * len(courses)):
            _draw(axes, course, style)
        axes.axhline(WORSE, color=TRUTH, linestyle="--", linewidth=0.7)
        axes.grid(alpha=0.25)
        axes.set_title(title, fontsize=10)
    last = max(course.steps[-1] for courses in panels.values() for course in courses)
    if log_steps:
        grid[0].set_xscale("symlog", linthresh=10)
    grid[0].set_xlim(0, last)
    grid[0].set_yscale("log")
    low, high = grid[0].get_ylim()
    ticks = [tick for tick in TICKS if low <= tick <= high]
    grid[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    grid[0].yaxis.set_minor_locator(NullLocator())
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel("step of phase B", fontsize=10)
    figure.supylabel("over its start", fontsize=10)
    return figure


def _draw(axes: Any, course: Course, style: str) -> None:
    for values, color in ((course.own, SELF), (course.true, TRUTH)):
        axes.plot(course.steps, [value / values[0] for value in values], style, color=color, linewidth=1.1)
    if course.hack_step is not None:
        at = course.true[list(course.steps).index(course.hack_step)] / course.true[0]
        axes.plot([course.hack_step], [at], "o", color="black", markersize=5, zorder=5)
    if course.alarm_step is not None:
        axes.axvline(course.alarm_step, color="black", linestyle=":", linewidth=0.9)
