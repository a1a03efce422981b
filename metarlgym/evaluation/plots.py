"""Plot of the adaptation curve."""

from __future__ import annotations

from pathlib import Path

from metarlgym.evaluation.report import EvalReport


def plot_adaptation(report: EvalReport, path: Path) -> None:
    """Plot the return by episode with its 95% interval, the optimum, random play and the controls, as a PNG."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no display needed

    episodes = range(1, report.episodes + 1)
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    low, high = zip(*report.curve_ci95, strict=True)
    axes.fill_between(episodes, low, high, color="#1f77b4", alpha=0.2, linewidth=0)
    axes.plot(episodes, report.curve, "o-", color="#1f77b4", label=f"policy: {report.return_mean:.2f} in all")
    if report.optimum_curve and report.optimum is not None:
        label = f"optimum ({report.optimum_kind}): {report.optimum:.2f}"
        axes.plot(episodes, report.optimum_curve, "--", color="black", label=label)
    if report.random is not None:
        each = report.random / report.episodes
        axes.axhline(each, color="grey", linestyle=":", label=f"random play: {report.random:.2f}")
    controls = report.controls or {}
    for name, color, label in (
        ("no_memory", "#d62728", "memory wiped"),
        ("shuffled", "#ff7f0e", "another task's history"),
    ):
        if control := controls.get(name):
            total = control["return_mean"]
            axes.plot(episodes, control["curve"], "s-", color=color, markersize=4, label=f"{label}: {total:.2f}")
    axes.set_xlabel("episode of the trial")
    axes.set_ylabel("return")
    if len(episodes) <= 20:
        axes.set_xticks(list(episodes))
    axes.set_ylim(bottom=min(0.0, *low))
    score = report.normalized_score
    title = f"{report.task_group}, {report.trials} held-out trials"
    axes.set_title(title if score is None else f"{title}: normalized score {score:.2f}")
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize=8)
    figure.savefig(path, dpi=140)
