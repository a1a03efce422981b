"""Permissions of weight files: safetensors writes them through private temporary files, for the owner alone (0600)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from metarlgym.files import new_file, remove_leftover


def share_weights(files: Iterable[Path]) -> None:
    """Give safetensors files the permissions of other new files in their folder; links and other files are left alone.

    Args:
        files: files that this process wrote.
    """
    usual: dict[Path, int] = {}
    for path in files:
        if path.suffix != ".safetensors" or path.is_symlink():
            continue
        if path.parent not in usual:
            usual[path.parent] = _usual(path.parent)
        path.chmod(stat.S_IMODE(path.stat().st_mode) | usual[path.parent])


def _usual(folder: Path) -> int:
    """The permissions of a new file, found by writing one: reading the umask would change it for other threads."""
    sample = folder / f".permissions.{os.getpid()}.tmp"
    remove_leftover(sample)
    with new_file(sample) as file:
        mode = os.fstat(file.fileno()).st_mode
    sample.unlink()
    return stat.S_IMODE(mode)
