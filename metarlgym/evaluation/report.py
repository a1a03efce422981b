"""EvalReport: the results of an evaluation, rendered as a table or as `eval.json`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypedDict

from rich.table import Table

from metarlgym.rollout.thinking import cut_warning

THOUGHTS = ("thought_rate", "thought_cut_rate", "thought_tokens")
OPTIONAL = ("return_weighted_mean", "random_ci95", "optimum_lower", "controls_missing", "keep_thoughts", *THOUGHTS)
"""Fields omitted from `eval.json` if they do not apply."""
ABOUT_THE_MODEL = ("decode", "model", "version")


class Control(TypedDict):
    """Returns under a control."""

    return_mean: float
    curve: list[float]


@dataclass
class EvalReport:
    """Returns of held-out trials, with the optimum, random play and the controls. Returns are undiscounted."""

    task_group: str
    env_args: dict[str, Any]
    episodes: int
    trials: int
    return_mean: float
    """Mean return of a trial, over all its episodes."""
    return_ci95: list[float]
    """Its 95% confidence interval."""
    curve: list[float]
    """Mean return by episode."""
    curve_ci95: list[list[float]]
    slope: float
    """Return of the last episode minus that of the first."""
    invalid_rate: float
    """Fraction of actions that are invalid."""
    truncation_rate: float
    """Fraction of trials ended by a limit. Those that went on after a limit cut an action or an episode are not
    counted here.
    """
    episode_cut_rate: float
    """Fraction of episodes ended by a limit."""
    action_cut_rate: float
    """Fraction of actions cut at the limit of tokens, before the policy ended them."""
    errors: int
    """Number of trials ended by an error."""
    memory: str
    free_shots: int
    seed: int
    task_keys_hash: str
    """Hash of the task keys; equal for evaluations on the same tasks."""
    return_weighted_mean: float | None = None
    """Mean return without the free shots, if there are any."""
    random_ci95: list[float] | None = None
    keep_thoughts: str | None = None
    """Which thoughts the policy saw again; None for all."""
    thought_rate: float | None = None
    """Fraction of actions that began with a thought; None if the tokenizer marks none."""
    thought_cut_rate: float | None = None
    """Fraction of thoughts ended by a limit."""
    thought_tokens: float | None = None
    """Mean number of tokens of a thought."""
    optimum: float | None = None
    optimum_kind: str = "none"
    optimum_curve: list[float] | None = None
    optimum_lower: float | None = None
    """Where `optimum` is an upper bound: what the strongest known solver reaches."""
    random: float | None = None
    """Mean return of random play."""
    no_memory_bound: float | None = None
    """The best possible return without memory, if known."""
    normalized_score: float | None = None
    """0 is random play, 1 the optimum."""
    controls: dict[str, Control | None] | None = None
    """`no_memory` and `shuffled`; None if not played."""
    controls_missing: dict[str, str] | None = None
    """Why a control was asked for and could not be played, if there is one."""
    decode: dict[str, Any] | None = None
    model: str | None = None
    version: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The contents of `eval.json`."""
        left_out = {name for name in OPTIONAL if getattr(self, name) is None}
        if self.model is None:
            left_out.update(ABOUT_THE_MODEL)
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name not in left_out}

    @property
    def thought_warning(self) -> str | None:
        """What to say if most actions followed a cut thought."""
        if self.thought_rate is None or self.thought_cut_rate is None:
            return None
        return cut_warning(self.thought_rate * self.thought_cut_rate)

    @property
    def shares(self) -> list[str]:
        """Lines below the table: how many actions were invalid, and what a limit cut. Shares of zero are left out."""
        found = {
            "invalid actions": self.invalid_rate,
            "actions cut at the limit of tokens": self.action_cut_rate,
            "episodes cut by a limit": self.episode_cut_rate,
            "trials cut by a limit": self.truncation_rate,
        }
        return [f"{label}: {value:.1%}" for label, value in found.items() if value]

    def table(self) -> Table:
        """The report as a table for the terminal."""
        table = Table(title=f"{self.task_group}, {self.episodes} episodes, {self.trials} held-out trials")
        table.add_column("")
        table.add_column("return", justify="right")
        table.add_column("by episode")
        low, high = self.return_ci95
        table.add_row("policy", f"{self.return_mean:.3f} [{low:.3f}, {high:.3f}]", _curve(self.curve))
        if self.optimum is not None:
            curve = _curve(self.optimum_curve) if self.optimum_curve else ""
            table.add_row(f"optimum ({self.optimum_kind})", f"{self.optimum:.3f}", curve)
        if self.optimum_lower is not None:
            table.add_row("strongest known solver", f"{self.optimum_lower:.3f}", "")
        if self.random is not None:
            table.add_row("random play", f"{self.random:.3f}", "")
        if self.no_memory_bound is not None:
            table.add_row("best without memory", f"{self.no_memory_bound:.3f}", "")
        for name, label in (("no_memory", "control: memory wiped"), ("shuffled", "control: another's history")):
            control = (self.controls or {}).get(name)
            if control is not None:
                table.add_row(label, f"{control['return_mean']:.3f}", _curve(control["curve"]))
            elif why := (self.controls_missing or {}).get(name):
                table.add_row(label, "not played", why)
        if self.normalized_score is not None:
            table.add_row("normalized score", f"{self.normalized_score:.3f}", "0: random play, 1: optimum")
        if self.thought_rate:
            text = f"of {self.thought_rate:.0%} of the actions, {self.thought_cut_rate:.0%} cut"
            table.add_row("tokens of a thought", f"{self.thought_tokens:.0f}", text)
        if self.errors:
            table.add_row("[red]trials ended by an error[/red]", str(self.errors), "")
        return table


def _curve(curve: list[float]) -> str:
    shown = [f"{value:.2f}" for value in curve]
    return " ".join(shown if len(shown) <= 10 else [*shown[:5], "...", *shown[-4:]])
