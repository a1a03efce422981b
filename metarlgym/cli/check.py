"""`metarlgym check`: checks an environment's contracts, one line each."""

from __future__ import annotations

import warnings
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from metarlgym import registry
from metarlgym.cli.common import output
from metarlgym.contracts.check_env import run_checks
from metarlgym.datatypes import ConfigError


def command(
    env_id: Annotated[str | None, typer.Argument(help="Environment to check.", show_default=False)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Check every registered environment.")] = False,
) -> None:
    """Check an environment against its contracts; exit status 1 if one is broken."""
    if everything == (env_id is not None):
        raise ConfigError("check needs either an environment or --all: metarlgym check Doors-v0.")
    problems = registry.load_plugins()
    names = [entry.env_id for entry in registry.list_envs()] if env_id is None else [registry.spec(env_id).env_id]
    console = output()
    broken = sum(_check(name, console) for name in names)
    for problem in problems if everything else ():
        console.print(problem, style="red")
    if broken or (everything and problems):
        raise typer.Exit(1)


def _check(name: str, console: Console) -> int:
    """Print a line per contract; returns the number of broken ones."""
    console.print(name, style="bold")
    passed = failed = 0
    checks = run_checks(name)
    while True:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = next(checks, None)
        if result is None:
            break
        contract, problem = result
        if problem:
            failed += 1
            console.print(Text.assemble(("  FAIL  ", "bold red"), contract, ": ", problem), soft_wrap=True)
        else:
            passed += 1
            console.print(Text.assemble(("  pass  ", "green"), contract))
        for warning in caught:
            console.print(Text.assemble(("  warn  ", "yellow"), contract, ": ", str(warning.message)), soft_wrap=True)
    verdict = f"{failed} of {passed + failed} contracts broken" if failed else f"all {passed} contracts kept"
    console.print(f"{name}: {verdict}", style="red" if failed else "green")
    return failed
