"""Settings read from one flat YAML file with command-line overrides, through TRL's parser."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from trl import TrlParser

from metarlgym.datatypes import ConfigError

FOLDERS = {"train": ".", "pretrain": "pretrain", "selflearn": "selflearning"}
"""Where the configs of a command are among those that ship with the package."""


def known_fields(groups: Sequence[type]) -> list[str]:
    """Names that a config file may set."""
    return sorted({item.name for group in groups for item in dataclasses.fields(group) if item.init})


def find_config(name: str, command: str = "train") -> Path:
    """A config file by path, or by name among those of a command that ship with the package."""
    path = Path(name)
    if path.is_file():
        return path
    bundled = Path(str(files("metarlgym"))) / "configs"
    shipped = bundled if bundled.is_dir() else Path(str(files("metarlgym"))).parent / "configs"
    shipped = shipped / FOLDERS[command]
    for candidate in (shipped / path.name, shipped / f"{path.name}.yaml"):
        if candidate.is_file():
            return candidate
    runs = [p for p in shipped.glob("*.yaml") if "compute_environment" not in p.read_text()]  # others are accelerate's
    names = ", ".join(sorted(p.stem for p in runs))
    raise ConfigError(f"config={name!r}: no such file, and none of that name ships with the package ({names}).")


def _check_names(names: Sequence[str], where: str, groups: Sequence[type], command: str) -> None:
    known = known_fields(groups)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"see `metarlgym {command} --help-config`."
            raise ConfigError(f"{name!r} in {where} is no setting: {hint}")


def read_flat(
    arguments: Sequence[str], groups: tuple[Any, ...], command: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read `--config FILE` and overrides such as `--max_steps 10` into data classes.

    Args:
        arguments: the command line.
        groups: data classes whose fields may be set.
        command: one of `FOLDERS`: whose configs ship with the package.

    Returns:
        One object for each group, and what the file and the command line said, merged.

    Raises:
        ConfigError: a name or a value that does not fit.
    """
    arguments = [part for a in arguments for part in (a.split("=", 1) if a.startswith("--") and "=" in a else [a])]
    given: dict[str, Any] = {}
    if "--config" in arguments:
        place = arguments.index("--config") + 1
        if place >= len(arguments):
            raise ConfigError("--config needs a file: --config configs/quickstart.yaml.")
        path = find_config(arguments[place], command)
        arguments[place] = str(path)
        content = _read_yaml(path)
        _check_names([name for name in content if name != "env"], str(path), groups, command)
        given |= {k: v for k, v in content.items() if k != "env"}
        if "output_dir" not in given and "--output_dir" not in arguments:
            arguments += ["--output_dir", f"runs/{path.stem}"]
    else:
        arguments += [] if "--output_dir" in arguments else ["--output_dir", "runs/run"]
    names = [a[2:].replace("-", "_") for a in arguments if a.startswith("--")]
    arguments = [f"--{a[2:].replace('-', '_')}" if a.startswith("--") else a for a in arguments]
    said = [name for name in names if name != "config" and not name.startswith("no_")]
    _check_names(said, "the command line", groups, command)
    given |= dict.fromkeys(names, True)
    parser = TrlParser(groups)

    def problem(message: str) -> None:
        raise ConfigError(message)

    parser.error = problem  # argparse would print its usage and exit
    try:
        return tuple(parser.parse_args_and_config(arguments)), given
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"settings: {error}") from error


def said_in(arguments: Sequence[str], name: str, command: str) -> Any:
    """What the command line or else the config file says of one setting; None where neither does.

    Raises:
        ConfigError: the file cannot be found or read.
    """
    parts = [part for a in arguments for part in (a.split("=", 1) if a.startswith("--") and "=" in a else [a])]
    for option, value in itertools.pairwise(parts):
        if option.replace("-", "_") == f"__{name}":
            return value
    if "--config" not in parts[:-1]:
        return None
    return _read_yaml(find_config(parts[parts.index("--config") + 1], command)).get(name)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"config={str(path)!r} is no YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"config={str(path)!r} must hold `name: value` lines.")
    return content


def plain(value: Any) -> Any:
    """A setting as YAML writes it."""
    if isinstance(value, str | int | float | bool | None):
        return getattr(value, "value", value)
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return str(getattr(value, "value", value))
