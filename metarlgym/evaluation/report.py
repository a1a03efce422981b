"""Evaluate a model or a baseline with progress on the terminal, and write `eval.json` and `adaptation.png`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from metarlgym.datatypes import MetaTrajectory
from metarlgym.evaluation.evaluate import EvalSettings, Gather, evaluate
from metarlgym.evaluation.plots import plot_adaptation
from metarlgym.files import write_json
from metarlgym.rollout.protocol import Policy
from metarlgym.rollout.render import Renderer
from metarlgym.tasks import TaskGroup
from metarlgym.version import __version__

PASSES = {
    "main": "held-out trials",
    "random": "random play",
    "no_memory": "control: no memory",
    "shuffled": "control: another task's history",
}


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
) -> dict[str, Any]:
    """`evaluate` with a progress bar; adds the fields about the model."""
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    tasks: dict[str, Any] = {}

    def progress(name: str, done: int, total: int) -> None:
        if name not in tasks:
            tasks[name] = bar.add_task(PASSES[name], total=total)
        if done % 64 == 0 or done == total:
            bar.update(tasks[name], completed=done)

    with bar:
        report = evaluate(group, policy, renderer, settings, shard=shard, gather=gather, progress=progress, keep=keep)
    return report | {"decode": decode, "model": model, "version": __version__}


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
) -> dict[str, Any]:
    """Evaluate a model held in this process."""
    from metarlgym.policies.in_process import InProcessPolicy
    from metarlgym.policies.self_check import self_check

    self_check(model)
    policy = InProcessPolicy(model, renderer, temperature, greedy)
    decode = {"temperature": temperature, "greedy": greedy}
    return evaluate_policy(group, policy, renderer, settings, console, name, decode, keep)


def write_report(report: dict[str, Any], folder: Path, console: Console, name: str = "eval.json") -> None:
    """Write the report and its plot into `folder` and show it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(report, folder / name)
    plot_adaptation(report, folder / "adaptation.png")
    console.print(report_table(report))
    console.print(f"written: {folder / name}, {folder / 'adaptation.png'}", highlight=False)


def report_table(report: dict[str, Any]) -> Table:
    """The report as a person reads it."""
    table = Table(title=f"{report['task_group']}, {report['episodes']} episodes, {report['trials']} held-out trials")
    table.add_column("")
    table.add_column("return", justify="right")
    table.add_column("by episode")
    low, high = report["return_ci95"]
    table.add_row("policy", f"{report['return_mean']:.3f} [{low:.3f}, {high:.3f}]", _curve(report["curve"]))
    if report["optimum"] is not None:
        curve = _curve(report["optimum_curve"]) if report["optimum_curve"] else ""
        table.add_row(f"optimum ({report['optimum_kind']})", f"{report['optimum']:.3f}", curve)
    if report["random"] is not None:
        table.add_row("random play", f"{report['random']:.3f}", "")
    if report["no_memory_bound"] is not None:
        table.add_row("best without memory", f"{report['no_memory_bound']:.3f}", "")
    for name, label in (("no_memory", "control: memory wiped"), ("shuffled", "control: another's history")):
        control = report["controls"].get(name)
        if control is not None:
            table.add_row(label, f"{control['return_mean']:.3f}", _curve(control["curve"]))
    if report["normalized_score"] is not None:
        table.add_row("normalised score", f"{report['normalized_score']:.3f}", "0: random play, 1: optimum")
    if report["errors"]:
        table.add_row("[red]trials ended by an error[/red]", str(report["errors"]), "")
    return table


def _curve(curve: list[float]) -> str:
    shown = [f"{value:.2f}" for value in curve]
    return " ".join(shown if len(shown) <= 10 else [*shown[:5], "...", *shown[-4:]])
