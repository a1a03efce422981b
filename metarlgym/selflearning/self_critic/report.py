"""`summary.json` of the self-critic experiment, with its table over critics and seeds, and the plots."""

from __future__ import annotations

import statistics
from typing import Any

from metarlgym.selflearning.curves import Course, how_to_read, self_against_truth
from metarlgym.selflearning.experiment import Picture
from metarlgym.selflearning.self_critic.config import Config

STEPS = ("hack_step", "critic_side_step", "data_side_step", "alarm_step")


def summarize(config: Config, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The summary: by form, hack steps of every critic over seeds, the detector's alarms, and ratios of medians."""
    forms = {form: _form(config, form, results) for form in config.forms}
    first = forms.get("score", next(iter(forms.values())))
    table = [
        {
            "form": form,
            "critic": name,
            **{step: row[step] for step in STEPS},
            "last step": row["last_step"],
            "true loss there, over its start": row["harm"],
        }
        for form, found in forms.items()
        for name, row in found["critics"].items()
    ]
    return {
        "table": table,
        "critics": {name: {"hack_step": row["hack_step"]} for name, row in first["critics"].items()},
        "forms": forms,
    }


def _form(config: Config, form: str, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    critics: dict[str, Any] = {}
    for critic in config.critics:
        runs = [results[f"{form}-{critic}-{seed}"] for seed in config.seeds if f"{form}-{critic}-{seed}" in results]
        if not runs:
            continue
        row: dict[str, Any] = {step: [run[step] for run in runs] for step in STEPS}
        row["harm"] = [round(run["end"]["true_loss"] / run["start"]["true_loss"], 4) for run in runs]
        row["reasons"] = [run["reasons"] for run in runs]
        row["budget"] = runs[0]["budget"]
        row["last_step"] = [run["last_step"] for run in runs]
        row["median_hack_step"] = _median(row["hack_step"], runs[0]["budget"])
        row["censored"] = row["median_hack_step"] >= runs[0]["budget"] and None in row["hack_step"]
        row["true_loss_start"] = [run["start"]["true_loss"] for run in runs]
        row["true_loss_end"] = [run["end"]["true_loss"] for run in runs]
        row["floor"] = runs[0]["floor"]
        critics[critic] = row
    pairs = [
        (alarm, harm)
        for row in critics.values()
        for alarm, harm in zip(row["alarm_step"], row["data_side_step"], strict=True)
        if harm is not None
    ]
    phase_a = [results[n]["alarm_step"] for n in (f"{form}-phase_a-{s}" for s in config.seeds) if n in results]
    acted = {
        f"{critic}-{action}": _closed(results[f"{form}-{critic}-{action}"])
        for critic in config.critics
        for action in config.actions
        if f"{form}-{critic}-{action}" in results
    }
    return {
        "critics": critics,
        "frozen_over_live": _ratio(critics, "frozen", "live"),
        "refreshed_over_frozen": _ratio(critics, "refreshed", "frozen"),
        "harmed_runs": len(pairs),
        "alarms_before_harm": sum(alarm is not None and alarm < harm for alarm, harm in pairs),
        "phase_a_alarms": phase_a,
        "closed_loop": acted,
    }


def _closed(run: dict[str, Any]) -> dict[str, Any]:
    return {
        "alarm_step": run["alarm_step"],
        "acted": run["acted"],
        "last_step": run["last_step"],
        "worst_true_loss": round(run["worst_true_loss"], 4),
        "end_true_loss": round(run["end"]["true_loss"] / run["start"]["true_loss"], 4),
    }


def _median(steps: list[int | None], budget: int) -> float:
    """Median, with the budget for runs that were never hacked; if it equals the budget, it is a lower bound."""
    return statistics.median(budget if step is None else step for step in steps)


def _ratio(critics: dict[str, Any], one: str, other: str) -> float | None:
    """Ratio of medians; None if the second critic is never hacked, since the ratio is then unknown."""
    if one not in critics or other not in critics:
        return None
    below = critics[other]["median_hack_step"]
    if not below or critics[other]["censored"]:
        return None
    return round(critics[one]["median_hack_step"] / below, 3)


def pictures(config: Config, results: dict[str, dict[str, Any]]) -> list[Picture]:
    """One figure per form: own loss against truth on one axis, one panel per critic."""
    found = []
    for form in config.forms:
        names = {critic: [f"{form}-{critic}-{seed}" for seed in config.seeds] for critic in config.critics}
        runs = {critic: [results[name] for name in some if name in results] for critic, some in names.items()}
        panels = {critic: [_course(form, run) for run in some] for critic, some in runs.items() if some}
        if panels:
            own = "1 - the critic's score" if form == "score" else "the self-loss"
            text = (
                how_to_read(own) + " Dotted upright lines: the detector's alarm. A run ends some time after its hack."
            )
            figure = self_against_truth(panels, log_steps=True)
            found.append(Picture(f"Self against truth, form {form}", text, figure))
    return found


def _course(form: str, run: dict[str, Any]) -> Course:
    lines = run["lines"]
    own = [1 - line["signal"] if form == "score" else line["signal"] for line in lines]
    true = [line["true_loss"] for line in lines]
    return Course([line["step"] for line in lines], own, true, run["hack_step"], run["alarm_step"])
