"""Files of a variant in the run's folder: `variants/NAME.jsonl` while it runs, `variants/NAME.json` once it is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metarlgym.datatypes import ConfigError


def progress(folder: Path, name: str) -> str:
    """Progress of a running variant."""
    path = folder / "variants" / f"{name}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    try:
        last = json.loads(lines[-1])
        return f"{name} {last['step']}/{last['of']}"
    except (IndexError, ValueError, TypeError, KeyError):
        # No complete line yet: the next call will see it, and this must not end the run.
        return name


class Result(dict[str, Any]):
    """A JSON object of a result file. Reading a key that is not there names the file.

    Args:
        values: the object.
        path: the file.
    """

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        super().__init__(values)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise ConfigError(
            f"{self.path} lacks {key!r}, which the summary needs: delete the file and start again with --resume, which "
            "runs this variant again."
        )


def result_path(folder: Path, name: str) -> Path:
    return folder / "variants" / f"{name}.json"


def result_of(folder: Path, name: str) -> dict[str, Any]:
    """The result of a finished variant; a key that is missing in it, at any depth, raises `ConfigError` when read."""
    path = result_path(folder, name)
    return json.loads(path.read_text(encoding="utf-8"), object_hook=lambda values: Result(values, path))


def results(folder: Path, names: list[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Results of the finished variants, by name, and the names of variants whose results are damaged."""
    found, damaged = {}, []
    for name in names:
        if not result_path(folder, name).exists():
            continue
        try:
            result = result_of(folder, name)
        except (ValueError, OSError):
            result = None
        if isinstance(result, dict) and len(result) > 1 and isinstance(result.get("seconds"), int | float):
            found[name] = result
        else:
            damaged.append(name)
    return found, damaged
