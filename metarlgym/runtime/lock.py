"""Lock file that keeps a second writer out of a run folder; a lock whose process has died is taken over.

The file holds the host, process id and process start time. On the same machine, the process table shows whether the
owner is still running. From another machine, a heartbeat does: the owner touches the file every `BEAT` seconds, and a
lock not touched for `STALE` seconds, by the file system's clock, is stale.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import uuid
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from metarlgym.datatypes import ConfigError, MetaRLGymError

LOCK = "run.lock"
BEAT, STALE = 30.0, 180.0
"""Seconds. An NFS client may see file times up to 60 s late."""


@dataclass(frozen=True)
class Holder:
    """A process that writes to a run folder."""

    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    host: str = field(default_factory=platform.node)
    pid: int = field(default_factory=os.getpid)
    started: str = field(default_factory=lambda: start_of(os.getpid()) or "")
    """Start time of the process, because process ids are reused."""
    machine: str = field(default_factory=lambda: _machine())
    """Identifies the process table that `pid` refers to: hosts, and containers on one host, may share a name."""
    since: str = field(default_factory=lambda: datetime.now(UTC).astimezone().isoformat(timespec="seconds"))
    job: str = field(default_factory=lambda: os.environ.get("SLURM_JOB_ID", ""))
    restart: str = field(default_factory=lambda: os.environ.get("SLURM_RESTART_COUNT", "0"))

    def runs(self, age: float, mine: Holder) -> bool:
        """Whether the process is still running, as far as `mine` can determine.

        Args:
            age: seconds since the last heartbeat.
            mine: the calling process.
        """
        if self.host == mine.host and self.machine == mine.machine:
            return start_of(self.pid) == self.started
        if self.job and self.job == mine.job and self.restart != mine.restart:
            return False  # the same job, requeued: Slurm ended the process before it restarted the job
        return age < STALE


def start_of(pid: int) -> str | None:
    """Start time of a process as an opaque string, for comparison; None if it is not running or a zombie."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.NoSuchProcess:
        return None


def _machine() -> str:
    """The kernel's boot id and the process namespace; empty where they are unavailable."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""  # not Linux: rely on the host name alone


class Lock:
    """The lock of a folder, held until `release`.

    Raises:
        ConfigError: if another process holds it.
        OSError: if the folder is not writable.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self.holder = Holder()
        self.lost = False
        """Whether another process took over the folder after this one was suspended or cut off for `STALE` seconds."""
        self._ended = threading.Event()
        mine = folder / f".{LOCK}.{self.holder.token}"
        try:
            with mine.open("x", encoding="utf-8") as file:
                file.write(json.dumps(asdict(self.holder)) + "\n")
                file.flush()
                os.fsync(file.fileno())
            while not self._put(mine):
                held = read_holder(self.path)
                if held is None:
                    continue  # released just now
                age = mine.stat().st_mtime - _touched(self.path, mine)
                if held.runs(age, self.holder):
                    raise ConfigError(
                        f"output_dir={str(folder)!r} is being written by another process: {held.pid} on {held.host}, "
                        f"since {held.since}. Wait for its end, or give another --output_dir."
                    )
                self._remove_stale(held)
        finally:
            mine.unlink(missing_ok=True)
        threading.Thread(target=self._beat, name="run folder heartbeat", daemon=True).start()

    def _put(self, mine: Path) -> bool:
        """Create the lock file atomically; False if it already exists."""
        try:
            os.link(mine, self.path)
        except FileExistsError:
            return mine.stat().st_nlink == 2  # over NFS the link may succeed although the reply is lost
        except OSError:
            # This file system has no hard links.
            try:
                with self.path.open("x", encoding="utf-8") as file:
                    file.write(mine.read_text(encoding="utf-8"))
            except FileExistsError:
                return False
        return True

    def _remove_stale(self, held: Holder) -> None:
        """Remove the stale lock, unless another process was faster and has replaced it with a new one."""
        aside = self.path.with_name(f".{LOCK}.{self.holder.token}.stale")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return
        found = read_holder(aside)
        if found is not None and found.token != held.token:
            with contextlib.suppress(FileExistsError):
                os.link(aside, self.path)
        aside.unlink()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                held = read_holder(self.path)
                if held is not None and held.token == self.holder.token:
                    os.utime(self.path)
                    continue
            except (OSError, ConfigError):
                continue  # the file system is not responding: retry at the next beat
            self.lost = True
            return

    def check(self) -> None:
        """Check that no other process has taken over the folder.

        Raises:
            MetaRLGymError: if one has.
        """
        if self.lost:
            raise MetaRLGymError(
                f"{self.path} is another process's, or gone: this one did not touch it for {STALE:.0f} seconds, so it "
                "stops before both write into the folder."
            )

    def release(self) -> None:
        self._ended.set()
        if os.getpid() != self.holder.pid:
            return  # a forked child
        held = read_holder(self.path)
        if held is not None and held.token == self.holder.token:
            self.path.unlink()


def _touched(path: Path, otherwise: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return otherwise.stat().st_mtime


def read_holder(path: Path) -> Holder | None:
    """The holder of a lock; None if there is no lock.

    Raises:
        ConfigError: if the file is not a lock.
    """
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise ConfigError(f"{path} is not a lock of a run: remove it if nothing runs there.") from None
