"""`metarlgym pretrain`: log-loss training; all arguments are passed on to `metarlgym.pretrain`."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    context: typer.Context,
    config: Annotated[
        str | None, typer.Option("--config", metavar="FILE", help="YAML file, or the name of a bundled config.")
    ] = None,
    help_config: Annotated[bool, typer.Option("--help-config", help="Show every setting with its default.")] = False,
) -> None:
    """Train a network by log-loss on fresh sequences and compare it with the exact predictors.

    Results go to output_dir (default runs/NAME): config.yaml, metrics.jsonl,
    checkpoints at logarithmically spaced steps, best/, final/, summary.json,
    curves.json, curves.png and dynamics.png.

    \b
    Examples:
      metarlgym pretrain --config rlm_adamw
      metarlgym pretrain --config mbml_lstm --source_args '{"law": "lin"}'
      metarlgym pretrain --config rlm_adamw --resume
    """
    if help_config:
        from metarlgym.cli.train import print_settings
        from metarlgym.pretraining.run import GROUPS

        titles = ("The run", "Data, loss and evaluation", "Networks from scratch")
        print_settings(dict(zip(titles, GROUPS, strict=True)))
        return
    from metarlgym.pretrain import main

    raise typer.Exit(main([*(["--config", config] if config is not None else []), *context.args]))
