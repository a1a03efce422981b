"""`summary.json` of the learned-loss experiment."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from metarlgym.selflearning.learned_loss.config import FIXED, LEARNED, Config
from metarlgym.selflearning.learned_loss.validation_choice import CHOICES

FIGURES = ("val_loss", "auc", "auc_all", "auc_of_loss", "weight_clean", "weight_wrong", "alike", "rate")
Results = dict[str, dict[str, Any]]


def of_kind(results: Results, kind: str, config: Config) -> list[dict[str, Any]]:
    """Available results of one kind of variant with their `seed`, in the order of the seeds."""
    names = {seed: f"{kind}-seed{seed}" for seed in config.seeds}
    found = [(seed, copy.copy(results[name])) for seed, name in names.items() if name in results]  # keeps the type
    for seed, result in found:
        result["seed"] = seed
    return [result for _, result in found]


def mean(found: list[dict[str, Any]], figure: str) -> float | None:
    """Mean over seeds; None if there are no values."""
    values = [line[figure] for line in found if line.get(figure) is not None]
    return float(np.mean(values)) if values else None


def summarize(config: Config, results: Results) -> dict[str, Any]:
    """Means over seeds, with the individual values of the main figures."""
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
    return summary


def _short(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Means, and the values by seed."""
    return {
        **{name: mean(found, name) for name in ("val_loss", "auc", "weight_clean", "weight_wrong", "alike")},
        "val_losses": [line["val_loss"] for line in found],
        "aucs": [line["auc"] for line in found],
    }
