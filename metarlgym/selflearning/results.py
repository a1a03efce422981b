"""What a variant leaves in the run's folder: `variants/NAME.jsonl` on its way, `variants/NAME.json` at its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def progress(folder: Path, name: str) -> str:
    """How far a running variant has come."""
    path = folder / "variants" / f"{name}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    try:
        last = json.loads(lines[-1])
        return f"{name} {last['step']}/{last['of']}"
    except (IndexError, ValueError, TypeError, KeyError):
        # No line yet, or one that is being written: the next look will see it, and the run must not end for it.
        return name


def result_path(folder: Path, name: str) -> Path:
    return folder / "variants" / f"{name}.json"


def result_of(folder: Path, name: str) -> dict[str, Any]:
    return json.loads(result_path(folder, name).read_text(encoding="utf-8"))


def results(folder: Path, names: list[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The results of those variants that are done, by name, and the variants whose results are damaged."""
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
