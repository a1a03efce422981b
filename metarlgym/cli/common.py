"""What several subcommands share."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from metarlgym.datatypes import ConfigError

ENV_ARGS_HELP = "Arguments of the environment as JSON, such as '{\"doors\": 6}'."
ENV_ARGS_FIX = "write it like --env-args '{\"doors\": 6}'"

EnvArgs = Annotated[str | None, typer.Option("--env-args", metavar="JSON", help=ENV_ARGS_HELP)]
Memory = Annotated[
    str, typer.Option("--memory", help="What is seen of earlier episodes: full, none, or last_K such as last_2.")
]
FreeShots = Annotated[int, typer.Option("--free-shots", help="The first F episodes do not count.")]


class Baseline(StrEnum):
    """Policies that every task group brings along."""

    oracle = "oracle"
    random = "random"


def output() -> Console:
    """A console for results; environment texts hold brackets, so nothing is read as markup by default."""
    return Console(markup=False, highlight=False)


def parse_env_args(text: str | None) -> dict[str, Any]:
    """`--env-args` as keyword arguments.

    Raises:
        ConfigError: no JSON, or no JSON object.
    """
    return parse_json(text, "env-args", ENV_ARGS_FIX)


def parse_json(text: str | None, option: str, fix: str) -> dict[str, Any]:
    """An option's JSON object as keyword arguments; `fix` shows how it is written.

    Raises:
        ConfigError: no JSON, or no JSON object.
    """
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{option}={text!r} is no JSON ({error}): {fix}.") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{option}={text!r} is no JSON object: {fix}.")
    return value


def check_writable(path: Path | None, option: str, suffixes: tuple[str, ...] = ()) -> None:
    """Refuse a file that could not be written, before any work is done.

    Raises:
        ConfigError: naming the option, the path and the fix.
    """
    if path is None:
        return
    problem = None
    if path.is_dir():
        problem = "is a folder; name a file in it"
    elif not path.parent.is_dir():
        problem = f"cannot be written: {str(path.parent)!r} is no folder; create it first"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        problem = "cannot be written: permission denied; choose another place"
    elif suffixes and path.suffix not in suffixes:
        problem = f"has no known ending; use {' or '.join(suffixes)}"
    if problem:
        raise ConfigError(f"{option}={str(path)!r} {problem}.")
