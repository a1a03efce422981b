"""`metarlgym new-model`: creates a small untrained chat model, for tests on machines without a downloaded model."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from metarlgym.cli.common import output
from metarlgym.datatypes import ConfigError, MetaRLGymError
from metarlgym.files import expand
from metarlgym.runtime.layout import MODEL, entries
from metarlgym.runtime.run_folder import check_place


def command(
    out: Annotated[Path, typer.Option("--out", help="Folder for model and tokenizer.")],
    hidden_size: Annotated[int, typer.Option(min=8, help="Hidden size.")] = 64,
    layers: Annotated[int, typer.Option(min=1, help="Number of transformer layers.")] = 2,
    heads: Annotated[int, typer.Option(min=1, help="Number of attention heads.")] = 2,
    context: Annotated[int, typer.Option(min=64, help="Maximum context length in tokens.")] = 4096,
    tied: Annotated[bool, typer.Option("--tied/--untied", help="Tie the input embedding to the output head.")] = True,
    seed: Annotated[int, typer.Option(help="Seed for the weights.")] = 0,
) -> None:
    """Create an untrained Qwen3-type chat model with a byte-level tokenizer.

    It knows no language: use it to test servers, launchers and whole pipelines
    on any machine.

    \b
    Example:
      metarlgym new-model --out runs/tiny
    """
    out = Path(expand(out))
    try:
        check_place(out)
    except ConfigError as error:
        raise ConfigError(str(error).replace("output_dir", "out")) from None
    if (out / "config.json").exists():
        raise ConfigError(f"out={str(out)!r} holds a model already: name another folder.")
    there = next(entries(out, MODEL), None) if out.exists() else None
    if there is not None:
        raise ConfigError(f"out={str(out)!r} holds {there.name}, which would be replaced: name another folder.")
    with output().status("making the model"):
        from safetensors import SafetensorError

        from metarlgym.models.scratch import ScratchArguments, chat_tokenizer, scratch_model
        from metarlgym.runtime.launch import quiet

        quiet()
        try:
            sizes = ScratchArguments(scratch_hidden_size=hidden_size, scratch_layers=layers, scratch_heads=heads)
        except ConfigError as error:  # which uses train's setting names
            text = str(error).replace("scratch_hidden_size", "hidden-size").replace("scratch_", "")
            raise ConfigError(text) from None
        tokenizer = chat_tokenizer()
        model = scratch_model(sizes, tokenizer, context, seed, tied)
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
    output().print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens, context {context}: {out}")
