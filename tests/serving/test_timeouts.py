"""Waiting with a limit, and the last resort."""

import subprocess
import sys
import threading
import time

import pytest

from metarlgym.serving.timeouts import WeightSyncError, in_background, last_resort, wait_for_all

HANG = """
import time
from metarlgym.serving import timeouts
timeouts.GRACE = 0.5
with timeouts.last_resort(SECONDS, "sending weights", lambda: REFUSAL):
    time.sleep(3600)
"""


@pytest.mark.parametrize(
    ("seconds", "refusal", "words"),
    [
        ("0.5", "None", "longer than weight_sync_timeout=0.5 s"),
        ("300", "'http://a answered HTTP 500'", "http://a answered"),
    ],
)
def test_what_hangs_for_ever_is_ended_with_a_reason(seconds, refusal, words):
    program = HANG.replace("SECONDS", seconds).replace("REFUSAL", refusal)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "error: sending weights failed: " in done.stderr and words in done.stderr and "--resume" in done.stderr


def test_what_ends_in_time_is_left_alone():
    with last_resort(0.2, "work", lambda: None):
        time.sleep(0.05)
    time.sleep(0.6)


def test_the_first_failure_is_raised_at_once():
    def fail():
        raise ValueError("no")

    forever = in_background(threading.Event().wait)
    begin = time.monotonic()
    with pytest.raises(ValueError, match="no"):
        wait_for_all([forever, in_background(fail)], 60, "work")
    assert time.monotonic() - begin < 50  # not after the 60 s
    with pytest.raises(WeightSyncError, match=r"work took longer than weight_sync_timeout=0.2 s"):
        wait_for_all([forever], 0.2, "work")
