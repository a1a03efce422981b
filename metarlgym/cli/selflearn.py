"""`metarlgym selflearn`: experiments in which models learn from their own signal."""

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
    """Let models learn from their own signal, and measure the result against the truth.

    self_critic: a model learns from the scores or targets of its own critic, and
    hacks them. gist_tokens: gist tokens, and a reward in their space.
    learned_loss: a loss tuned by second-order gradients.

    Results go to output_dir (default runs/NAME): config.yaml, a file for each
    variant under variants/, summary.json, report.html and its plots.

    \b
    Examples:
      metarlgym selflearn --config self_critic
      metarlgym selflearn --config configs/selflearning/*.yaml
      metarlgym selflearn --config self_critic --resume
      metarlgym selflearn --config learned_loss --seeds 0 --output_dir runs/one_seed
    """
    if help_config:
        from metarlgym.cli.train import print_settings
        from metarlgym.selflearning.run import EXPERIMENTS, SelfLearnRun, find_experiment

        configs_of = {
            f"{name} (configs/selflearning/{name}.yaml)": find_experiment(name).Config for name in EXPERIMENTS
        }
        print_settings({"The run": SelfLearnRun, **configs_of})
        return
    from metarlgym.datatypes import ConfigError
    from metarlgym.runtime.interrupt import stoppable
    from metarlgym.selflearning.run import parse, run_selflearning

    rest = list(context.args)
    configs = [] if config is None else [config]
    while configs and rest and not rest[0].startswith("-"):
        configs.append(rest.pop(0))
    if len(configs) < 2:
        with stoppable():
            run_selflearning(parse([*(["--config", *configs] if configs else []), *rest]))
        return
    for name in ("output_dir", "only"):
        if any(part.split("=")[0] == f"--{name}" for part in rest):
            raise ConfigError(f"--{name} is for one experiment, and {len(configs)} configs are given: run them singly.")
    # Parse all configs before the first run, so that a mistake in the last one does not show up only after an hour.
    for settings in [parse(["--config", each, *rest]) for each in configs]:
        with stoppable():
            run_selflearning(settings)
