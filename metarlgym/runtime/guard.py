"""Overwrite protection: detects files that belong to a run or a model before a command replaces them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from metarlgym.runtime.layout import CHECKPOINT, LAYOUTS, RUN, Tree, written
from metarlgym.runtime.mark import COMPLETE, recorded

MODEL_FILES = re.compile(
    r".*\.(safetensors|bin|pt|pth|h5|msgpack|onnx|gguf|model|jinja|tiktoken|spm|bpe|py|md)|(vocab|merges)\.txt"
    r"|(.+_)?config\.json|.*\.index\.json"
)
"""Other file names found in model folders of any origin, which are also protected."""


def owner(path: Path) -> str | None:
    """The owner of an existing file, as text that follows its path; None if it has no owner or does not exist."""
    real = path.resolve()
    if not real.is_file():
        return None
    for folder in real.parents:
        if any(_writes(folder, tree, real) for tree in _trees(folder)):
            return f"belongs to the run in {str(folder)!r}"
    return f"belongs to the model in {str(real.parent)!r}" if _of_model(real) else None


def _trees(folder: Path) -> list[Tree]:
    """The files that the run in a folder may write; those of every kind of run if its kind is unreadable."""
    if not (folder / RUN).is_file():
        return []
    try:
        return [LAYOUTS[json.loads((folder / RUN).read_text(encoding="utf-8"))["kind"]]]
    except (ValueError, KeyError, TypeError, OSError):
        return list(LAYOUTS.values())


def _writes(folder: Path, tree: Tree, file: Path) -> bool:
    """Whether a run in `folder` writes `file`, which lies below it."""
    for name in file.relative_to(folder).parts[:-1]:
        below = tree.below(name)
        if below is None:
            return False
        folder /= name
        tree = written(folder, below)
    return tree.owns_file(file)


def _of_model(file: Path) -> bool:
    folder = file.parent
    if names := recorded(folder):
        return file.name in names or file.name == COMPLETE
    if not ((folder / COMPLETE).is_file() or (folder / "adapter_config.json").is_file() or _has_config(folder)):
        return False
    return CHECKPOINT.owns_file(file) or MODEL_FILES.fullmatch(file.name) is not None


def _has_config(folder: Path) -> bool:
    try:
        return "model_type" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (ValueError, TypeError, OSError):
        return False
