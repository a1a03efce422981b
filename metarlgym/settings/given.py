"""The values given in the config file and on the command line, kept separate, before defaults and derived values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import yaml

from metarlgym.settings.flat import find_config
from metarlgym.settings.old_names import options_under_new_names, under_new_names
from metarlgym.settings.yaml_file import read_yaml


@dataclass
class Given:
    """Given values by field name, from the file and from the command line, both parsed as YAML."""

    file: dict[str, Any]
    line: dict[str, Any]

    @property
    def values(self) -> dict[str, Any]:
        """Merged values; the command line takes precedence."""
        return {**self.file, **self.line}

    def changed(self, groups: Sequence[type]) -> dict[str, Any]:
        """The values that differ from the defaults of the dataclasses `groups`."""
        known = {item.name: _default(item) for group in groups for item in dataclasses.fields(group)}
        return {k: v for k, v in self.values.items() if k in known and not _same(v, known[k])}


def values_given(arguments: Sequence[str], command: str) -> Given:
    """Read a command line such as `--config FILE --max_steps 10`, as `flat.read_flat` does, but without validation.

    Raises:
        ConfigError: if the file cannot be found or read.
    """
    words = [
        part
        for a in options_under_new_names(arguments)
        for part in (a.split("=", 1) if a.startswith("--") and "=" in a else [a])
    ]
    line: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name = word[2:].replace("-", "_")
            line[name] = []
        elif name:
            line[name].append(word)
    config = line.pop("config", [])
    file = under_new_names(read_yaml(find_config(config[0], command))) if config else {}
    file.pop("env", None)  # environment variables, as in TRL
    found: dict[str, Any] = {}
    for name, said in line.items():
        if name.startswith("no_"):
            found[name[3:]] = False
        else:
            found[name] = [_read(w) for w in said] if len(said) > 1 else _read(said[0]) if said else True
    return Given(file, found)


def _read(word: str) -> Any:
    try:
        return yaml.safe_load(word)
    except (yaml.YAMLError, ValueError):  # such as an invalid date
        return word


def _default(item: dataclasses.Field[Any]) -> Any:
    if item.default is not dataclasses.MISSING:
        return item.default
    return item.default_factory() if item.default_factory is not dataclasses.MISSING else None


def _same(value: Any, default: Any) -> bool:
    """Whether a value equals the default regardless of notation: `1e-3` and 0.001, `0` and "0"."""
    default = default.value if isinstance(default, Enum) else default
    if value == default or str(value).lower() == str(default).lower():
        return True
    try:
        return not isinstance(value, bool) and not isinstance(default, bool) and float(value) == float(default)
    except (TypeError, ValueError, OverflowError):
        return False
