"""Whether a file that a command is about to replace belongs to a run or to a model."""

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
"""More names of files that models come with, from whoever made them; what is among them is not replaced."""


def owner(path: Path) -> str | None:
    """What an existing file belongs to, in words that follow its path; None for any other file, or none."""
    real = path.resolve()
    if not real.is_file():
        return None
    for folder in real.parents:
        if any(_writes(folder, tree, real) for tree in _trees(folder)):
            return f"belongs to the run in {str(folder)!r}"
    return f"belongs to the model in {str(real.parent)!r}" if _of_model(real) else None


def _trees(folder: Path) -> list[Tree]:
    """What the run in a folder may write there; of any kind, if the folder does not tell."""
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
