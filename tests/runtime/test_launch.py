"""How the processes of a launch end."""

import os
import signal
import subprocess
import sys

import pytest

PROGRAM = """
import atexit, ctypes, sys
from metarlgym.runtime import launch

launch.skip_teardown()
atexit.register(print, "a library's handler")
libc = ctypes.CDLL(None)
getattr(libc, "__cxa_atexit")(libc.abort, None, None)  # what a thread of a process group does now and then
if sys.argv[1] == "finished":
    launch.leave_processes()
print("the end", end="")
"""


@pytest.mark.parametrize(
    ("processes", "how", "status"),
    [("2", "finished", 0), ("2", "failed", -signal.SIGABRT), ("1", "finished", -signal.SIGABRT)],
)
def test_a_finished_run_among_several_ends_without_teardown(processes, how, status):
    """Libraries' own handlers run in any case; only a process of several skips the rest."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        env=os.environ | {"WORLD_SIZE": processes},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stderr
    assert done.stdout == "the enda library's handler\n"


WAITING = """
import sys, torch
from datetime import timedelta
from torch import distributed
from metarlgym.runtime.launch import limit_waiting


def limit(group):
    return int(group._get_backend(torch.device("cpu")).options._timeout.total_seconds())


limit_waiting(timedelta(seconds=9))  # one process alone: nothing to wait for
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/store", rank=0, world_size=1)
for seconds in (9, 7):
    limit_waiting(timedelta(seconds=seconds))
print(limit(distributed.group.WORLD), limit(distributed.new_group([0])))
print(limit(distributed.new_group([0], timeout=timedelta(seconds=5))))
"""


def test_collective_operations_are_limited_in_all_groups(tmp_path):
    done = subprocess.run([sys.executable, "-c", WAITING, tmp_path], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["7", "7", "5"], done.stderr
