"""Report of the reading mode: a model's losses next to those of exact predictors and cheap baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from metarlgym.files import write_whole
from metarlgym.sequences.predictors import Predictor, exact_predictor, references
from metarlgym.sequences.sources import Source

FLOOR = "floor"
"""Name of the best achievable loss."""
CHEAP = 16
"""Maximum number of sequences for the cheap baselines, which are plain Python."""


def yardstick_losses(source: Source, start: int, count: int, with_labels: bool) -> dict[str, tuple[str, np.ndarray]]:
    """Losses of the model's reference predictors, on sequences `start`... of the eval split.

    Returns:
        By short name: (description, losses `(N, T)` in nats). N is `count`, or fewer for the cheap baselines. `floor`
        is the exact predictor, which knows the source (MetaLM's language, RLM's grammar, the law of a piecewise
        source).
    """
    columns = source.columns(start, count, "eval")
    tokens, labels = columns["tokens"], columns["labels"] if with_labels else None

    def losses(predictor: Predictor, most: int) -> np.ndarray:
        # Predictors of sources without labels do not accept labels.
        return predictor.log_loss(tokens[:most], *([] if labels is None else [labels[:most]]))

    exact = exact_predictor(source, start, count, "eval", noisy=not with_labels)
    found = {FLOOR: (source.exact_name, losses(exact, count))}
    for name, predictor in references(source).items():
        few = min(count, CHEAP) if predictor.slow else count
        label = f"{name} ({few} sequences)" if predictor.slow else name
        found[name] = (label, losses(predictor, few))
    return found


def curve(losses: np.ndarray) -> dict[str, Any]:
    """Mean by position with its standard error, and over all positions; None where there was no prediction."""
    mean = losses.mean(0)
    se = losses.std(0, ddof=1) / np.sqrt(len(losses)) if len(losses) > 1 else np.zeros(losses.shape[1])
    each = np.nanmean(losses, 1)
    return {
        "mean": float(each.mean()),
        "mean_se": float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else None,
        "sequences": len(losses),
        "by_position": [None if np.isnan(v) else float(v) for v in mean],
        "by_position_se": [None if np.isnan(v) else float(v) for v in se],
    }


def report(losses: np.ndarray, others: dict[str, tuple[str, np.ndarray]]) -> dict[str, Any]:
    """The model's curve and the references' curves, all over the positions that the model predicted.

    Args:
        losses: `(N, T)` of the model, NaN where it made no prediction.
        others: the result of `yardstick_losses`.
    """
    blank = np.isnan(losses).any(0)
    found: dict[str, Any] = {"model": {"what": "model", **curve(np.where(blank, np.nan, losses))}}
    for name, (what, values) in others.items():
        found[name] = {"what": what, **curve(np.where(blank, np.nan, values))}
    floor = others[FLOOR][1]
    gaps = np.nanmean(losses - floor, 1)
    found["above_floor"] = {
        "mean": float(gaps.mean()),
        "mean_se": float(gaps.std(ddof=1) / np.sqrt(len(gaps))) if len(gaps) > 1 else None,
        "total": float(np.nansum(losses - floor, 1).mean()),
    }
    return found


def plot_reading(found: dict[str, Any], title: str, path: Path, bins: int = 64) -> None:
    """Plot loss by position of the model and the references; PNG, PDF or SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    colors = {"model": "#0072B2", FLOOR: "black", "KT": "#D55E00", "PTW": "#009E73", "LIN": "#CC79A7"}
    spare = iter(["#E69F00", "#56B4E9", "#999999"])
    for name, line in found.items():
        if "by_position" not in line:
            continue
        values = np.array([np.nan if v is None else v for v in line["by_position"]])
        at, shown = _binned(values, bins)
        label = f"{line['what']}{' (the floor)' if name == FLOOR else ''}: {line['mean']:.3f} nats"
        color, dashes = colors.get(name) or next(spare), "--" if name == FLOOR else "-"
        axes.plot(at, shown, dashes, color=color, label=label, linewidth=2 if name in ("model", FLOOR) else 1.2)
    axes.set_xlabel("position in the sequence")
    axes.set_ylabel("loss, nats a symbol")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with write_whole(Path(path)) as file:
        figure.savefig(file, dpi=140, format=Path(path).suffix[1:] or "png")


def _binned(values: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Bin neighboring positions into at most `bins` means; returns their centers too."""
    places = np.arange(1, len(values) + 1)
    kept = ~np.isnan(values)
    places, values = places[kept], values[kept]
    parts = min(bins, len(values))
    groups = zip(np.array_split(places, parts), np.array_split(values, parts), strict=True)
    at, means = zip(*((p.mean(), v.mean()) for p, v in groups), strict=True)
    return np.array(at), np.array(means)
