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
