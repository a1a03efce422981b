"""`metarlgym generate`: writes sequences from a source as Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from metarlgym.cli.common import High, Low, Period, output, used
from metarlgym.datatypes import ConfigError
from metarlgym.runtime.interrupt import Interrupted, status_of

app = typer.Typer(
    no_args_is_help=True,
    help="Write sequences with a known exact distribution as Parquet. To resume after an interruption, "
    "run the same command again.",
)
Out = Annotated[
    Path, typer.Option("--out", help="A file ending in .parquet, or a folder (no extension) for part files.")
]
Sequences = Annotated[int, typer.Option("--sequences", "-n", help="Number of sequences over all shards.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed for the sequences.")]
Split = Annotated[str, typer.Option("--split", help="train or eval: disjoint sets of sequences.")]
Shard = Annotated[
    str,
    typer.Option("--shard", metavar="K/N", help="Write only shard K of N, counting from 0; shards may share a folder."),
]
PartSize = Annotated[
    int | None,
    typer.Option("--part-size", help="Sequences held in memory and written at once; default: depends on their length."),
]


@app.command("metalm")
def metalm(
    out: Out,
    sequences: Annotated[int, typer.Option("--sequences", help="Number of sequences over all shards.")],
    V: Annotated[int, typer.Option("--V", help="Content symbols are 1..V-1; V+1 separates elements.")] = 64,
    n: Annotated[int, typer.Option("--n", help="Number of elements per language.")] = 10,
    l: Annotated[float, typer.Option("--l", help="Mean length of an element.")] = 64.0,  # noqa: E741
    e: Annotated[float, typer.Option("--e", help="Probability that a symbol is corrupted.")] = 0.1,
    L: Annotated[int, typer.Option("--L", help="Length of a sequence.")] = 4096,
    seed: Seed = 0,
    split: Split = "train",
    shard: Shard = "0/1",
    part_size: PartSize = None,
) -> None:
    """MetaLM: repeating random elements with noise. Columns: index, tokens, labels (the clean next tokens).

    \b
    Example:
      metarlgym generate metalm --sequences 100000 --out metalm
    """
    _generate("metalm", {"V": V, "n": n, "l": l, "e": e, "L": L}, out, sequences, seed, split, shard, part_size)


@app.command("rlm")
def rlm(
    out: Out,
    sequences: Sequences,
    v: Annotated[int, typer.Option("--v", help="Vocabulary size.")] = 128,
    L: Annotated[int, typer.Option("--L", help="Depth of the trees; a sequence has 2^L tokens.")] = 1,
    beta: Annotated[float, typer.Option("--beta", help="Inverse temperature of the rules.")] = 2.0,
    seed_rules: Annotated[int, typer.Option("--seed-rules", help="Seed for the grammar.")] = 12345,
    num_data: Annotated[
        int | None,
        typer.Option("--num-data", help="Cycle through the first NUM_DATA sequences; default: fresh sequences only."),
    ] = None,
    seed: Seed = 0,
    split: Split = "train",
    shard: Shard = "0/1",
    part_size: PartSize = None,
) -> None:
    """Random Language Model: leaves of trees grown by a random grammar. Columns: index, tokens, root.

    \b
    Example:
      metarlgym generate rlm --L 4 --sequences 1000000 --out rlm.parquet
    """
    settings = {"v": v, "L": L, "beta": beta, "seed_rules": seed_rules, "num_data": num_data}
    _generate("rlm", settings, out, sequences, seed, split, shard, part_size)


@app.command("piecewise")
def piecewise(
    out: Out,
    sequences: Sequences,
    law: Annotated[str, typer.Option("--law", help="Switching law: static, regular, random, ptw or lin.")] = "ptw",
    T: Annotated[int, typer.Option("--T", help="Length of a sequence.")] = 256,
    alphabet: Annotated[int, typer.Option("--alphabet", help="Number of symbols.")] = 2,
    concentration: Annotated[
        list[float] | None,
        typer.Option("--concentration", help="Dirichlet concentration, default 0.5; given once, or once per symbol."),
    ] = None,
    period: Period = None,
    low: Low = None,
    high: High = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write theta, the true distribution of every token.")
    ] = False,
    seed: Seed = 0,
    split: Split = "train",
    shard: Shard = "0/1",
    part_size: PartSize = None,
) -> None:
    """Piecewise-stationary symbols. Columns: index, tokens, switches (segment starts, without 0), theta.

    \b
    Example:
      metarlgym generate piecewise --law lin --sequences 10000 --probabilities --out lin.parquet
    """
    each = concentration or [0.5]
    settings = {
        "law": law,
        "T": T,
        "alphabet": alphabet,
        "concentration": each[0] if len(each) == 1 else each,
        **used(period=period, low=low, high=high),
    }
    _generate("piecewise", settings, out, sequences, seed, split, shard, part_size, probabilities)


@app.command("pseudo")
def pseudo(
    out: Out,
    sequences: Sequences,
    V: Annotated[int, typer.Option("--V", help="Vocabulary size.")] = 256,
    n_gram: Annotated[
        int, typer.Option("--n-gram", help="Context window of the network; the oldest token has no effect.")
    ] = 3,
    n_emb: Annotated[int, typer.Option("--n-emb", help="Embedding width.")] = 16,
    n_hidden: Annotated[int, typer.Option("--n-hidden", help="Hidden layer width.")] = 64,
    scale: Annotated[float, typer.Option("--scale", help="Scale of the logits; higher is more predictable.")] = 5.0,
    L: Annotated[int, typer.Option("--L", help="Length of a sequence.")] = 4096,
    language: Annotated[int, typer.Option("--language", help="Seed for the network.")] = 0,
    seed: Seed = 0,
    split: Split = "train",
    shard: Shard = "0/1",
    part_size: PartSize = None,
) -> None:
    """Pseudo-language: a random n-gram network. Columns: index, tokens, probabilities (the true one of each token).

    \b
    Example:
      metarlgym generate pseudo --sequences 1000 --shard 0/4 --out pseudo
    """
    settings = {
        "V": V,
        "n_gram": n_gram,
        "n_emb": n_emb,
        "n_hidden": n_hidden,
        "scale": scale,
        "L": L,
        "language": language,
    }
    _generate("pseudo", settings, out, sequences, seed, split, shard, part_size)


class _TokenSpeed(ProgressColumn):
    """Tokens per second, for sequences of `length` tokens."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed * self.length:,.0f} tokens/s")


def _generate(
    source: str,
    arguments: dict[str, Any],
    out: Path,
    sequences: int,
    seed: int,
    split: str,
    shard: str,
    part_size: int | None,
    probabilities: bool = False,
) -> None:
    share = _parse_shard(shard)
    console = output()
    with console.status("making the source"):
        from metarlgym.sequences.data.parquet import write
        from metarlgym.sequences.data.tables import Export

        export = Export(source, sequences, arguments, seed, split, share, probabilities, part_size)
    columns = (
        TextColumn(source),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("sequences"),
        _TokenSpeed(export.made.length),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(source, total=export.stop - export.first, start=False)
    done = 0

    def progress(so_far: int) -> None:
        nonlocal done
        done = so_far
        if bar.tasks[0].started:
            bar.update(task, completed=so_far)
        else:  # existing parts do not count towards the speed
            bar.reset(task, completed=so_far)

    try:
        with bar:
            written = write(export, out, progress, lambda text: console.print(text, style="yellow", soft_wrap=True))
    except KeyboardInterrupt as error:
        text = f"{out} is not complete: run the same command again to resume from the parts that are there."
        raise Interrupted(text, status_of(type(error))) from None
    state = "" if written.fresh else " (was complete already; nothing was done)"
    console.print(f"{out}: {written.rows:,} rows, {_readable(written.size)}{state}", soft_wrap=True)


def _readable(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def _parse_shard(text: str) -> tuple[int, int]:
    shard, slash, shards = text.partition("/")
    if not (slash and shard.isdecimal() and shards.isdecimal() and int(shard) < int(shards)):
        raise ConfigError(f"shard={text!r} must be K/N with K from 0 to N-1, such as 0/4.")
    return int(shard), int(shards)
