"""`metarlgym play`: play a trial in the terminal, or watch the oracle or random play."""

from __future__ import annotations

import contextlib
import json
import random
import sys
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metarlgym.cli.common import EnvArgs, FreeShots, Memory, check_writable, output, parse_env_args, print_own
from metarlgym.datatypes import MetaTrajectory, Optimum
from metarlgym.files import write_json
from metarlgym.rollout.play_settings import PlaySettings
from metarlgym.seeding import derive
from metarlgym.tasks import TaskGroup
from metarlgym.trial import Trial

FIRST_FREE = "a free shot: episode 1 does not count"
RANDOM_TRIALS = 200
ROWS = 20
"""Maximum number of episodes shown in the final table."""


class Player(StrEnum):
    """Who plays."""

    human = "human"
    oracle = "oracle"
    random = "random"


def command(
    env_id: Annotated[str, typer.Argument(help="Environment, such as Doors-v0; see metarlgym list.")],
    episodes: Annotated[
        int | None,
        typer.Option("--episodes", "-H", help="Episodes per trial.", show_default="the environment's, else 3"),
    ] = None,
    free_shots: FreeShots = None,
    memory: Memory = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed for task and environment noise.", show_default="random")
    ] = None,
    env_args: EnvArgs = None,
    show_task: Annotated[bool, typer.Option("--show-task", help="Show the hidden task.")] = False,
    save: Annotated[Path | None, typer.Option(help="Write the trial to this JSON file.")] = None,
    policy: Annotated[Player, typer.Option(help="Who plays; oracle and random can be watched.")] = Player.human,
) -> None:
    """Play a trial yourself: several episodes of one hidden task.

    Type an action at each "> ", as the rules say; "quit" or Ctrl-D ends the trial.
    """
    from metarlgym.policies.human import HumanPolicy, PlayerQuit, WatchedPolicy
    from metarlgym.policies.scripted import OracleAndRandom
    from metarlgym.rollout.manager import RolloutManager, TrialSpec

    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    asked = {"env_id": env_id, "env_args": parse_env_args(env_args), "task_seed": seed}
    play = PlaySettings.of(asked | {"episodes": episodes, "memory": memory}, free_shots)
    group = play.group()
    make_trial = partial(group.make_trial, play.trial)

    make_trial()  # rejects contradictory arguments early
    check_writable(save, "save")
    console = output()
    print_own(console, group.env_id, {"episodes": episodes, "memory": memory, "free_shots": free_shots})
    task = group.task(0)
    if show_task:
        console.print(f"hidden task: {json.dumps(task.params)}", style="yellow")
    show = _shower(console)
    shots = play.trial.free_shots
    if shots:
        show("note", f"free shots: episodes 1 to {shots} do not count" if shots > 1 else FIRST_FREE)
    player = (
        HumanPolicy(_reader(console), show)
        if policy is Player.human
        else WatchedPolicy(OracleAndRandom.make(policy), show)
    )
    spec = TrialSpec(make_trial, task, derive(seed, "play"), (seed, "play"))
    (trajectory,) = RolloutManager(player).run([spec])
    if save is not None:
        write_json(trajectory.to_dict(), save)
    if trajectory.error and not trajectory.error.startswith(PlayerQuit.__name__):
        console.print(f"the trial ended by an error: {trajectory.error}", style="red")
    console.print()
    random_curve = _random_curve(group, make_trial)
    optimum = group.optimum(play.trial)
    who = "you" if policy is Player.human else policy.value
    console.print(_table(trajectory, shots, who, optimum, random_curve))
    most = play.trial.most_episodes
    bound = group.env.no_memory_bound(most)
    if bound is not None:
        console.print(f"best possible without memory: {bound:.2f} over all {most} episodes")
    console.print(f"seed {seed}: --seed {seed} plays the same trial again")
    if save is not None:
        console.print(f"written: {save}", soft_wrap=True)
    if trajectory.error and not trajectory.error.startswith(PlayerQuit.__name__):
        raise typer.Exit(1)


def _shower(console: Console) -> Callable[[str, str], None]:
    styles = {"rules": "cyan", "note": "dim", "action": "bold"}
    marks = {"action": "> ", "note": "  -- "}

    def show(kind: str, text: str) -> None:
        console.print(Text(marks.get(kind, "") + text), style=styles.get(kind))

    return show


def _reader(console: Console) -> Callable[[], str]:
    """A prompt that reads a line; lines from a pipe are echoed, so that the output reads like a session."""
    interactive = sys.stdin.isatty()
    if interactive:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (line editing and history in input())

    def read() -> str:
        try:
            line = input("> ")
        except EOFError:
            console.print()
            raise
        if not interactive:
            console.print(line)
        return line

    return read


def _random_curve(group: TaskGroup, make_trial: Callable[[], Trial]) -> list[float] | None:
    """Mean return of random play by episode; None if the environment does not support random play."""
    from metarlgym.evaluation.metrics import return_matrix
    from metarlgym.policies.scripted import RandomPolicy
    from metarlgym.rollout.manager import RolloutManager, TrialSpec

    specs = [
        TrialSpec(make_trial, group.task(i), derive("random", i), ("random", i)) for i in range(1, RANDOM_TRIALS + 1)
    ]
    played = RolloutManager(RandomPolicy()).run(specs)
    if any(trajectory.error for trajectory in played):
        return None
    return return_matrix(played).mean(0).tolist()


def _table(
    trajectory: MetaTrajectory, free_shots: int, who: str, optimum: Optimum | None, random_curve: list[float] | None
) -> Table:
    """Returns by episode, next to the optimum and random play where known."""
    H = trajectory.max_episodes
    played = [episode.ret for episode in trajectory.episodes]
    columns: list[tuple[str, list[str], str]] = [
        (who, [f"{value:.2f}" for value in played] + ["-"] * (H - len(played)), f"{sum(played[free_shots:]):.2f}")
    ]
    if optimum is not None and optimum.total is not None:
        curve = [f"{value:.2f}" for value in optimum.curve] if optimum.curve else [""] * H
        columns.append((f"optimum ({optimum.kind})", curve, f"{optimum.total:.2f}"))
    if random_curve is not None:
        total = f"{sum(random_curve[free_shots:]):.2f}"
        columns.append(("random play", [f"{value:.2f}" for value in random_curve], total))
    table = Table(title=f"{trajectory.task.env_id}: returns", title_justify="left")
    table.add_column("episode")
    for name, _, _ in columns:
        table.add_column(name, justify="right")
    for n in range(H):
        if ROWS <= n < H - 3:
            if n == ROWS:
                table.add_row("...")
            continue
        label = f"{n + 1} (free)" if n < free_shots else str(n + 1)
        table.add_row(label, *(values[n] for _, values, _ in columns), end_section=n == H - 1)
    table.add_row("sum of those that count" if free_shots else "sum", *(total for _, _, total in columns))
    return table
