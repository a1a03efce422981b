"""Plots of sources over time: a piecewise source with its predictors, and MetaLM's loss by position."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from metarlgym.sequences.predictors import (
    KT,
    LIN,
    PTW,
    LempelZiv,
    MetaLMFilter,
    NGram,
    Predictor,
    exact_predictor,
    regret,
    symmetric_concentration,
)
from metarlgym.sequences.scoring.plots_rlm import finish, new_figure
from metarlgym.sequences.sources import MetaLM, Piecewise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = {"KT": "#D55E00", "PTW": "#009E73", "LIN": "#CC79A7", "law known": "#0072B2"}


class Published(NamedTuple):
    """A network's published loss on MetaLM."""

    name: str
    positions: tuple[int, ...]
    losses: tuple[float, ...]
    """Nats per token, read off a plot."""


PUBLISHED = (
    Published("Transformer-XL (published)", (128, 512, 4096), (3.77, 2.29, 2.16)),
    Published("LSTM (published)", (128, 512, 4096), (4.48, 3.95, 3.78)),
)
"""V = 64, n = 10, l = 32, e = 0.1, read off MetaGym's `metagym/metalm/Perplexity-MetaLM.png`, one point every 128
tokens. The axis label says perplexity, but the values are nats. Transformer-XL has 6 layers of width 512, the LSTM
4."""
PUBLISHED_SETTINGS = (64, 10, 32.0, 0.1)


def piecewise_predictors(source: Piecewise) -> dict[str, Predictor]:
    """Predictors plotted with a source: KT, PTW, LIN and, if the law has another one, its own exact predictor."""
    size, alpha = source.alphabet, symmetric_concentration(source)
    found: dict[str, Predictor] = {
        "KT": KT(size, alpha),
        "PTW": PTW(source.depth, size, alpha),
        "LIN": LIN(size, alpha),
    }
    if source.law in ("regular", "random"):
        found["law known"] = exact_predictor(source)
    return found


def plot_piecewise(
    source: Piecewise, index: int = 0, split: str = "train", path: Path | None = None, dpi: int = 140
) -> Figure:
    """Plot one sequence: the true probability of symbol 1, the switch points, the symbols and the predictions; below,
    the predictors' cumulative expected regret."""
    batch = source.batch(index, 1, split)
    theta, tokens = batch.theta[0], batch.tokens[0]
    times = np.arange(1, source.T + 1)
    figure = new_figure(10, 6, dpi)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.5, 1))
    for axes in (upper, lower):
        for t in np.flatnonzero(batch.switches[0]):
            axes.axvline(t + 0.5, color="#BBBBBB", linewidth=0.8, zorder=0)
        axes.grid(axis="y", alpha=0.3)
    upper.plot([], [], color="#BBBBBB", linewidth=0.8, label="switch")
    upper.step(times, theta[:, 1], where="mid", color="black", linewidth=2, label="true probability")
    ones = tokens == 1
    marks = {"marker": "|", "s": 26, "linewidths": 0.8, "color": "black"}
    upper.scatter(times[ones], np.full(ones.sum(), 1.06), **marks)
    upper.scatter(times[~ones], np.full((~ones).sum(), -0.06), **marks)
    for name, predictor in piecewise_predictors(source).items():
        probs = predictor.predictions(tokens)
        total = regret(theta, probs[0]).cumsum()
        upper.plot(times, probs[0, :, 1], color=COLORS[name], linewidth=1.2, label=name)
        lower.plot(times, total, color=COLORS[name], linewidth=1.5, label=f"{name}: {total[-1]:.1f}")
    upper.set_ylim(-0.12, 1.12)
    upper.set_ylabel("probability of symbol 1")
    # Outside the axes, since curves may pass through any corner.
    upper.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
    lower.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
    lower.set_ylabel("regret so far, nats")
    lower.set_xlabel("time")
    lower.set_xlim(0, source.T + 1)
    upper.set_title(f"piecewise source, law {source.law}: sequence {index}; marks above are 1, below are other symbols")
    return finish(figure, path)


def metalm_losses(source: MetaLM, sequences: int, order: int = 3, split: str = "eval") -> dict[str, np.ndarray]:
    """Loss on the clean next token by position, `(sequences, L)`: with a known dictionary, and of baselines."""
    x, y = source.batch(0, sequences, split)
    known = MetaLMFilter(source, source.dictionaries(0, sequences, split))
    return {
        f"n-gram, {order} tokens, backing off": NGram(source.vocab_size, order).log_loss(x, y),
        "Lempel-Ziv": LempelZiv(source.vocab_size).log_loss(x, y),
        "known dictionary (the floor)": known.log_loss(x, y),
    }


def plot_metalm(
    source: MetaLM, losses: dict[str, np.ndarray], path: Path | None = None, bins: int = 40, dpi: int = 140
) -> Figure:
    """Plot loss by position; with the published settings, also that of the published networks."""
    figure = new_figure(8, 4.6, dpi)
    axes = figure.add_subplot()
    shades = iter(("#E69F00", "#56B4E9", "black", "#009E73", "#CC79A7"))
    for name, values in losses.items():
        parts = np.array_split(np.arange(values.shape[1]), min(bins, values.shape[1]))
        at = [part.mean() + 1 for part in parts]
        means = [values[:, part].mean() for part in parts]
        label = f"{name}: {values.mean():.3f}"
        axes.plot(at, means, "--" if "floor" in name else "-", color=next(shades), label=label)
    if (source.V, source.n, source.l, source.e) == PUBLISHED_SETTINGS:
        for shape, line in zip("s^", PUBLISHED, strict=True):
            kept = [i for i, position in enumerate(line.positions) if position <= source.L]
            places, values_ = [line.positions[i] for i in kept], [line.losses[i] for i in kept]
            axes.plot(places, values_, shape, color="#D55E00", markerfacecolor="none", label=line.name)
    axes.set_yscale("log")
    axes.set_xlabel("position")
    axes.set_ylabel("loss, nats a token")
    settings = f"V = {source.V}, n = {source.n}, l = {source.l:g}, e = {source.e:g}"
    axes.set_title(f"MetaLM, {settings}: {len(next(iter(losses.values())))} sequences")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return finish(figure, path)
