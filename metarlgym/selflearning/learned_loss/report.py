"""`summary.json` of the learned-loss experiment."""

from __future__ import annotations

from typing import Any

import numpy as np

from metarlgym.selflearning.learned_loss.config import FIXED, LEARNED, Config
from metarlgym.selflearning.learned_loss.validation_choice import CHOICES

WANTED_AUC = 0.95
FIGURES = ("val_loss", "auc", "auc_all", "auc_of_loss", "weight_clean", "weight_wrong", "alike", "rate")

Results = dict[str, dict[str, Any]]


def of_kind(results: Results, kind: str, config: Config) -> list[dict[str, Any]]:
    """Available results of one kind of variant with their `seed`, in the order of the seeds."""
    names = {seed: f"{kind}-seed{seed}" for seed in config.seeds}
    return [{**results[name], "seed": seed} for seed, name in names.items() if name in results]


def mean(found: list[dict[str, Any]], figure: str) -> float | None:
    """Mean over seeds; None if there are no values."""
    values = [line[figure] for line in found if line.get(figure) is not None]
    return float(np.mean(values)) if values else None


def summarise(config: Config, results: Results) -> dict[str, Any]:
    """Means over seeds, with the individual values of the main figures, and a reading of them."""
    runs = {kind: of_kind(results, kind, config) for kind in (*FIXED, *LEARNED, "redrawn", "redrawn_uniform")}
    learned, redrawn = runs["weights-next"], runs["redrawn"]
    errors = results.get("hypergradient", {}).get("errors", {})
    summary: dict[str, Any] = {
        "auc": mean(learned, "auc"),
        "auc_all": mean(learned, "auc_all"),
        "auc_of_loss": mean(learned, "auc_of_loss"),
        "ceiling": mean(learned, "ceiling"),
        "ceiling_seen": mean(learned, "ceiling_seen"),
        "val_loss": mean(learned, "val_loss"),
        "uniform_val_loss": mean(runs["uniform"], "val_loss"),
        "oracle_val_loss": mean(runs["oracle"], "val_loss"),
        "floor": mean(learned, "floor"),
        "auc_redrawn": mean(redrawn, "auc"),
        "auc_redrawn_all": mean(redrawn, "auc_all"),
        "auc_of_loss_redrawn": mean(redrawn, "auc_of_loss"),
        "ceiling_redrawn": mean(redrawn, "ceiling"),
        "ceiling_redrawn_learning": mean(redrawn, "ceiling_learning"),
        "ceiling_redrawn_learning_seen": mean(redrawn, "ceiling_learning_seen"),
        "val_loss_redrawn": mean(redrawn, "val_loss"),
        "uniform_val_loss_redrawn": mean(runs["redrawn_uniform"], "val_loss"),
        "floor_redrawn": mean(redrawn, "floor"),
        "hypergradient_error": max(errors.values(), default=None),
        "hypergradient_errors": errors,
        "by_seed": {
            "auc": [line["auc"] for line in learned],
            "auc_all": [line["auc_all"] for line in learned],
            "val_loss": [line["val_loss"] for line in learned],
            "uniform_val_loss": [line["val_loss"] for line in runs["uniform"]],
            "oracle_val_loss": [line["val_loss"] for line in runs["oracle"]],
            "auc_redrawn": [line["auc"] for line in redrawn],
            "auc_redrawn_all": [line["auc_all"] for line in redrawn],
        },
        "validation": {choice: _short(runs[f"weights-{choice}"]) for choice in CHOICES},
        "gist": {"alone": _short(runs["gist-next"]), "with_cross_entropy": _short(runs["gist_ce-next"])},
        "full_step": _short(runs["weights_full-next"]),
    }
    summary["table"] = [
        {"variant": kind, "seeds": len(found), **{name: mean(found, name) for name in FIGURES}}
        for kind, found in runs.items()
        if found
    ]
    summary["reading"] = reading(summary, config, runs)
    return summary


def _short(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Means, and the values by seed."""
    return {
        **{name: mean(found, name) for name in ("val_loss", "auc", "weight_clean", "weight_wrong", "alike")},
        "val_losses": [line["val_loss"] for line in found],
        "aucs": [line["auc"] for line in found],
    }


def _lower(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> str:
    """Number of common seeds in which the first has the lower loss, as text."""
    losses = {line["seed"]: line["val_loss"] for line in other}
    pairs = [(line["val_loss"], losses[line["seed"]]) for line in one if line["seed"] in losses]
    return f"{sum(a < b for a, b in pairs)} of {len(pairs)}"


def reading(summary: dict[str, Any], config: Config, runs: dict[str, list[dict[str, Any]]]) -> str:
    """The results in words."""
    said = [f"MetaLM with noise e={config.e:g}: the learner sees noisy targets alone."]
    if summary["auc"] is not None:
        met = "reaches" if summary["auc"] >= WANTED_AUC else "misses"
        said.append(
            f"Learned weights tell wrong targets of seen elements with AUC {summary['auc']:.3f} ({met} {WANTED_AUC:g}; "
            f"all tokens {summary['auc_all']:.3f}, ceiling {summary['ceiling']:.3f}, the learner's bare loss "
            f"{summary['auc_of_loss']:.3f})."
        )
    losses = [summary[name] for name in ("val_loss", "uniform_val_loss", "oracle_val_loss", "floor")]
    if None not in losses:
        own, uniform, oracle, floor = losses
        said.append(
            f"Clean held-out loss {own:.3f} against {uniform:.3f} under uniform weights (lower in "
            f"{_lower(runs['weights-next'], runs['uniform'])} seeds), {oracle:.3f} under the true noise mask; the "
            f"exact floor is {floor:.3f}."
        )
    chosen = {name: found for name, found in summary["validation"].items() if found["val_loss"] is not None}
    if len(chosen) > 1:
        told = ", ".join(f"{name} {found['val_loss']:.3f} (AUC {found['auc']:.3f})" for name, found in chosen.items())
        text = f"Validation chunks: {told}"
        if "similar" in chosen:
            similar = runs["weights-similar"]
            wins = [f"{other} in {_lower(similar, runs[f'weights-{other}'])} seeds" for other in ("next", "random")]
            text += f"; similar is lower than {' and '.join(wins)}"
        said.append(f"{text}.")
    gists = {name: found for name, found in summary["gist"].items() if found["val_loss"] is not None}
    if gists and losses[0] is not None:
        told = ", ".join(f"{name.replace('_', ' ')} {found['val_loss']:.3f}" for name, found in gists.items())
        said.append(
            f"Gist distance: {told}; lower than learned weights in {_lower(runs['gist-next'], runs['weights-next'])} "
            f"and {_lower(runs['gist_ce-next'], runs['weights-next'])} seeds."
        )
    full = summary["full_step"]
    if full["val_loss"] is not None and losses[0] is not None:
        said.append(
            f"Judged by whole steps instead of {config.lookahead:g} of one, weights of clean targets end at "
            f"{full['weight_clean']:.2f} (loss {full['val_loss']:.3f}, AUC {full['auc']:.3f})."
        )
    if summary["auc_redrawn"] is not None:
        said.append(
            f"Redrawn dictionaries: AUC {summary['auc_redrawn']:.3f} over elements seen before in the sequence, "
            f"{summary['auc_redrawn_all']:.3f} over all; ceilings over all {summary['ceiling_redrawn']:.3f} with the "
            f"dictionary known, {summary['ceiling_redrawn_learning']:.3f} with it learned from the sequence."
        )
    if summary["hypergradient_error"] is not None:
        said.append(f"Hypergradients differ from finite differences by at most {summary['hypergradient_error']:.1e}.")
    return " ".join(said)
