"""`metarlgym bench`: measures environment stepping speed, and runs the scripts of benchmarks/ if available."""

from __future__ import annotations

import ast
import gc
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import metarlgym
from metarlgym.cli.common import Baseline, EnvArgs, output, parse_env_args
from metarlgym.datatypes import MetaRLGymError
from metarlgym.seeding import derive
from metarlgym.tasks import TaskGroup
from metarlgym.trial import Trial, TrialSettings


def find_scripts() -> dict[str, Path]:
    """Benchmark scripts by name; they exist only in a checkout, not in an installed package."""
    folder = Path(metarlgym.__file__).parents[1] / "benchmarks"
    return {path.stem: path for path in sorted(folder.glob("*.py")) if "__main__" in path.read_text("utf-8")}


class ScriptGroup(TyperGroup):
    """The commands of this module, plus one per script."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *(name for name in find_scripts() if name not in self.commands)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        script = find_scripts().get(cmd_name)
        known = super().get_command(ctx, cmd_name)
        return _script_command(cmd_name, script) if known is None and script is not None else known


def _script_command(name: str, script: Path) -> Any:
    app = typer.Typer(add_completion=False)
    claim = (ast.get_docstring(ast.parse(script.read_text("utf-8"))) or "").split("\n\n", 1)[0]
    summary = textwrap.shorten(claim, 150, placeholder=" ...")
    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

    @app.command(name, help=summary, context_settings=settings)
    def run(context: typer.Context) -> None:
        raise typer.Exit(subprocess.run([sys.executable, str(script), *context.args], check=False).returncode)

    return typer.main.get_command(app)


app = typer.Typer(
    cls=ScriptGroup, no_args_is_help=True, help="Measure the speed of an environment, or run a script of benchmarks/."
)


@app.callback()
def _group() -> None:
    pass


@app.command("env")
def bench_env(
    env_id: Annotated[str, typer.Argument(help="Environment.")],
    trials: Annotated[int, typer.Option("--trials", "-n", min=1, help="Number of concurrent trials.")] = 8192,
    episodes: Annotated[int, typer.Option("--episodes", "-H", help="Episodes per trial.")] = 3,
    env_args: EnvArgs = None,
    policy: Annotated[
        Baseline, typer.Option(help="Policy that chooses the actions, before the measurement.")
    ] = Baseline.random,
    repeats: Annotated[int, typer.Option(min=1, help="Number of measurements; the median is reported.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed for tasks, environment noise and actions.")] = 0,
) -> None:
    """Steps per second of many interleaved trials, on one core, without a policy or tokens."""
    group = TaskGroup(env_id, parse_env_args(env_args), seed)
    make_trial = partial(group.make_trial, TrialSettings(episodes))
    make_trial()
    console = output()
    with console.status("choosing the actions"):
        plays = _record(group, make_trial, trials, policy, seed)
    steps = sum(len(actions) for _, actions in plays)
    makes, resets, walks = zip(*(_measure(make_trial, plays) for _ in range(repeats)), strict=True)
    make, reset, walk = (statistics.median(times) for times in (makes, resets, walks))
    spread = f"{steps / max(walks):,.0f} to {steps / min(walks):,.0f} in {repeats} measurements"
    console.print(f"{group.env_id}: {trials:,} trials of {episodes} episodes, {steps:,} steps")
    console.print(f"  {steps / walk:>12,.0f} steps/s    {1e6 * walk / steps:.2f} us a step ({spread})")
    console.print(f"  {trials / make:>12,.0f} trials made/s    {1e6 * make / trials:.1f} us a trial")
    console.print(f"  {trials / reset:>12,.0f} trials reset/s    {1e6 * reset / trials:.1f} us a trial")


Play = tuple[dict[str, Any], list[str]]
"""Reset options of a trial, and its actions."""


def _record(group: TaskGroup, make_trial: Callable[[], Trial], trials: int, policy: Baseline, seed: int) -> list[Play]:
    """Play each trial once with the baseline and record it."""
    from metarlgym.policies.scripted import OracleAndRandom
    from metarlgym.rollout.manager import RolloutManager, TrialSpec

    specs = [TrialSpec(make_trial, group.task(i), derive(seed, "bench", i), (seed, "bench", i)) for i in range(trials)]
    plays: list[Play] = []
    for played in RolloutManager(OracleAndRandom.make(policy.value)).run(specs):
        if played.error:
            raise MetaRLGymError(f"{group.env_id} fails under {policy.value} play: {played.error}")
        actions = [turn.action for episode in played.episodes for turn in episode.turns]
        plays.append(({"task": played.task, "episode_seed": played.seed}, actions))
    return plays


def _measure(make_trial: Callable[[], Trial], plays: list[Play]) -> tuple[float, float, float]:
    """Seconds for creating all trials, resetting all, and stepping all in turn."""
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        trials = [make_trial() for _ in plays]
        made = time.perf_counter() - start
        start = time.perf_counter()
        for trial, (options, _) in zip(trials, plays, strict=True):
            trial.reset(options=options)
        reset = time.perf_counter() - start
        longest = max(len(actions) for _, actions in plays)
        rounds = [
            [(trial.step, actions[k]) for trial, (_, actions) in zip(trials, plays, strict=True) if k < len(actions)]
            for k in range(longest)
        ]
        start = time.perf_counter()
        for moves in rounds:
            for step, action in moves:
                step(action)
        return made, reset, time.perf_counter() - start
    finally:
        gc.enable()
