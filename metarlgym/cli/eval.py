"""`metarlgym eval`: evaluates a model or a baseline on held-out trials, with optimum, random play and controls."""

from __future__ import annotations

from collections.abc import Callable
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
    parse_json,
    print_own,
    used,
)
from metarlgym.cli.eval_model import action_tokens_of, find_temperature, is_tiny, load_for
from metarlgym.cli.run_settings import RunSettings
from metarlgym.datatypes import ConfigError, MetaRLGymError, MetaTrajectory
from metarlgym.env import Env
from metarlgym.files import expand, write_json
from metarlgym.rollout.play_settings import PlaySettings
from metarlgym.rollout.records import decode_with, record
from metarlgym.tasks import TaskGroup

if TYPE_CHECKING:
    from metarlgym.evaluation.report import EvalReport
    from metarlgym.evaluation.trials_file import TrialsFile

TRIALS = 2000
"""Number of trials where it costs little, and the most that are played without being asked for."""
SECONDS = 300.0
"""What an evaluation by a model that is not tiny takes, if the number of trials is not given."""


TEMPLATE_KWARGS_FIX = "write it like --chat-template-kwargs '{\"enable_thinking\": false}'"


class AfterSuccess(StrEnum):
    """Value assigned to the episodes skipped after a success stop."""

    repeat = "repeat"
    zero = "zero"


class KeepThoughts(StrEnum):
    """Which thoughts stay in the policy's context."""

    all = "all"
    episode = "episode"
    none = "none"


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
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials",
            "-n",
            help="Number of held-out trials.",
            show_default="2000; for larger models as many as end in about 5 minutes",
        ),
    ] = None,
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
    greedy: Annotated[
        bool,
        typer.Option(
            "--greedy",
            help="Take the most likely token instead of sampling; log-probabilities are at temperature 1.",
        ),
    ] = False,
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature; not with --greedy.", show_default="the run's, else 1")
    ] = None,
    max_action_tokens: Annotated[
        int | None,
        typer.Option(
            help="Maximum number of tokens per action.",
            show_default="the run's, else as for training: 64, or 4 times the longest of listed legal actions",
        ),
    ] = None,
    max_thought_tokens: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Maximum number of tokens per thought, which is then closed; 0 closes it at once.",
            show_default="the run's, else 512 if the tokenizer marks thoughts",
        ),
    ] = None,
    keep_thoughts: Annotated[
        KeepThoughts | None,
        typer.Option(help="Thoughts that the policy sees again.", show_default="the run's, else all"),
    ] = None,
    renderer: Annotated[
        RendererName | None,
        typer.Option(
            help="Text to tokens; auto means chat if the tokenizer has a template.", show_default="the run's, else auto"
        ),
    ] = None,
    chat_template: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|trl",
            help="Chat template used instead of the tokenizer's: a Jinja file, or trl for TRL's training template.",
            show_default="the run's, saved with its model",
        ),
    ] = None,
    chat_template_kwargs: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="Arguments of the chat template, such as '{\"enable_thinking\": false}'.",
            show_default="the run's",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Torch threads on a CPU.",
            show_default="the run's, else 1 for tiny models and all cores for others",
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
    write_contexts: Annotated[
        bool, typer.Option("--write-contexts", help="Add the texts and tokens that the model saw to the trials.")
    ] = False,
) -> None:
    """Evaluate a model, or a baseline, on held-out trials.

    For a model trained with metarlgym train, settings default to the run's
    config.yaml (beside the model's folder), unless --env names another
    environment; with the same number of trials, the result equals the run's
    eval.json. Options override them. A model that is not tiny plays as many
    trials as end in about five minutes, unless --trials says how many. Two kinds
    of settings are not taken from the run: trust_remote_code, and truncated
    sampling (top_p, top_k, min_p).

    \b
    Examples:
      metarlgym eval --model runs/quickstart/final --json eval.json --plot a.png
      metarlgym eval --model Qwen/Qwen3-0.6B --env Doors-v0 --episodes 6
      metarlgym eval --policy oracle --env Bandit-v0 --episodes 10 --trials 20000
    """
    from metarlgym.evaluation.evaluate import EvalSettings
    from metarlgym.evaluation.trials_file import TrialsFile, keeping, partial_of

    if (model is None) == (policy is None):
        given = "neither" if model is None else "both"
        raise ConfigError(f"eval needs either --model or --policy, and got {given}: --model runs/quickstart/final.")
    check_writable(json_file, "json")
    check_writable(trajectories, "trajectories")
    check_plot(plot)
    partial = None if trajectories is None else partial_of(trajectories)
    check_writable(partial, "trajectories")
    check_apart(json=json_file, trajectories=trajectories, plot=plot, partial_trajectories=partial)
    if write_contexts and trajectories is None:
        raise ConfigError("write_contexts has no effect without --trajectories FILE: name a file, or leave it out.")
    if model is not None and model.startswith("~"):
        model = expand(model)
    if policy is not None:
        model_only = used(
            temperature=temperature,
            max_action_tokens=max_action_tokens,
            max_thought_tokens=max_thought_tokens,
            keep_thoughts=keep_thoughts,
            renderer=renderer,
            chat_template=chat_template,
            chat_template_kwargs=chat_template_kwargs,
            threads=threads,
            greedy=greedy or None,
            trust_remote_code=trust_remote_code or None,
            write_contexts=write_contexts or None,
            device=None if device == "auto" else device,
        )
        for option, value in model_only.items():
            raise ConfigError(f"{option}={value} is for models, and has no effect with --policy: leave it out.")
    run = RunSettings(model, env)
    arguments = None if env_args is None else parse_env_args(env_args)
    template_kwargs = None
    if chat_template_kwargs is not None:
        template_kwargs = parse_json(chat_template_kwargs, "chat-template-kwargs", TEMPLATE_KWARGS_FIX)
    name = run.default("env_id", env, None)
    if name is None:
        raise ConfigError("env is missing: name a task group, such as --env Doors-v0 (see metarlgym list).")
    temperature = find_temperature(run, temperature, greedy)
    asked: dict[str, Any] = {
        "env_id": name,
        "env_args": arguments,
        "task_seed": seed,
        "episodes": episodes,
        "memory": memory,
        "stop_on_success": stop_on_success,
        "max_action_tokens": max_action_tokens,
        "max_thought_tokens": max_thought_tokens,
        "keep_thoughts": keep_thoughts and keep_thoughts.value,
        "renderer": renderer and renderer.value,
        "chat_template": chat_template,
        "chat_template_kwargs": template_kwargs,
    }
    merged = run.merged(asked)
    shots = run.free_shots(free_shots)
    play = PlaySettings.of(merged, shots)
    if run.from_scratch() and renderer is None:
        play = replace(play, renderer="plain")
    group = play.group()
    if policy is Baseline.oracle and type(group.env).oracle is Env.oracle:
        raise ConfigError(f"policy=oracle: {group.env_id} has no oracle (none is known); see its optimum instead.")
    settings = EvalSettings(
        play.trial,
        trials=_most_trials(group) if trials is None else trials,
        seed=run.trained_with("seed", seed, 0),
        after_success=after_success.value,
        controls=not no_controls,
        concurrency=concurrency,
        limits=play.limits,
    )
    threads = run.default("threads", threads, None)
    _check(group, settings)
    console = output()
    if run.taken:
        console.print(f"from {run.path}: {', '.join(run.taken)}", soft_wrap=True)
    if left_out := run.left_out():
        console.print(f"not taken from it: {', '.join(left_out)} (here all tokens may be sampled)", soft_wrap=True)
    print_own(console, group.env_id, {**merged, "free_shots": shots})
    played: list[MetaTrajectory] = []
    rules = group.make_trial(settings.trial).rules()

    def notify(text: str) -> None:
        console.print(f"warning: {text}", style="yellow", soft_wrap=True)

    file: TrialsFile | None = None
    if policy is not None:
        from metarlgym.evaluation.run import evaluate_policy
        from metarlgym.policies.scripted import OracleAndRandom

        if trajectories is not None:
            file = TrialsFile(trajectories, lambda trial: record(trial, rules), notify)
        baseline = OracleAndRandom.make(policy.value)
        with keeping(file, played):
            report = evaluate_policy(
                group,
                baseline,
                None,
                settings,
                console,
                policy.value,
                None,
                played,
                on_trial=file.add if file else None,
            )
    else:
        from metarlgym.evaluation.run import evaluate_model
        from metarlgym.models.loading import context_room
        from metarlgym.models.precision import upcast

        with console.status("loading the model"):
            loaded, shown = load_for(cast(str, model), group, play, device, threads, trust_remote_code)
            if line := upcast(loaded, loaded.device):
                console.print(line, highlight=False, soft_wrap=True)
        room = min((n for n in (play.limits.context_tokens, context_room(loaded.config)) if n), default=None)
        limits = replace(play.limits, context_tokens=room)
        if merged["max_action_tokens"] is None and not is_tiny(loaded):
            limits = replace(limits, action_tokens=action_tokens_of(group, play, shown, console))
        settings = replace(settings, limits=limits)
        if trials is None and not is_tiny(loaded):
            settings = replace(settings, seconds=SECONDS)
        if trajectories is not None:
            decode = decode_with(shown) if write_contexts else None
            file = TrialsFile(trajectories, lambda trial: record(trial, rules, decode), notify)
        with keeping(file, played):
            report = evaluate_model(
                group,
                loaded,
                shown,
                settings,
                console,
                cast(str, model),
                temperature,
                greedy,
                played,
                on_trial=file.add if file else None,
            )
    # Before anything is printed, which fails if nobody reads it. A file that cannot be written costs no other result.
    written, problems = _write(report, played, json_file, plot, file)
    _show(report, played, console)
    if written:
        console.print(f"written: {', '.join(written)}", soft_wrap=True)
    if problems:
        raise MetaRLGymError("; ".join(str(problem).rstrip(".") for problem in problems) + ".")
    if report.errors == report.trials:
        raise typer.Exit(1)


def _most_trials(group: TaskGroup) -> int:
    """The largest number of trials that is played without being asked for."""
    held_out = group.held_out
    return TRIALS if held_out is None else min(TRIALS, held_out)


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


def _show(report: EvalReport, played: list[MetaTrajectory], console: Console) -> None:
    console.print(report.table())
    if report.thought_warning:
        console.print(f"warning: {report.thought_warning}", style="yellow", highlight=False, soft_wrap=True)
    for line in report.shares:
        console.print(line)
    if report.errors:
        first = next(trajectory.error for trajectory in played if trajectory.error)
        console.print(f"{report.errors} of {report.trials} trials ended by an error; the first: {first}", style="red")


def _write(
    report: EvalReport,
    played: list[MetaTrajectory],
    json_file: Path | None,
    plot: Path | None,
    trials: TrialsFile | None,
) -> tuple[list[str], list[MetaRLGymError]]:
    """Write the requested files; returns the paths of those written, and what kept the others from it."""

    def draw(path: Path) -> None:
        from metarlgym.evaluation.plots import plot_adaptation

        plot_adaptation(report, path)

    asked: list[tuple[Path | None, Callable[[Path], None]]] = [
        (json_file, lambda path: write_json(report.to_dict(), path)),
        (plot, draw),
        (trials.path if trials else None, lambda path: trials.finish(played) if trials else None),
    ]
    written: list[str] = []
    problems: list[MetaRLGymError] = []
    for path, write in asked:
        if path is None:
            continue
        try:
            write(path)
        except MetaRLGymError as error:
            problems.append(error)
        else:
            written.append(str(path))
    return written, problems
