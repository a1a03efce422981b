"""`metarlgym yardsticks`: recomputes the tables of reference values."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from metarlgym.cli.common import check_writable, output
from metarlgym.files import write_json

if TYPE_CHECKING:
    from metarlgym.sequences.scoring.reference_tables import Row

app = typer.Typer(
    no_args_is_help=True,
    help="Recompute the tables of reference values. Exit status 1 if a value disagrees with its reference.",
)
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed for the sequences.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the values to this file.")]


@app.command("piecewise")
def piecewise(
    sequences: Annotated[
        int, typer.Option("--sequences", "-n", min=2, help="Number of sequences per source.")
    ] = 10_000,
    seed: Seed = 0,
    path: Json = None,
) -> None:
    """Cumulative regret of PTW, LIN and KT on five piecewise-stationary sources, 256 binary symbols."""
    from metarlgym.sequences.scoring.reference_tables import piecewise_rows
    from metarlgym.sequences.sources.base import check_seed

    check_seed("seed", seed)
    _show(piecewise_rows(sequences, seed), 30, ("source", "predictor"), "nats", path)


@app.command("rlm")
def rlm(
    grammars: Annotated[int, typer.Option(min=2, help="Number of grammars per entry.")] = 30,
    sequences: Annotated[int, typer.Option("--sequences", "-n", min=1, help="Number of sequences per grammar.")] = 500,
    seed: Seed = 0,
    path: Json = None,
) -> None:
    """Loss of a predictor that knows the grammar of a Random Language Model: a lower bound for every learner."""
    from metarlgym.sequences.scoring.reference_tables import rlm_rows
    from metarlgym.sequences.sources.base import check_seed

    check_seed("seed", seed)
    _show(rlm_rows(grammars, sequences, seed), 44, ("V", "beta", "L", "floor of"), "nats", path, "over grammars")


@app.command("metalm")
def metalm(
    sequences: Annotated[
        int, typer.Option("--sequences", "-n", min=2, help="Number of sequences, each with its own language.")
    ] = 1000,
    length: Annotated[int, typer.Option("-L", min=2, help="Length of a sequence.")] = 4096,
    seed: Seed = 0,
    path: Json = None,
) -> None:
    """Loss of a predictor that knows the dictionary of a MetaLM sequence: a lower bound for every learner."""
    from metarlgym.sequences.scoring.reference_tables import metalm_rows
    from metarlgym.sequences.sources.base import check_seed

    check_seed("seed", seed)
    _show(metalm_rows(sequences, length, seed), 4, ("n", "l", "e"), "nats a token", path)


def _show(
    rows: Iterable[Row], count: int, heads: tuple[str, ...], unit: str, path: Path | None, spread: str = "s.e."
) -> None:
    check_writable(path, "json", (".json",))
    found: list[Row] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for row in progress.track(rows, total=count, description="computing"):
            found.append(row)
    from rich.table import Table

    table = Table(*heads, box=None, pad_edge=False)
    for head in (unit, f"± {spread}", "reference", "agrees"):
        table.add_column(head, justify="right")
    digits = 2 if max(abs(row.value) for row in found) > 6 else 4
    for row in found:
        verdict = "yes" if row.agrees else f"no: off by {row.value - row.reference:+.{digits}f}"
        numbers = (f"{row.value:.{digits}f}", f"{row.se:.{digits}f}", f"{row.reference:g}", verdict)
        table.add_row(*(part.split("=")[-1] if "=" in part else part for part in row.name), *numbers)
    if path is not None:  # before printing, because it may fail
        write_json([{**row._asdict(), "name": list(row.name), "agrees": row.agrees} for row in found], path, indent=1)
    console = output()
    console.print(table)
    good = sum(row.agrees for row in found)
    console.print(f"{good} of {len(found)} figures agree with their references")
    if path is not None:
        console.print(f"written: {path}", soft_wrap=True)
    if good < len(found):
        raise typer.Exit(1)
