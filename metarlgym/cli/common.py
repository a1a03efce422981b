"""Options and checks shared by several subcommands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from metarlgym.datatypes import ConfigError
from metarlgym.files import place_problem
from metarlgym.registry import spec
from metarlgym.runtime.faults import describe_fault
from metarlgym.runtime.guard import owner

ENV_ARGS_HELP = "Arguments of the environment as JSON, such as '{\"doors\": 6}'."
ENV_ARGS_FIX = "write it like --env-args '{\"doors\": 6}'"

PICTURES = (".png", ".pdf", ".svg")

EnvArgs = Annotated[str | None, typer.Option("--env-args", metavar="JSON", help=ENV_ARGS_HELP)]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        help="Earlier episodes that the policy sees: full, none, or last_K such as last_2.",
        show_default="the environment's, else full",
    ),
]
FreeShots = Annotated[
    int | None,
    typer.Option("--free-shots", help="The first F episodes do not count.", show_default="the environment's, else 0"),
]


def print_own(console: Console, env_id: str, given: Mapping[str, Any]) -> None:
    """Say which settings of trials come from the environment's registration.

    Args:
        console: where.
        env_id: the environment.
        given: settings by name; None where nothing was given.
    """
    taken = spec(env_id).trial_defaults([name for name, value in given.items() if value is not None])
    if taken:
        named = ", ".join(f"{name} {value}" for name, value in taken.items())
        console.print(f"trials of {env_id}: {named}", highlight=False, soft_wrap=True)


Period = Annotated[int | None, typer.Option(help="Segment length for law regular.", show_default="20")]
Low = Annotated[int | None, typer.Option(help="Minimum segment length for law random.", show_default="1")]
High = Annotated[int | None, typer.Option(help="Maximum segment length for law random.", show_default="39")]


class Baseline(StrEnum):
    """Policies available for every task group."""

    oracle = "oracle"
    random = "random"


def output() -> Console:
    """A console for results; markup is off by default because environment texts contain brackets."""
    return Console(markup=False, highlight=False)


def parse_env_args(text: str | None) -> dict[str, Any]:
    """Parse `--env-args` as keyword arguments.

    Raises:
        ConfigError: not valid JSON, or not a JSON object.
    """
    return parse_json(text, "env-args", ENV_ARGS_FIX)


def parse_json(text: str | None, option: str, fix: str) -> dict[str, Any]:
    """Parse an option's JSON object as keyword arguments; `fix` shows how to write it.

    Raises:
        ConfigError: not valid JSON, or not a JSON object.
    """
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{option}={text!r} is not JSON ({error}): {fix}.") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{option}={text!r} is not a JSON object: {fix}.")
    return value


def check_writable(path: Path | None, option: str, suffixes: tuple[str, ...] = ()) -> None:
    """Reject, before any work is done, a file that cannot be written or that belongs to a run or a model.

    Raises:
        ConfigError: naming the option, the path and the fix.
    """
    if path is None:
        return
    problem = place_problem(path)
    if problem is None and suffixes and path.suffix not in suffixes:
        problem = f"has no known ending; use {' or '.join(suffixes)}"
    if problem is None and (whose := owner(path)):
        problem = f"{whose}, and would be replaced: name another file"
    if problem:
        raise ConfigError(f"{option}={str(path)!r} {problem}.")


def check_apart(**outputs: Path | None) -> None:
    """Reject two output options that name the same file; devices and pipes may be shared.

    Raises:
        ConfigError: naming both options.
    """
    seen: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is None or (path.exists() and not path.is_file()):
            continue
        other = seen.setdefault(path.resolve(), option)
        if other != option:
            raise ConfigError(f"{option}={str(path)!r} is the file of {other} too: give each its own.")


def check_plot(path: Path | None, option: str = "plot") -> None:
    """Reject, before any work is done, a plot that cannot be drawn or written.

    Raises:
        ConfigError: naming the option or the variable, and the fix.
    """
    check_writable(path, option, PICTURES)
    if path is None:
        return
    try:
        import matplotlib  # noqa: F401  (reads its settings and MPLBACKEND)
    except ValueError as error:
        raise ConfigError(describe_fault(error) or str(error)) from error


def used(**options: Any) -> dict[str, Any]:
    """The options that were given, so that one without effect can be rejected."""
    return {name: value for name, value in options.items() if value is not None}
