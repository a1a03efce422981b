"""`metarlgym list`: lists the registered environments."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from metarlgym import registry
from metarlgym.author_errors import error_line
from metarlgym.cli.common import output
from metarlgym.env import Env


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the registered environments; exit status 1 if one of them cannot be created."""
    problems = registry.load_plugins()
    rows = [describe(entry) for entry in registry.list_envs()]
    problems += [f"{row['env_id']}: {row['problem']}" for row in rows if row["problem"]]
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        table = Table("environment", "what it is", "split", "optimum", box=None, pad_edge=False)
        for row in rows:
            table.add_row(row["env_id"], row["summary"], row["split"] or "?", "known" if row["optimum"] else "-")
        output().print(table)
    for problem in problems:
        Console(stderr=True, markup=False, highlight=False).print(problem, style="yellow", soft_wrap=True)
    if problems:
        raise typer.Exit(1)


def describe(entry: registry.EnvSpec) -> dict[str, Any]:
    """The properties known without computation; `problem` if the environment cannot be created."""
    row: dict[str, Any] = {"env_id": entry.env_id, "summary": entry.summary, "split": None, "optimum": None}
    row["problem"] = None
    try:
        env = registry.make(entry.env_id)
    except Exception as error:  # environment code may raise anything, and must not hide the others
        return row | {"problem": error_line(error)}
    return row | {"split": env.split, "optimum": type(env).optimal_returns is not Env.optimal_returns}
