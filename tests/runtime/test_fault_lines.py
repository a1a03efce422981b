"""Faults of a machine are one line; bugs keep their traceback."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from torch import distributed

from metarlgym.runtime.faults import describe_fault


def caught(call):
    with pytest.raises(Exception) as info:
        call()
    return info.value


FAULTS = {
    "'/nowhere/x': No such file or directory; check the path.": Path("/nowhere/x").read_text,
    "'/proc/version': ": lambda: Path("/proc/version").touch(exist_ok=False),
    "No space left on device; free some space": lambda: os.write(os.open("/dev/full", os.O_WRONLY), b"1"),
    "not enough memory (Unable to allocate 8.00 PiB": lambda: np.zeros(2**50),
    "No module named 'nonsense': this package is missing or broken": lambda: __import__("nonsense"),
}


@pytest.mark.parametrize("line", FAULTS)
def test_faults(line):
    told = describe_fault(caught(FAULTS[line]))
    assert told.startswith(line) and "\n" not in told and told.endswith(".")


def test_read_only_file_system():
    error = OSError(errno.EROFS, os.strerror(errno.EROFS), "/usr/x")
    assert describe_fault(error) == "'/usr/x': Read-only file system; check its permissions, or choose another place."


def test_a_package_of_the_extra():
    told = describe_fault(ModuleNotFoundError("No module named 'trl'", name="trl"))
    assert told == "models and training need trl, which is not installed: pip install 'metarlgym[train]'."


def test_a_missing_package_under_a_python_without_training(monkeypatch):
    monkeypatch.setattr("sys.version_info", (3, 13, 1))
    told = describe_fault(ModuleNotFoundError("No module named 'torch'", name="torch"))
    assert told.endswith("pip install 'metarlgym[train]' under Python 3.11 or 3.12; this is 3.13.")


def test_processes_that_are_out_of_reach():
    gloo = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 7000ms")
    nccl = distributed.DistBackendError("NCCL error")
    for error, words in ((gloo, "Timed out waiting 7000ms"), (nccl, "NCCL error")):
        told = describe_fault(error)
        assert told.startswith(f"the run's other processes do not answer ({words})") and "--resume" in told
    assert describe_fault(RuntimeError("shapes differ")) is None


def own_import():
    from metarlgym.runtime.faults import nothing  # noqa: F401


@pytest.mark.parametrize("bug", [lambda: 1 / 0, lambda: [].x, lambda: int("a"), lambda: len(3), own_import])
def test_bugs_are_not_swallowed(bug):
    assert describe_fault(caught(bug)) is None
