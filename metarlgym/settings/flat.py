"""Settings from one flat YAML file with command-line overrides, in the style of TRL's commands.

TRL's own parser is not used: it opens the file in the locale's encoding, silently keeps the last of duplicate keys,
passes on YAML values of any type, and reads a file `NAME.args` next to the program.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import itertools
import os
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from metarlgym.datatypes import ConfigError, MetaRLGymError
from metarlgym.files import expand
from metarlgym.settings.old_names import options_under_new_names, under_new_names
from metarlgym.settings.value_types import accepts, fit, show
from metarlgym.settings.yaml_file import is_file, read_yaml

FOLDERS = {"train": "grpo", "pretrain": "pretrain", "selflearn": "selflearning"}
"""Folder of each command's configs among those that ship with the package."""
RENAMED_CONFIGS = {
    ("selflearn", "plan1"): "self_critic",
    ("selflearn", "plan2"): "gist_tokens",
    ("selflearn", "plan3"): "learned_loss",
    ("pretrain", "metalm_game"): "metalm_words",
}
"""Current names of renamed configs, by command and old name."""


PATHS = {
    *("output_dir", "model_name_or_path", "chat_template", "resume_from_checkpoint"),
    *("deepspeed", "fsdp_config", "accelerator_config"),
}
"""Settings that may be a path, in which `~` is expanded."""


def known_fields(groups: Sequence[type]) -> list[str]:
    """Names of the settings that a config file may contain."""
    return sorted({item.name for group in groups for item in dataclasses.fields(group) if item.init})


def find_config(name: str, command: str = "train") -> Path:
    """Find a config file by path, or by name among the command's configs that ship with the package."""
    path = Path(expand(name))
    if is_file(path):
        return path
    bundled = Path(str(files("metarlgym"))) / "configs"
    shipped = bundled if bundled.is_dir() else Path(str(files("metarlgym"))).parent / "configs"
    shipped = shipped / FOLDERS[command]
    for candidate in (shipped / path.name, shipped / f"{path.name}.yaml"):
        if is_file(candidate):
            return candidate
    if (now := RENAMED_CONFIGS.get((command, path.stem))) is not None:
        raise ConfigError(f"config={show(name)} is called {now} now: give --config {now}.")
    names = ", ".join(sorted(p.stem for p in shipped.glob("*.yaml")))
    raise ConfigError(f"config={show(name)}: no such file, and none of that name ships with the package ({names}).")


@cache
def _kinds(groups: tuple[Any, ...]) -> dict[str, Any]:
    """The declared type of every setting."""
    hints = {group: get_type_hints(group) for group in groups}
    return {item.name: hints[group][item.name] for group in groups for item in dataclasses.fields(group) if item.init}


def _defaults(groups: tuple[Any, ...]) -> dict[str, Any]:
    found = {}
    for item in (item for group in groups for item in dataclasses.fields(group)):
        if item.default_factory is not dataclasses.MISSING:
            found[item.name] = item.default_factory()
        else:
            found[item.name] = None if item.default is dataclasses.MISSING else item.default
    return found


class _Options(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"command line: {message}.")  # argparse would print its usage and exit


@cache
def _options(groups: tuple[Any, ...]) -> _Options:
    """A stateless parser with options for all settings, whose values remain text."""
    parser = _Options(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("--config", action="append")
    defaults = _defaults(groups)
    for name, kind in _kinds(groups).items():
        if accepts(kind, bool):
            parser.add_argument(f"--{name}", nargs="?", const=True)
            if defaults[name] is True:
                parser.add_argument(f"--no_{name}", dest=name, action="store_const", const=False)
        else:
            parser.add_argument(f"--{name}", nargs="+" if accepts(kind, list) else None)
    return parser


@cache
def _bare(groups: tuple[Any, ...]) -> set[str]:
    """Options that do not take exactly one value."""
    return {f"--{name}" for name, kind in _kinds(groups).items() if accepts(kind, bool) or accepts(kind, list)}


def _split(arguments: Sequence[str]) -> list[str]:
    """Normalize a command line: every option is written `--name` with underscores, separate from its value."""
    parts = [part for a in arguments for part in (a.split("=", 1) if a.startswith("--") and "=" in a else [a])]
    return [f"--{a[2:].replace('-', '_')}" if a.startswith("--") else a for a in parts]


def _read_options(arguments: Sequence[str], groups: tuple[Any, ...], command: str) -> dict[str, Any]:
    """Values on the command line: text, lists of text, True for a bare `--flag`, False for `--no_flag`."""
    parts = _split(arguments)
    if any(a == "--config" and b.startswith("--") for a, b in itertools.pairwise([*parts, "--"])):
        raise ConfigError("--config needs a file: --config quickstart.")
    kinds = _kinds(groups)
    bare = _bare(groups)
    names = [part[2:] for part in parts if part.startswith("--") and part != "--config"]
    said = [name for name in names if not (name.startswith("no_") and name[3:] in kinds)]
    _check_names(said, "the command line", groups, command)
    # Join each value to its option in one word, so that `--learning_rate -1e-3` is not parsed as an option -1e-3.
    joined: list[str] = []
    for part in parts:
        last = joined[-1] if joined else ""
        value_wanted = last.startswith("--") and "=" not in last and last not in bare and not last.startswith("--no_")
        if value_wanted and not part.startswith("--"):
            joined[-1] = f"{last}={part}"
        else:
            joined.append(part)
    found, stray = _options(groups).parse_known_args(joined)
    if stray:
        raise ConfigError(f"command line: {show(stray[0])} does not belong to any setting: write --name value.")
    return vars(found)


def read_flat(
    arguments: Sequence[str], groups: tuple[Any, ...], command: str, refused: Mapping[str, str] | None = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read `--config FILE` and overrides such as `--max_steps 10` into dataclasses.

    Args:
        arguments: the command line.
        groups: dataclasses whose fields may be set.
        command: a key of `FOLDERS`; selects which of the package's configs can be given by name.
        refused: settings that must keep their default, each with the reason and what to do instead.

    Returns:
        One object for each group, and the merged values from the file and the command line.

    Raises:
        ConfigError: on an invalid name or value.
    """
    said = _read_options(options_under_new_names(arguments, warn=True), groups, command)
    configs = said.pop("config", [])
    if len(configs) > 1:
        raise ConfigError(f"--config is given {len(configs)} times: settings come from one file.")
    content: dict[str, Any] = {}
    folder = "runs/run"
    if configs:
        path = find_config(configs[0], command)
        content = under_new_names(read_yaml(path), warn=True)
        folder = f"runs/{path.stem}"
    environment = _environment(content.pop("env", None))
    _check_names(list(content), str(configs[0]) if configs else "", groups, command)
    kinds, defaults = _kinds(groups), _defaults(groups)
    given = {}
    for name in (*content, *(name for name in said if name not in content)):
        from_line = name in said
        given[name] = _value(
            name, kinds[name], said[name] if from_line else content[name], from_line, defaults[name], refused or {}
        )
    if given.get("output_dir") == "":
        raise ConfigError("output_dir='' is empty: say where results go.")
    if given.get("output_dir") is None:
        given.pop("output_dir", None)
    os.environ.update(environment)
    return tuple(_make(group, {"output_dir": folder, **given}) for group in groups), given


def _value(name: str, kind: Any, raw: Any, from_line: bool, default: Any, refused: Mapping[str, str]) -> Any:
    try:
        value = fit(name, kind, raw, from_line)
    except ConfigError:
        if name in refused:
            raise ConfigError(f"{name}={show(raw)} {refused[name]}") from None
        raise
    if name in refused and value != default:
        raise ConfigError(f"{name}={show(value)} {refused[name]}")
    return expand(value) if name in PATHS and isinstance(value, str) else value


def _make(group: Any, given: Mapping[str, Any]) -> Any:
    names = {item.name for item in dataclasses.fields(group) if item.init}
    values = {name: value for name, value in given.items() if name in names}
    try:
        return group(**values)
    except MetaRLGymError:
        raise
    except Exception as error:  # TRL, transformers and accelerate raise various exceptions for contradictory settings
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        text = " ".join(str(error).split()).rstrip(".")
        blamed = ", ".join(f"{name}={show(values[name])}" for name in _blamed(group, values))
        raise ConfigError(f"{blamed or 'settings'}: {kind}{text}.") from error


def _blamed(group: Any, values: Mapping[str, Any]) -> list[str]:
    """Settings whose removal would let the group be created, because libraries' errors rarely say which are wrong."""
    found = []
    for left_out in values:
        try:
            group(**{name: value for name, value in values.items() if name != left_out})
            found.append(left_out)
        except Exception:  # not the only cause, or required by the others
            continue
    return found


def _environment(content: Any) -> dict[str, str]:
    """The environment variables that a file sets under `env`."""
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"env={show(content)} must be a mapping of environment variables to their values.")
    for name, value in content.items():
        if not isinstance(name, str) or not name or "=" in name:
            raise ConfigError(f"env: {show(name)} cannot be the name of an environment variable.")
        if not isinstance(value, str | int | float):
            raise ConfigError(f"env: {name}={show(value)} must be text or a number.")
        for text in (name, value):
            fit(f"env: {name}", str, str(text))
    return {name: str(value) for name, value in content.items()}


def _check_names(names: Sequence[Any], where: str, groups: tuple[Any, ...], command: str) -> None:
    known = _kinds(groups)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"see `metarlgym {command} --help-config`."
            raise ConfigError(f"{show(name)} in {where} is not a setting: {hint}")


def said_in(arguments: Sequence[str], name: str, command: str) -> Any:
    """The value of a setting on the command line, or else in the config file; None if given in neither.

    Raises:
        ConfigError: if the file cannot be found or read.
    """
    parts = _split(arguments)
    found = [value for option, value in itertools.pairwise(parts) if option == f"--{name}"]
    if found:
        return found[-1]
    if "--config" not in parts[:-1]:
        return None
    return read_yaml(find_config(parts[parts.index("--config") + 1], command)).get(name)


def plain(value: Any) -> Any:
    """Convert a setting to plain YAML types."""
    if isinstance(value, str | int | float | bool | None):
        return getattr(value, "value", value)
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    return str(getattr(value, "value", value))
