"""Locks of torch's extension builds: waited for while their process lives, removed when it was killed."""

import os
import subprocess
import sys
import threading
import time

import pytest

from metarlgym.runtime.extension_builds import ORPHANED_SECONDS, await_builds


@pytest.fixture
def lock(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    path = tmp_path / "py311_cpu" / "deepspeed_shm_comm" / "lock"
    path.parent.mkdir(parents=True)
    return path


def age(lock):
    then = time.time() - 2 * ORPHANED_SECONDS
    os.utime(lock, (then, then))


def test_nothing_to_wait_for(lock):
    lines: list[str] = []
    await_builds(lines.append)
    assert not lines


def test_a_lock_left_by_a_killed_process_is_removed(lock):
    holder = subprocess.Popen(
        [sys.executable, "-c", f"import os, time; os.open({str(lock)!r}, os.O_CREAT | os.O_EXCL); time.sleep(600)"]
    )
    while not lock.exists():
        assert holder.poll() is None
        time.sleep(0.01)
    age(lock)
    lines: list[str] = []
    waiting = threading.Thread(target=await_builds, args=(lines.append, 0.05))
    waiting.start()
    while not lines:
        time.sleep(0.01)
    assert "waiting for another process that compiles deepspeed_shm_comm" in lines[0]
    assert waiting.is_alive() and lock.exists()
    holder.kill()
    holder.wait()
    waiting.join(60)
    assert not waiting.is_alive() and not lock.exists()
    assert len(lines) == 2 and "was left by a process that was killed" in lines[1]


def test_a_young_lock_may_be_another_machines(lock):
    lock.touch()
    lines: list[str] = []
    waiting = threading.Thread(target=await_builds, args=(lines.append, 0.05))
    waiting.start()
    while not lines:
        time.sleep(0.01)
    time.sleep(0.3)
    assert waiting.is_alive() and lock.exists()
    lock.unlink()  # it is done
    waiting.join(60)
    assert not waiting.is_alive() and len(lines) == 1
