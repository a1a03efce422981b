"""`metarlgym eval`: evaluates a model or a baseline on held-out trials, with optimum, random play and controls."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console

from metarlgym.cli.common import (
    Baseline,
    EnvArgs,
    check_apart,
    check_plot,
    check_writable,
    output,
    parse_env_args,
    used,
)
from metarlgym.cli.model_options import find_device, model_errors
from metarlgym.cli.run_settings import RunSettings
from metarlgym.datatypes import ConfigError, MetaTrajectory
from metarlgym.env import Env
from metarlgym.files import expand, write_json, write_whole
from metarlgym.rollout.play_settings import PlaySettings
from metarlgym.tasks import TaskGroup

if TYPE_CHECKING:
    from metarlgym.evaluation.report import EvalReport


class AfterSuccess(StrEnum):
    """Value assigned to the episodes skipped after a success stop."""

    repeat = "repeat"
    zero = "zero"


class RendererName(StrEnum):
    """How texts are converted to tokens."""

    auto = "auto"
    chat = "chat"
    plain = "plain"


def command(
    model: Annotated[str | None, typer.Option("--model", "-m", help="Folder or hub id of a model.")] = None,
    policy: Annotated[Baseline | None, typer.Option(help="Evaluate a baseline instead of a model.")] = None,
    env: Annotated[str | None, typer.Option("--env", "-e", help="Environment.", show_default="the run's")] = None,
    env_args: EnvArgs = None,
    episodes: Annotated[
        int | None, typer.Option("--episodes", "-H", help="Episodes per trial.", show_default="the run's, else 3")
    ] = None,
    trials: Annotated[int, typer.Option("--trials", "-n", help="Number of held-out trials.")] = 2000,
    memory: Annotated[
        str | None,
        typer.Option(
            help="Earlier episodes that the policy sees: full, none, last_K.", show_default="the run's, else full"
        ),
    ] = None,
    free_shots: Annotated[
        int | None, typer.Option(help="The first F episodes do not count.", show_default="the run's at its end, else 0")
    ] = None,
    stop_on_success: Annotated[
        bool | None,
        typer.Option(
            "--stop-on-success/--play-on",
            help="End each trial at its first success.",
            show_default="the run's, else off",
        ),
    ] = None,
    after_success: Annotated[
        AfterSuccess, typer.Option(help="Value assigned to the episodes skipped after a success stop.")
    ] = AfterSuccess.repeat,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Seed for tasks, environment noise and sampling.", show_default="the run's task_seed and seed, else 0"
        ),
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Take the most likely token instead of sampling.")] = False,
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature.", show_default="the run's, else 1")
    ] = None,
    max_action_tokens: Annotated[
        int | None, typer.Option(help="Maximum number of tokens per action.", show_default="the run's, else 64")
    ] = None,
    renderer: Annotated[
        RendererName | None,
        typer.Option(
            help="Text to tokens; auto means chat if the tokenizer has a template.", show_default="the run's, else auto"
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="Torch threads on a CPU; 1 is best for tiny models.", show_default="the run's, else 1"
        ),
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
    ] = False,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Maximum number of concurrent trials; fewer if memory is short.")
    ] = 1024,
    no_controls: Annotated[bool, typer.Option("--no-controls", help="Skip the two controls.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the report to this file.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the adaptation curve in this file.")] = None,
    trajectories: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the trials to this file, one JSON object per line.")
    ] = None,
) -> None:
    """Evaluate a model, or a baseline, on held-out trials.

    For a model trained with metarlgym train, settings default to the run's
    config.yaml (beside the model's folder), unless --env names another
    environment; with the same number of trials, the result equals the run's
    eval.json. Options override them. Two kinds of settings are not taken from
    the run: trust_remote_code, and truncated sampling (top_p, top_k, min_p).

    \b
    Examples:
      metarlgym eval --model runs/quickstart/final --json eval.json --plot a.png
      metarlgym eval --model Qwen/Qwen3-0.6B --env Doors-v0 --episodes 6
      metarlgym eval --policy oracle --env Bandit-v0 --episodes 10 --trials 20000
    """
    from metarlgym.evaluation.evaluate import EvalSettings

    if (model is None) == (policy is None):
        given = "neither" if model is None else "both"
        raise ConfigError(f"eval needs either --model or --policy, and got {given}: --model runs/quickstart/final.")
    check_writable(json_file, "json")
    check_writable(trajectories, "trajectories")
    check_plot(plot)
    check_apart(json=json_file, trajectories=trajectories, plot=plot)
    if model is not None and model.startswith("~"):
        model = expand(model)
    if policy is not None:
        model_only = used(
            temperature=temperature,
            max_action_tokens=max_action_tokens,
            renderer=renderer,
            threads=threads,
            greedy=greedy or None,
            trust_remote_code=trust_remote_code or None,
            device=None if device == "auto" else device,
        )
        for option, value in model_only.items():
            raise ConfigError(f"{option}={value} is for models, and has no effect with --policy: leave it out.")
    run = RunSettings(model, env)
    arguments = None if env_args is None else parse_env_args(env_args)
    name = run.default("env_id", env, None)
    if name is None:
        raise ConfigError("env is missing: name a task group, such as --env Doors-v0 (see metarlgym list).")
    temperature = 1.0 if greedy and temperature is None else float(run.trained_with("temperature", temperature, 1.0))
    if temperature <= 0:
        raise ConfigError(f"temperature={temperature:g} must be above 0; for the most likely token use --greedy.")
    asked: dict[str, Any] = {
        "env_id": name,
        "env_args": arguments,
        "task_seed": seed,
        "episodes": episodes,
        "memory": memory,
        "stop_on_success": stop_on_success,
        "max_action_tokens": max_action_tokens,
        "renderer": renderer and renderer.value,
    }
    play = PlaySettings.of(run.merged(asked), run.free_shots(free_shots))
    if run.from_scratch() and renderer is None:
        play = replace(play, renderer="plain")
    group = play.group()
    if policy is Baseline.oracle and type(group.env).oracle is Env.oracle:
        raise ConfigError(f"policy=oracle: {group.env_id} has no oracle (none is known); see its optimum instead.")
    settings = EvalSettings(
        play.trial,
        trials=trials,
        seed=run.trained_with("seed", seed, 0),
        after_success=after_success.value,
        controls=not no_controls,
        concurrency=concurrency,
        limits=play.limits,
    )
    threads = run.default("threads", threads, 1)
    _check(group, settings)
    console = output()
    if run.taken:
        console.print(f"from {run.path}: {', '.join(run.taken)}", soft_wrap=True)
    if left_out := run.left_out():
        console.print(f"not taken from it: {', '.join(left_out)} (here all tokens may be sampled)", soft_wrap=True)
    played: list[MetaTrajectory] = []
    if policy is not None:
        from metarlgym.evaluation.run import evaluate_policy
        from metarlgym.policies.scripted import OracleAndRandom

        baseline = OracleAndRandom.make(policy.value)
        report = evaluate_policy(group, baseline, None, settings, console, policy.value, None, played)
    else:
        from metarlgym.evaluation.run import evaluate_model
        from metarlgym.models.precision import upcast

        with console.status("loading the model"):
            loaded, shown = _load(cast(str, model), group, play, device, cast(int, threads), trust_remote_code)
            if line := upcast(loaded, loaded.device):
                console.print(line, highlight=False, soft_wrap=True)
        room = min((n for n in (play.limits.context_tokens, _context_room(loaded)) if n), default=None)
        settings = replace(settings, limits=replace(play.limits, context_tokens=room))
        report = evaluate_model(group, loaded, shown, settings, console, cast(str, model), temperature, greedy, played)
    written = _write(report, played, json_file, plot, trajectories)
    _show(report, played, console)
    if written:
        console.print(f"written: {', '.join(written)}", soft_wrap=True)
    if report.errors == report.trials:
        raise typer.Exit(1)


def _check(group: TaskGroup, settings: Any) -> None:
    """Reject impossible settings before a model is loaded."""
    if settings.trials < 1:
        raise ConfigError(f"trials={settings.trials} must be at least 1.")
    group.make_trial(settings.trial)
    if group.content_split:
        try:
            group.tasks(settings.trials, "eval")
        except ConfigError as error:
            raise ConfigError(str(error).replace("eval_trials=", "trials=")) from None


def _load(
    name: str,
    group: TaskGroup,
    play: PlaySettings,
    device: str,
    threads: int,
    trust_remote_code: bool,
) -> tuple[Any, Any]:
    """The model on its device, and the renderer."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    from transformers.utils import logging

    from metarlgym.models.loading import check_model_path, check_vocabulary, load_model, load_tokenizer

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    with model_errors():
        check_model_path(name)
        place = find_device(device)
        tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
        renderer = play.make_renderer(name, tokenizer, group)
        loaded = load_model(name, dtype="auto", trust_remote_code=trust_remote_code)
        check_vocabulary(name, tokenizer, loaded.config)
        return loaded.to(place).eval(), renderer


def _context_room(model: Any) -> int | None:
    from metarlgym.models.loading import context_room

    return context_room(model)


def _show(report: EvalReport, played: list[MetaTrajectory], console: Console) -> None:
    console.print(report.table())
    for label, value in (
        ("invalid actions", report.invalid_rate),
        ("trials cut by a limit", report.truncation_rate),
    ):
        if value:
            console.print(f"{label}: {value:.1%}")
    if report.errors:
        first = next(trajectory.error for trajectory in played if trajectory.error)
        console.print(f"{report.errors} of {report.trials} trials ended by an error; the first: {first}", style="red")


def _write(
    report: EvalReport,
    played: list[MetaTrajectory],
    json_file: Path | None,
    plot: Path | None,
    trajectories: Path | None,
) -> list[str]:
    """Write the requested files before anything is printed; returns their paths."""
    if json_file is not None:
        write_json(report.to_dict(), json_file)
    if trajectories is not None:
        with write_whole(trajectories) as file:
            file.writelines((json.dumps(trajectory.to_dict()) + "\n").encode() for trajectory in played)
    if plot is not None:
        from metarlgym.evaluation.plots import plot_adaptation

        plot_adaptation(report, plot)
    return [str(path) for path in (json_file, plot, trajectories) if path is not None]
