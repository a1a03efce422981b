"""`metarlgym train`: a training run in this process; all arguments are passed on to `metarlgym.train`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer
from rich.table import Table

from metarlgym.cli.common import output

PASS_THROUGH: dict[str, Any] = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": ["--help"],  # no short form, so that values such as -h remain values
}


def command(
    context: typer.Context,
    config: Annotated[
        str | None, typer.Option("--config", metavar="FILE", help="YAML file, or the name of a bundled config.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved settings, rows, tokens and memory, then exit.")
    ] = False,
    help_config: Annotated[bool, typer.Option("--help-config", help="Show every setting with its default.")] = False,
) -> None:
    """Train from a YAML file of settings, any of which can be overridden as --name value.

    Results go to output_dir (default runs/NAME): config.yaml, metrics.jsonl,
    trials.jsonl, checkpoints, final/, eval.json and adaptation.png.

    \b
    Examples:
      metarlgym train --config quickstart
      metarlgym train --config quickstart --dry-run
      metarlgym train --config my.yaml --max_steps 50 --output_dir runs/short
      metarlgym train --config quickstart --resume
      metarlgym train --help-config

    \b
    Several processes:
      accelerate launch -m metarlgym.train --config quickstart
    """
    if help_config:
        _print_train_settings()
        return
    from metarlgym.train import main

    arguments = [*(["--config", config] if config is not None else []), *context.args]
    raise typer.Exit(main([*arguments, *(["--dry-run"] if dry_run else [])]))


def _print_train_settings() -> None:
    console = output()
    with console.status("reading the settings"):
        from metarlgym.models.scratch import ScratchArguments
        from metarlgym.training.arguments import RunArguments
        from metarlgym.training.config import MetaGRPOConfig

    groups = {
        "The run": RunArguments,
        "Trials, credit and limits": MetaGRPOConfig,
        "Models from scratch (where no model_name_or_path is given)": ScratchArguments,
    }
    print_settings(groups)
    console.print(
        "Every field of TRL's GRPOConfig (learning_rate, max_steps, per_device_train_batch_size, ...) and ModelConfig "
        "(model_name_or_path, dtype, use_peft, ...) can be set too, in the file and as --name value."
    )


def print_settings(groups: dict[str, type]) -> None:
    """Print a table of each settings dataclass, by title, with the fields it declares itself."""
    console = output()
    for title, group in groups.items():
        table = Table("setting", "default", "meaning", title=title, title_justify="left", box=None, pad_edge=False)
        for item in dataclasses.fields(group):
            if item.name in group.__annotations__:  # skip fields inherited from TRL
                table.add_row(item.name, _default(item), item.metadata.get("help", ""))
        console.print(table)
        console.print()


def _default(item: Any) -> str:
    if item.default_factory is not dataclasses.MISSING:
        return str(item.default_factory())
    return "-" if item.default is None or item.default == "" else str(item.default)
