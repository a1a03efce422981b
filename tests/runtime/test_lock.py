"""The lock of a run folder: one writer, and a takeover when that one is gone."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import asdict

import pytest

from metarlgym import ConfigError, MetaRLGymError
from metarlgym.runtime import lock as module
from metarlgym.runtime.lock import LOCK, STALE, Holder, Lock, start_of

GONE = "from metarlgym.runtime.lock import Lock; from pathlib import Path; import sys, os; Lock(Path(sys.argv[1])); "


def put(folder, age=0.0, **changes):
    """A lock of somebody else's, last touched `age` seconds ago."""
    holder = dataclasses.replace(Holder(), **changes)
    path = folder / LOCK
    path.write_text(json.dumps(asdict(holder)))
    os.utime(path, (time.time() - age,) * 2)
    return holder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_second_writer_is_refused_with_host_process_and_time(tmp_path):
    first = Lock(tmp_path)
    who = re.escape(f"{os.getpid()} on {first.holder.host}, since {first.holder.since}")
    with pytest.raises(ConfigError, match=f"is being written by another process: {who}"):
        Lock(tmp_path)
    first.release()
    assert names(tmp_path) == []
    Lock(tmp_path).release()


def test_a_living_process_keeps_it_and_a_killed_one_loses_it(tmp_path):
    code = GONE + "print('held', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=f"another process: {process.pid} on"):
        Lock(tmp_path)
    process.kill()
    time.sleep(0.1)  # not waited for: a zombie does not run either
    held = Lock(tmp_path)
    process.wait()
    assert held.holder.pid == os.getpid() and names(tmp_path) == [LOCK]
    held.release()


@pytest.mark.parametrize(
    ("changes", "age", "runs"),
    [
        ({}, 0, True),
        ({"started": "12"}, 0, False),  # its id was given to another process
        ({"pid": 2**22 + 1}, 0, False),
        ({"pid": 2**22 + 1, "machine": "another kernel"}, 0, True),  # a container, or a machine of the same name
        ({"pid": 2**22 + 1, "machine": "another kernel"}, STALE + 5, False),
        ({"host": "other"}, STALE - 5, True),
        ({"host": "other"}, STALE + 5, False),
        ({"host": "other", "job": "7", "restart": "0"}, 0, False),  # the same job, requeued
        ({"host": "other", "job": "7", "restart": "1"}, 0, True),  # another step of the same job
        ({"host": "other", "job": "8", "restart": "0"}, 0, True),
    ],
)
def test_who_counts_as_running(changes, age, runs, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    held = put(tmp_path, age, **changes)
    before = (tmp_path / LOCK).read_bytes()
    if runs:
        with pytest.raises(ConfigError, match=re.escape(f"{held.pid} on {held.host}")):
            Lock(tmp_path)
        assert (tmp_path / LOCK).read_bytes() == before
    else:
        Lock(tmp_path).release()
    assert names(tmp_path) == ([LOCK] if runs else [])


def test_the_age_is_by_the_clock_of_the_file_system(tmp_path, monkeypatch):
    """A clock of this machine that is wrong by hours changes nothing."""
    put(tmp_path, 10, host="other")
    monkeypatch.setattr(time, "time", lambda: 1e12)
    with pytest.raises(ConfigError, match="on other"):
        Lock(tmp_path)


def _race(folder, barrier, results):
    barrier.wait()
    try:
        lock = Lock(folder)
        time.sleep(0.3)
        results.put(lock.holder.pid)
    except ConfigError:
        results.put(None)
    barrier.wait()


def test_of_many_that_take_over_at_once_one_wins(tmp_path):
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        put(tmp_path, STALE + 60, host="other")
        barrier, results = context.Barrier(6), context.Queue()
        racers = [context.Process(target=_race, args=(tmp_path, barrier, results)) for _ in range(6)]
        for racer in racers:
            racer.start()
        found = [results.get(timeout=30) for _ in racers]
        for racer in racers:
            racer.join()
        assert len([pid for pid in found if pid]) == 1
        assert names(tmp_path) == [LOCK]


def test_the_heartbeat_touches_it_and_notices_a_new_owner(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BEAT", 0.02)
    lock = Lock(tmp_path)
    os.utime(tmp_path / LOCK, (1, 1))
    deadline = time.monotonic() + 60
    while (tmp_path / LOCK).stat().st_mtime == 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / LOCK).stat().st_mtime > 1
    lock.check()
    put(tmp_path, host="other")
    while not lock.lost and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(MetaRLGymError, match="is another process's"):
        lock.check()
    lock.release()
    assert json.loads((tmp_path / LOCK).read_text())["host"] == "other"


def test_the_heartbeat_ends_with_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BEAT", 0.01)
    before = threading.active_count()
    Lock(tmp_path).release()
    deadline = time.monotonic() + 60
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_without_hard_links_a_lock_still_keeps_others_out(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError("hard links are not supported")

    monkeypatch.setattr(os, "link", no_links)
    held = Lock(tmp_path)
    with pytest.raises(ConfigError, match="another process"):
        Lock(tmp_path)
    held.release()
    assert names(tmp_path) == []


def test_a_file_that_is_no_lock_is_left_alone(tmp_path):
    (tmp_path / LOCK).write_text("shopping list")
    with pytest.raises(ConfigError, match="is not a lock of a run"):
        Lock(tmp_path)
    assert names(tmp_path) == [LOCK]


def test_start_times_tell_processes_apart():
    assert start_of(os.getpid()) == start_of(os.getpid()) and start_of(os.getpid())
    assert start_of(2**22 + 1) is None
