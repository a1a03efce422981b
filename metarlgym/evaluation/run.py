"""Evaluates a model or a baseline, shows how far it is, and writes `eval.json` and `adaptation.png`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from metarlgym.datatypes import MetaTrajectory
from metarlgym.evaluation.display import EvalDisplay
from metarlgym.evaluation.evaluate import EvalSettings, Gather, evaluate
from metarlgym.evaluation.plots import plot_adaptation
from metarlgym.evaluation.report import EvalReport
from metarlgym.files import write_json
from metarlgym.rollout.protocol import Policy
from metarlgym.rollout.render import Renderer
from metarlgym.tasks import TaskGroup
from metarlgym.version import __version__


def evaluate_policy(
    group: TaskGroup,
    policy: Policy,
    renderer: Renderer | None,
    settings: EvalSettings,
    console: Console,
    model: str,
    decode: dict[str, Any] | None = None,
    keep: list[MetaTrajectory] | None = None,
    shard: tuple[int, int] = (0, 1),
    gather: Gather | None = None,
    on_trial: Callable[[int, MetaTrajectory], None] | None = None,
    lower: str = "--concurrency",
) -> EvalReport:
    """Run `evaluate`, show how far it is, and add the fields about the model.

    Args:
        on_trial: called with the index and the trajectory of each trial of the main pass as it ends.
        lower: names the settings that need less memory when lowered, for a warning.
    """
    with EvalDisplay(console, settings.controls, on_trial, lower) as watch:
        report = evaluate(group, policy, renderer, settings, shard=shard, gather=gather, watch=watch, keep=keep)
    return replace(report, decode=decode, model=model, version=__version__)


def evaluate_model(
    group: TaskGroup,
    model: Any,
    renderer: Renderer,
    settings: EvalSettings,
    console: Console,
    name: str,
    temperature: float = 1.0,
    greedy: bool = False,
    keep: list[MetaTrajectory] | None = None,
    on_trial: Callable[[int, MetaTrajectory], None] | None = None,
) -> EvalReport:
    """Evaluate a model that is loaded in this process."""
    from metarlgym.policies.in_process import InProcessPolicy
    from metarlgym.policies.self_check import self_check
    from metarlgym.policies.supported import slow_path

    if line := slow_path(model.config):
        console.print(line, highlight=False, soft_wrap=True)
    self_check(model)
    policy = InProcessPolicy(model, renderer, temperature, greedy)
    decode = {"temperature": temperature, "greedy": greedy}
    return evaluate_policy(group, policy, renderer, settings, console, name, decode, keep, on_trial=on_trial)


def write_report(report: EvalReport, folder: Path, console: Console, name: str = "eval.json") -> None:
    """Write the report and its plot to `folder` and print it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(report.to_dict(), folder / name)
    plot_adaptation(report, folder / "adaptation.png")
    console.print(report.table())
    if report.thought_warning:
        console.print(f"warning: {report.thought_warning}", style="yellow", highlight=False, soft_wrap=True)
    for line in report.shares:
        console.print(line)
    console.print(f"written: {folder / name}, {folder / 'adaptation.png'}", highlight=False)
