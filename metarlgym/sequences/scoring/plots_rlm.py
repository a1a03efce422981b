"""Plots of the Random Language Model: a derivation, frequencies by rank, entropies by inverse temperature."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from metarlgym.datatypes import ConfigError
from metarlgym.files import write_whole
from metarlgym.sequences.sources.rlm import RLM, base_draw, scaled_rules

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#999999")
"""The color-blind-safe palette of Okabe and Ito."""
DEEPEST = 7
"""Maximum depth of a drawn tree: with 2^7 leaves the symbols are just legible."""


class Entropies(NamedTuple):
    """Statistics of a grammar's rules; all but `variance` lie between 0 and 1."""

    pair: float
    """Entropy of two sibling symbols under a uniform parent, divided by 2 ln V."""
    rule: float
    """Entropy of the children of one symbol, averaged over symbols, divided by 2 ln V."""
    token: float
    """Entropy of one child of a uniform parent, divided by ln V."""
    variance: float
    """Relative variance of the frequencies of the V^2 sibling pairs."""


def entropy(probs: np.ndarray) -> np.ndarray:
    """Entropy over the last axis, in nats; 0 log 0 counts as 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return -np.where(probs > 0, probs * np.log(probs), 0.0).sum(-1)


def grammar_entropies(rules: np.ndarray) -> Entropies:
    """Exact entropies of the rules `(V, V, V)`, without sampling."""
    v = len(rules)
    pairs = rules.mean(0)
    child = (pairs.sum(0) + pairs.sum(1)) / 2
    scale = 2 * math.log(v)
    return Entropies(
        float(entropy(pairs.ravel()) / scale),
        float(entropy(rules.reshape(v, -1)).mean() / scale),
        float(2 * entropy(child) / scale),
        float(v**2 * (pairs**2).sum() - 1),
    )


def entropy_curves(
    sizes: Sequence[int], betas: Sequence[float], grammars: int = 3, seed: int = 0
) -> dict[int, np.ndarray]:
    """`Entropies` averaged over grammars, `(len(betas), 4)` per vocabulary size. Grammar g has seed `seed + g`."""
    found = {}
    for v in sizes:
        table = np.zeros((len(betas), 4))
        for g in range(grammars):
            draw = base_draw(v, seed + g)
            table += [grammar_entropies(scaled_rules(draw, beta)) for beta in betas]
        found[v] = table / grammars
    return found


def rule_entropy_limit(betas: Any) -> np.ndarray:
    """Entropy of one rule divided by 2 ln V as V goes to infinity: that of the random energy model with V^2 levels of
    variance beta^2 ln V, which freezes at beta = 2."""
    return np.clip(1 - np.asarray(betas, float) ** 2 / 4, 0, None)


def pair_entropy_limit(betas: Any) -> np.ndarray:
    """Entropy of a sibling pair divided by 2 ln V as V goes to infinity.

    For a pair drawn from the mean of V rules, the one rule that generated it contributes V^(beta^2/2 - 1) times the
    average frequency, which is negligible to this order below beta = sqrt 2. The effects from beta = 1 on, where the
    relative variance V^(beta^2 - 1) begins to grow with V, are of lower order in ln V; at the plotted sizes they show
    first.
    """
    return np.clip(1.5 - np.asarray(betas, float) ** 2 / 4, 0.5, 1)


def leaf_pairs(source: RLM) -> np.ndarray:
    """Exact distribution of two sibling leaves, averaged over their positions, `(V, V)`."""
    return np.tensordot(source.marginal(source.L - 1), source.M, 1)


def plot_tree(source: RLM, index: int = 0, split: str = "train", path: Path | None = None, dpi: int = 140) -> Figure:
    """Plot one derivation: the root at the top, the leaves (the sequence) as squares at the bottom, in order.

    Raises:
        ConfigError: the tree is too deep to be legible.
    """
    from matplotlib.collections import LineCollection

    if source.L > DEEPEST:
        raise ConfigError(f"L={source.L} gives {2**source.L} leaves, too many to be read: use L={DEEPEST} or less.")
    levels = [level[0] for level in source.trees(index, 1, split)]
    places = [(np.arange(2**k) + 0.5) * 2 ** (source.L - k) - 0.5 for k in range(source.L + 1)]
    room = 2**source.L
    figure = new_figure(max(6.5, 0.29 * room), 1.6 + 0.85 * source.L, dpi)
    axes = figure.add_subplot()
    size = 215 if source.L < 6 else 150
    for k, (above, below) in enumerate(itertools.pairwise(levels)):
        lines, widths = [], []
        for i, symbol in enumerate(above):
            prob = source.M[symbol, below[2 * i], below[2 * i + 1]]
            for j in (2 * i, 2 * i + 1):
                lines.append([(places[k][i], -k), (places[k + 1][j], -k - 1)])
                widths.append(0.6 + 4 * float(prob))
        axes.add_collection(LineCollection(lines, linewidths=widths, colors="#888888", zorder=1))
    for k, symbols in enumerate(levels):
        fill, ink = _symbol_colors(symbols, source.v)
        shape = "s" if k == source.L else "o"
        axes.scatter(places[k], np.full(len(symbols), -k), size, c=fill, marker=shape, edgecolors="#444444", zorder=2)
        letters = 8 if source.v <= 100 and source.L < 6 else 6
        for x, symbol, color in zip(places[k], symbols, ink, strict=True):
            axes.text(x, -k - 0.01, str(symbol), ha="center", va="center", fontsize=letters, color=color, zorder=3)
    axes.set_yticks(-np.arange(source.L + 1), ["root", *map(str, range(1, source.L)), "leaves"])
    axes.set_ylabel("level")
    axes.set_xticks([])
    axes.set_xlabel("sequence, left to right; a thick line is a rule of high probability")
    axes.set_xlim(-0.8, room - 0.2)
    axes.set_ylim(-source.L - 0.55, 0.55)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(f"Random Language Model, V = {source.v}, L = {source.L}, beta = {source.beta:g}: sequence {index}")
    return finish(figure, path)


def plot_tokens(sources: Sequence[RLM], path: Path | None = None, dpi: int = 140) -> Figure:
    """Plot exact frequencies by rank, most frequent first: leaves, sibling leaves, and the rules of one symbol.

    Args:
        sources: one for each beta, usually with the same draw of the grammar.
        path: where to save the figure; None not to save it.
        dpi: dots per inch.
    """
    figure = new_figure(12, 4.2, dpi)
    tokens, pairs, rules = figure.subplots(1, 3)
    shades = _shades(len(sources))
    for source, color in zip(sources, shades, strict=True):
        by_rank = {
            tokens: source.marginal(),
            pairs: leaf_pairs(source).ravel(),
            # Ranked within each symbol and then averaged: a typical rule set, unlike the pairs above.
            rules: np.sort(source.M.reshape(source.v, -1), 1)[:, ::-1].mean(0),
        }
        for axes, probs in by_rank.items():
            ranked = np.sort(probs)[::-1]
            mark = "o-" if axes is tokens and source.v <= 40 else "-"
            label = f"beta = {source.beta:g}"
            axes.plot(1 + np.arange(ranked.size), ranked, mark, color=color, markersize=3, label=label)
    v = sources[0].v
    for axes, title, floor in (
        (tokens, "one leaf", 1e-2 / v),
        (pairs, "two sibling leaves", 1e-3 / v**2),
        (rules, "children of one symbol (mean of its ranks)", 1e-3 / v**2),
    ):
        axes.set_yscale("log")
        axes.set_ylim(bottom=max(floor, axes.get_ylim()[0]))  # the rarest pairs of a cold grammar are below 1e-100
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("rank")
        axes.grid(alpha=0.3)
    pairs.set_xscale("log")
    rules.set_xscale("log")
    tokens.set_ylabel("probability")
    tokens.legend(fontsize=8, loc="lower left")
    figure.suptitle(f"Random Language Model, V = {v}, L = {sources[0].L}: exact frequencies of one draw of the grammar")
    return finish(figure, path)


def plot_entropy(
    curves: dict[int, np.ndarray], betas: Sequence[float], path: Path | None = None, dpi: int = 140
) -> Figure:
    """Plot the entropies and the variance of pair frequencies by beta, as returned by `entropy_curves`."""
    figure = new_figure(12, 5, dpi)
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    fine = np.linspace(0, max(betas), 400)
    for (v, table), color in zip(curves.items(), _shades(len(curves)), strict=True):
        left.plot(betas, table[:, 0], "-", color=color, label=f"V = {v}")
        left.plot(betas, table[:, 1], "--", color=color)
        shown = table[:, 3] > 0  # 0 at beta = 0, which a log scale cannot show
        right.plot(np.asarray(betas)[shown], table[shown, 3], "-", color=color, label=f"V = {v}")
    left.plot(fine, pair_entropy_limit(fine), color="black", linewidth=1, alpha=0.7)
    left.plot(fine, rule_entropy_limit(fine), "--", color="black", linewidth=1, label="V to infinity")
    left.plot([], [], "-", color="grey", label="sibling pair")
    left.plot([], [], "--", color="grey", label="rule of one symbol")
    left.set_ylim(-0.02, 1.16)
    left.set_ylabel("entropy / (2 ln V)")
    left.legend(fontsize=8, loc="lower left")
    right.axhline(1, color="grey", linewidth=0.8)
    right.set_yscale("log")
    right.set_ylim(3e-3, 300)
    right.set_ylabel("relative variance of pair frequencies")
    right.legend(fontsize=8, loc="lower right")
    right.set_title("below beta = 1 it falls with V, above it grows", fontsize=10)
    left.set_title("exact entropies of the grammar", fontsize=10)
    marks = ((1.0, "1: pairs\ndiffer"), (math.sqrt(2), "√2: tokens\ndiffer"), (2.0, "2: rules\nfreeze"))
    for axes in (left, right):
        for beta, text in marks:
            if beta > max(betas):
                continue
            axes.axvline(beta, color="#D55E00", linestyle=":", linewidth=1.2)
            axes.text(beta + 0.03, 0.985, text, transform=axes.get_xaxis_transform(), fontsize=8, va="top")
        axes.set_xlabel("beta (inverse temperature)")
        axes.set_xlim(0, max(betas))
        axes.grid(alpha=0.3)
    return finish(figure, path)


def new_figure(width: float, height: float, dpi: int) -> Figure:
    """An empty figure, without a display and without global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def finish(figure: Figure, path: Path | None) -> Figure:
    """Save the figure if a path is given."""
    if path is not None:
        with write_whole(Path(path)) as file:
            figure.savefig(file, format=Path(path).suffix[1:] or "png")
    return figure


def _shades(count: int) -> list[Any]:
    """Colors for an ordered family of curves, dark to light, without the lightest yellow."""
    from matplotlib import colormaps

    return [colormaps["viridis"](x) for x in np.linspace(0, 0.85, count)]


def _symbol_colors(symbols: np.ndarray, v: int) -> tuple[list[Any], list[str]]:
    """Fill and text color of each symbol. Beyond the palette's size, only the numbers tell neighbors apart."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    fill = [to_rgb(COLORS[s]) if v <= len(COLORS) else colormaps["viridis"](s / (v - 1))[:3] for s in symbols]
    light = [0.299 * r + 0.587 * g + 0.114 * b for r, g, b in fill]
    return fill, ["black" if value > 0.5 else "white" for value in light]
