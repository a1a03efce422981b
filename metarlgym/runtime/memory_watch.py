"""MemoryWatch: one warning when the machine's memory is near its end or the machine begins to swap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

NEARLY_FULL = 0.05
"""Fraction of the memory that is left when the warning is due."""
SWAPPED = 256 * 2**20
"""Bytes of swap in use beyond what was in use at the start when the warning is due."""
GROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class MemoryState:
    """Memory of the machine, or of the control group if that has less. Bytes."""

    total: int
    available: int
    swap_used: int


class MemoryWatch:
    """Warns once, when called while memory is nearly full or the use of swap has grown.

    Args:
        notify: called with the warning.
        lower: names the settings to lower, as `--concurrency`.
        read: reads the state; None where it is not known, which ends the watch. The default reads Linux's `/proc`.
    """

    def __init__(
        self, notify: Callable[[str], None], lower: str, read: Callable[[], MemoryState | None] | None = None
    ) -> None:
        self.notify, self.lower = notify, lower
        self.read = read or memory_state
        self.start = self.read()
        self.warned = False

    def __call__(self) -> None:
        if self.warned or self.start is None or (now := self.read()) is None:
            return
        problem = None
        if now.swap_used - self.start.swap_used > SWAPPED:
            problem = f"the machine swaps ({_size(now.swap_used - self.start.swap_used)} more than at the start)"
        elif now.available < NEARLY_FULL * now.total:
            problem = f"memory is nearly full ({_size(now.available)} of {_size(now.total)} left)"
        if problem:
            self.warned = True
            self.notify(f"{problem}: this gets slow, or the process is killed; lower {self.lower}.")


def memory_state(proc: Path = Path("/proc"), group: Path = GROUP) -> MemoryState | None:
    """The present state; None on systems without `/proc/meminfo`.

    Args:
        proc: the process file system.
        group: folder of the control group (version 2) whose limit applies too, as in a container.
    """
    try:
        lines = (proc / "meminfo").read_text().splitlines()
    except OSError:
        return None
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if len(line.split()) > 1}
    try:
        total, available = kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024
    except KeyError:
        return None
    swap = (kib.get("SwapTotal", 0) - kib.get("SwapFree", 0)) * 1024
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no control group, or "max": no limit of its own
        return MemoryState(total, available, swap)
    if limit >= total:
        return MemoryState(total, available, swap)
    left = limit - used + int(stat.get("inactive_file", 0))  # the file cache gives way first
    return MemoryState(limit, max(0, min(available, left)), swap)


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
