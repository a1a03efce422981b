"""`metarlgym read`: measures how well a causal language model learns a source in context, against exact predictors."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metarlgym.cli.common import check_apart, check_plot, check_writable, output, parse_json, used
from metarlgym.cli.model_options import find_device, model_errors
from metarlgym.datatypes import ConfigError
from metarlgym.files import expand, write_json

if TYPE_CHECKING:
    import numpy as np

    from metarlgym.sequences.scoring.log_loss import SymbolCodec


def command(
    source: Annotated[str, typer.Argument(help="Source of the sequences: metalm, rlm or piecewise.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Folder or hub id; with --server, only its tokenizer is used.")
    ] = None,
    server: Annotated[
        str | None, typer.Option("--server", metavar="URL", help="A vLLM server that serves the model.")
    ] = None,
    source_args: Annotated[
        str | None,
        typer.Option("--source-args", metavar="JSON", help='The source\'s settings, such as \'{"law": "lin"}\'.'),
    ] = None,
    sequences: Annotated[int, typer.Option("--sequences", "-n", min=1, help="Number of sequences to score.")] = 100,
    start: Annotated[int, typer.Option(min=0, help="Index of the first sequence, in the eval split.")] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed for the sequences.")] = 0,
    noisy: Annotated[
        bool, typer.Option("--noisy", help="MetaLM: score the noisy next token instead of the clean one.")
    ] = False,
    renormalise: Annotated[
        bool,
        typer.Option(
            "--renormalise", help="Renormalise the probabilities over the alphabet's tokens, ignoring all others."
        ),
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda, cuda:1 ...; not with --server.", show_default="auto")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Torch threads on a CPU; not with --server.", show_default="1")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the curves to this file.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the curves in this file.")] = None,
) -> None:
    """Feed sequences to a model as its prompt and report its loss by position.

    Symbols are written as words separated by spaces; a model without a
    tokenizer reads the symbols as token ids. MetaLM is scored on the clean next
    token, which requires a tokenizer with one token per symbol and a model in
    this process; otherwise use --noisy.

    \b
    Examples:
      metarlgym read piecewise --model runs/x --source-args '{"law": "lin"}' --plot read.png
      metarlgym read rlm --server http://127.0.0.1:8000 --source-args '{"v": 16, "L": 4}'
    """
    check_writable(json_file, "json")
    check_plot(plot)
    check_apart(json=json_file, plot=plot)
    if model is None and server is None:
        raise ConfigError("read needs a model: --model runs/quickstart/final, or --server http://127.0.0.1:8000.")
    if server is not None:
        for option in used(device=device, threads=threads):
            raise ConfigError(f"{option} has no effect with --server, which holds the model: leave it out.")
    console = output()
    with console.status("loading"):
        from metarlgym.sequences.scoring.report import plot_reading, report, yardstick_losses
        from metarlgym.sequences.sources import find_source
        from metarlgym.sequences.sources.settings import make_source

        arguments = parse_json(source_args, "source-args", "write it like --source-args '{\"L\": 4}'")
        made = make_source(find_source(source, exact=True), arguments, seed, "source-args", "seed", "eval")
    if noisy and not made.labelled:
        raise ConfigError("noisy goes with metalm, whose tokens have clean labels: leave it out.")
    if made.length < 2:
        raise ConfigError("source-args: sequences of 1 symbol leave nothing to predict: make them longer.")
    labelled = made.labelled and not noisy
    if labelled and server is not None:
        raise ConfigError(
            f"server={server!r} returns log-probabilities of its prompt, and clean labels are not in it: add --noisy."
        )
    columns = made.columns(start, sequences, "eval")
    tokens, labels = columns["tokens"], columns["labels"] if labelled else None
    with model_errors():
        name, losses = _read(
            model, server, made.vocab_size, made.words(), tokens, labels, renormalise, device or "auto", threads or 1
        )
    with console.status("running the exact predictors"):
        found = report(losses, yardstick_losses(made, start, sequences, labelled))
    settings = {"source": source, "source_args": source_args, "sequences": sequences, "start": start}
    settings |= {"seed": seed, "model": name, "noisy": noisy, "renormalise": renormalise}
    if json_file is not None:  # before printing, because it may fail
        write_json(settings | {"curves": found}, json_file)
    if plot is not None:
        plot_reading(found, f"{name} reads {source}, {sequences} sequences", plot)
    _show(found)
    for path in (json_file, plot):
        if path is not None:
            console.print(f"written: {path}", soft_wrap=True)


def _read(
    model: str | None,
    server: str | None,
    alphabet: int,
    words: list[str] | None,
    tokens: np.ndarray,
    labels: np.ndarray | None,
    renormalise: bool,
    device: str,
    threads: int,
) -> tuple[str, np.ndarray]:
    """The model's name and its losses."""
    from rich.progress import Progress

    from metarlgym.sequences.scoring.log_loss import describe_server, read_from_server, read_in_process

    console = output()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=len(tokens))

        def progress(count: int) -> None:
            bar.advance(task, count)

        if server is not None:
            if renormalise:
                raise ConfigError(
                    "renormalise: a server returns log-probabilities of the prompt's tokens only; leave it out."
                )
            served = describe_server(server)
            codec = _codec(model or served.root, alphabet, words)
            return served.name, read_from_server(server, served, codec, tokens, progress=progress)
        assert model is not None
        import torch

        from metarlgym.models.loading import load_model
        from metarlgym.runtime.launch import quiet

        quiet()
        torch.set_num_threads(threads)
        place = find_device(device)
        loaded = load_model(model).to(place)
        codec = _codec(model, alphabet, words, loaded.config)
        return model, read_in_process(loaded, codec, tokens, labels, renormalise, progress)


def _codec(model: str, alphabet: int, words: list[str] | None, config: Any = None) -> SymbolCodec:
    """Mapping from symbols to tokens; rejects a tokenizer that does not match the model's configuration."""
    from metarlgym.models.loading import check_vocabulary, load_tokenizer
    from metarlgym.sequences.scoring.log_loss import SymbolCodec

    files = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model")
    folder = Path(expand(model))
    bare = folder.is_dir() and not any((folder / file).exists() for file in files)
    tokenizer = None if bare else load_tokenizer(model)
    if tokenizer is not None and config is not None:
        check_vocabulary(model, tokenizer, config)
    return SymbolCodec(tokenizer, alphabet, words)


def _show(found: dict[str, Any]) -> None:
    from rich.table import Table

    parts = 4
    length = len(found["model"]["by_position"])
    edges = [round(k * length / parts) for k in range(parts + 1)]
    table = Table(title="loss in nats a symbol", box=None, pad_edge=False)
    table.add_column("")
    table.add_column("mean", justify="right")
    for low, high in itertools.pairwise(edges):
        table.add_column(f"{low + 1} to {high}", justify="right")
    for line in found.values():
        if "by_position" not in line:
            continue
        values = line["by_position"]
        means = []
        for low, high in itertools.pairwise(edges):
            kept = [v for v in values[low:high] if v is not None]
            means.append(f"{sum(kept) / len(kept):.3f}" if kept else "-")
        error = "" if line["mean_se"] is None else f" ± {line['mean_se']:.3f}"
        table.add_row(line["what"], f"{line['mean']:.3f}{error}", *means)
    above = found["above_floor"]
    console = output()
    console.print(table)
    error = "" if above["mean_se"] is None else f" ± {above['mean_se']:.4f}"
    console.print(f"the model is {above['mean']:.4f}{error} nats a symbol above the floor")
