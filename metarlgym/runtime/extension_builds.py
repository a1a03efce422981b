"""Waiting for C++ extensions that another process compiles, which torch would do without a word and without an end.

DeepSpeed compiles extensions at the first start on a machine. torch guards each build by a file named `lock`, which a
process that is killed meanwhile leaves behind; every later start would wait for it forever.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

ORPHANED_SECONDS = 120
"""Age at which a lock that no process of this machine holds open is taken for left behind. (The folder may be shared
with other machines.)"""


def folder() -> Path:
    """Where torch keeps its builds."""
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    return Path(given) if given else Path.home() / ".cache" / "torch_extensions"


def await_builds(notify: Callable[[str], None], wait: float = 0.5) -> None:
    """Return when no extension is being compiled; locks left behind are removed.

    Args:
        notify: prints a line, once for each lock.
        wait: seconds between two looks.
    """
    for lock in folder().glob("*/*/lock"):
        notified = False
        while (age := _age(lock)) is not None:
            if not _held(lock) and age > ORPHANED_SECONDS:
                lock.unlink(missing_ok=True)
                notify(f"{lock} was left by a process that was killed while it compiled: removed.")
                break
            if not notified:
                notify(f"waiting for another process that compiles {lock.parent.name} ({lock}).")
                notified = True
            time.sleep(wait)


def _age(lock: Path) -> float | None:
    """Seconds since it was made; None if it is gone."""
    try:
        return time.time() - lock.stat().st_mtime
    except FileNotFoundError:
        return None


def _held(lock: Path) -> bool:
    """Whether a process that may be inspected has it open, as torch has while it compiles."""
    import psutil

    path = str(lock.resolve())
    for process in psutil.process_iter():
        try:
            if any(file.path == path for file in process.open_files()):
                return True
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return False
