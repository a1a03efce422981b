"""Integrity of folders written by a run: files that are missing, truncated or modified since they were written."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from metarlgym.runtime.layout import Tree, foreign_inside
from metarlgym.runtime.mark import COMPLETE, recorded
from metarlgym.runtime.permissions import share_weights
from metarlgym.runtime.run_folder import replace_text

__all__ = ["COMPLETE", "begin", "damage", "mark_complete", "marked", "missing_weights"]

HASHED = 1 << 20
"""Files up to this many bytes are hashed; for larger ones only the size is compared."""


@contextmanager
def marked(folder: Path, tree: Tree, step: int = 0) -> Iterator[None]:
    """Context for writing a folder: removes its `COMPLETE` marker first and writes a new one at the end.

    Args:
        folder: need not exist.
        tree: the files that may be written there.
        step: the run's step, recorded in the marker.
    """
    users = begin(folder, tree)
    yield
    mark_complete(folder, step, users)


def begin(folder: Path, tree: Tree) -> dict[Path, int]:
    """Remove a folder's marker before writing to it; returns the files no run wrote and their modification times."""
    users = {}
    if folder.is_dir():
        users = {path: path.lstat().st_mtime_ns for path in foreign_inside(folder, tree)}
    (folder / COMPLETE).unlink(missing_ok=True)
    return users


def mark_complete(folder: Path, step: int, users: Mapping[Path, int] | None = None) -> None:
    """Write `COMPLETE`: the step, and the size and hash of every file except those in `users`.

    Weights first get the permissions that other files have, which safetensors leaves to their owner alone.
    """
    users = users or {}
    # A file that was overwritten since then belongs to the run.
    kept = {
        path for path, time in users.items() if path.is_dir() or (path.exists() and path.lstat().st_mtime_ns == time)
    }
    ours = [path for path in _files(folder) if not kept.intersection((path, *path.parents))]
    share_weights(ours)
    files = {path.relative_to(folder).as_posix(): _print_of(path) for path in ours}
    replace_text(folder / COMPLETE, json.dumps({"step": step, "files": files}, indent=1) + "\n")


def damage(folder: Path) -> str | None:
    """Damage in a folder with a `COMPLETE` marker, described as `FILE is ...`, or None.

    If an earlier version wrote the marker, which then holds no sizes, only the file contents are checked.
    """
    listed = recorded(folder)
    for name, print_ in listed.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != print_[0]:
            return f"{name} has {path.stat().st_size:,} bytes of {print_[0]:,}"
        if print_ != _print_of(path):
            return f"{name} has changed since it was written"
    # If files are recorded, ignore others, which the user put there.
    for path in [folder / name for name in listed] or _files(folder):
        wrong = _wrong(path)
        if wrong:
            return f"{path.relative_to(folder).as_posix()} {wrong}"
    return missing_weights(folder)


def missing_weights(folder: Path) -> str | None:
    """Describe the first weight file that an index lists but that does not exist; None if all exist."""
    for index in folder.glob("*.safetensors.index.json"):
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        lost = next((name for name in names if not (folder / name).is_file()), None)
        if lost:
            return f"{lost} is missing"
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (COMPLETE, COMPLETE + ".part"))


def _print_of(path: Path) -> list[Any]:
    size = path.stat().st_size
    return [size, hashlib.sha256(path.read_bytes()).hexdigest() if size <= HASHED else None]


def _wrong(path: Path) -> str | None:
    """Why a file cannot be loaded, or None."""
    if path.stat().st_size == 0:
        # Model cards and templates may be empty; files that are loaded may not.
        return "is empty" if path.suffix in (".safetensors", ".json", ".pt", ".pth", ".bin") else None
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "np"):
                return None
        except (SafetensorError, OSError, ValueError):
            return "is damaged, or was not downloaded whole"
    if path.suffix == ".json":
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return "is not JSON"
    if path.suffix in (".pt", ".pth") and not zipfile.is_zipfile(path):
        return "is damaged"
    return None
