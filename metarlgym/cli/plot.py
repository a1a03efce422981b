"""`metarlgym plot`: plots of the sequence worlds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from metarlgym.cli.common import High, Low, Period, check_plot, output, used
from metarlgym.datatypes import ConfigError

app = typer.Typer(no_args_is_help=True, help="Plot the sequence worlds: grammars, sources, predictors.")
Out = Annotated[Path, typer.Option("--out", help="Output file: .png, .pdf or .svg.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed for the sequences.")]
Index = Annotated[int, typer.Option("--index", min=0, help="Index of the sequence.")]
Rules = Annotated[int, typer.Option("--seed-rules", min=0, help="Seed for the grammar.")]


@app.command("tree")
def tree(
    out: Out,
    v: Annotated[int, typer.Option("--v", help="Vocabulary size.")] = 8,
    L: Annotated[int, typer.Option("--L", help="Depth; the tree has 2^L leaves.")] = 4,
    beta: Annotated[float, typer.Option("--beta", help="Inverse temperature of the rules.")] = 2.0,
    seed_rules: Rules = 12345,
    seed: Seed = 67890,
    index: Index = 0,
) -> None:
    """A derivation tree of a Random Language Model; its leaves are the sequence."""
    _check(out)
    from metarlgym.sequences.scoring.plots_rlm import plot_tree
    from metarlgym.sequences.sources import RLM
    from metarlgym.sequences.sources.base import check_seed

    check_seed("seed", seed)
    _done(plot_tree(RLM(v, L, beta, seed_rules, seed), index, path=out), out)


@app.command("tokens")
def tokens(
    out: Out,
    v: Annotated[int, typer.Option("--v", help="Vocabulary size.")] = 32,
    L: Annotated[int, typer.Option("--L", help="Depth of the trees.")] = 3,
    betas: Annotated[str, typer.Option("--betas", help="Inverse temperatures, comma-separated.")] = "0.5,1,1.5,2,3",
    seed_rules: Rules = 12345,
) -> None:
    """Exact frequencies of tokens, pairs and rules of one grammar as functions of beta."""
    _check(out)
    from metarlgym.sequences.scoring.plots_rlm import plot_tokens
    from metarlgym.sequences.sources import RLM

    _done(plot_tokens([RLM(v, L, beta, seed_rules) for beta in _numbers("betas", betas)], path=out), out)


@app.command("entropy")
def entropy(
    out: Out,
    sizes: Annotated[str, typer.Option("--sizes", help="Vocabulary sizes, comma-separated.")] = "16,32,64,128",
    highest: Annotated[float, typer.Option("--highest", min=0.5, help="Maximum beta; the range starts at 0.")] = 4.0,
    steps: Annotated[int, typer.Option("--steps", min=2, help="Number of beta values.")] = 33,
    grammars: Annotated[int, typer.Option("--grammars", min=1, help="Number of grammars to average over.")] = 3,
    seed_rules: Rules = 0,
) -> None:
    """Entropies of grammars over beta, transitions marked: pairs from 1, tokens from sqrt 2, rules frozen at 2."""
    _check(out)
    numbers = _numbers("sizes", sizes)
    if not all(size.is_integer() and 2 <= size <= 512 for size in numbers):
        raise ConfigError(f"sizes={sizes!r} must be whole numbers from 2 to 512.")
    vocabularies = [int(size) for size in numbers]
    import numpy as np
    from rich.table import Table

    from metarlgym.sequences.scoring.plots_rlm import entropy_curves, plot_entropy

    betas = np.linspace(0, highest, steps)
    console = output()
    with console.status("drawing grammars"):
        curves = entropy_curves(vocabularies, betas.tolist(), grammars, seed_rules)
    table = Table(title="entropy over 2 ln V: of a sibling pair / of one rule", box=None)
    table.add_column("beta", justify="right")
    for v in vocabularies:
        table.add_column(f"V = {v}", justify="right")
    for beta in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0):
        if beta <= highest:
            i = int(np.abs(betas - beta).argmin())
            cells = [f"{curves[v][i, 0]:.3f} / {curves[v][i, 1]:.3f}" for v in vocabularies]
            table.add_row(f"{betas[i]:.2f}", *cells)
    picture = plot_entropy(curves, betas.tolist(), out)  # before printing, because it may fail
    console.print(table)
    _done(picture, out)


@app.command("piecewise")
def piecewise(
    out: Out,
    law: Annotated[str, typer.Option("--law", help="Switching law: static, regular, random, ptw or lin.")] = "ptw",
    T: Annotated[int, typer.Option("--T", help="Length of the sequence.")] = 256,
    period: Period = None,
    low: Low = None,
    high: High = None,
    seed: Seed = 0,
    index: Index = 0,
) -> None:
    """A binary piecewise source: switch points, and the predictors' probabilities and regret over time."""
    _check(out)
    from metarlgym.sequences.scoring.plots_sources import plot_piecewise
    from metarlgym.sequences.sources import Piecewise
    from metarlgym.sequences.sources.settings import check_used

    settings = {"law": law, "T": T, **used(period=period, low=low, high=high)}
    check_used(Piecewise, settings)
    source = Piecewise(**settings, seed=seed)
    _done(plot_piecewise(source, index, path=out), out)


@app.command("metalm")
def metalm(
    out: Out,
    V: Annotated[int, typer.Option("--V", help="Content symbols are 1..V-1.")] = 64,
    n: Annotated[int, typer.Option("--n", help="Number of elements per language.")] = 10,
    l: Annotated[float, typer.Option("--l", help="Mean length of an element.")] = 32.0,  # noqa: E741
    e: Annotated[float, typer.Option("--e", help="Probability that a symbol is corrupted.")] = 0.1,
    L: Annotated[int, typer.Option("--L", help="Length of a sequence.")] = 4096,
    sequences: Annotated[int, typer.Option("--sequences", min=1, help="Number of sequences to average over.")] = 16,
    order: Annotated[
        int, typer.Option("--order", min=0, help="Context window of the n-gram predictor, in tokens.")
    ] = 3,
    seed: Seed = 0,
) -> None:
    """MetaLM's loss by position: simple learners against the floor, and published networks where the settings match."""
    _check(out)
    from metarlgym.sequences.scoring.plots_sources import metalm_losses, plot_metalm
    from metarlgym.sequences.sources import MetaLM

    console = output()
    source = MetaLM(V, n, l, e, L, seed)
    with console.status("reading sequences"):
        losses = metalm_losses(source, sequences, order)
    _done(plot_metalm(source, losses, out), out)


def _check(out: Path) -> None:
    check_plot(out, "out")


def _done(_: Any, out: Path) -> None:
    output().print(f"written: {out}", soft_wrap=True)


def _numbers(name: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{name}={text!r} must be numbers with commas, such as 1,2,3.") from None
