"""`kill -9` at a random step, then `--resume`: the same tasks and, to the last bit, the same final weights."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.e2e

SAMPLES = 4
SMALL = [
    *("--config", "quickstart", "--max_steps", "24", "--save_steps", "4", "--save_total_limit", "10"),
    *("--per_device_train_batch_size", "64", "--imitation_trials", "512", "--imitation_max_steps", "20"),
    *("--sample_every", "1", "--sample_trials", str(SAMPLES), "--logging_steps", "1", "--final_eval_trials", "0"),
]


def start(folder: Path, *extra: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "metarlgym.train", *SMALL, "--output_dir", str(folder), *extra]
    with (folder.parent / f"{folder.name}.log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "COLUMNS": "200"})


def last_step(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def trials_by_step(folder: Path) -> dict[int, list[str]]:
    """Sampled trials by step, as last played: the steps after the checkpoint were played again after the restart."""
    by_step: dict[int, list[str]] = defaultdict(list)
    for line in (folder / "trials.jsonl").read_text().splitlines():
        by_step[json.loads(line)["step"]].append(line)
    return {step: lines[-SAMPLES:] for step, lines in by_step.items()}


def test_killed_and_resumed_run_ends_in_the_same_weights(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait(timeout=600) == 0, (tmp_path / "whole.log").read_text()

    step = random.randint(5, 20)
    process = start(killed)
    deadline = time.monotonic() + 600
    while last_step(killed) < step:
        assert process.poll() is None, (tmp_path / "killed.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    print(f"killed after step {last_step(killed)}")
    assert not (killed / "final").exists()
    assert start(killed, "--resume").wait(timeout=600) == 0, (tmp_path / "killed.log").read_text()

    expected = load_file(whole / "final" / "model.safetensors")
    found = load_file(killed / "final" / "model.safetensors")
    assert expected.keys() == found.keys()
    assert all(expected[name].equal(found[name]) for name in expected)
    assert trials_by_step(whole) == trials_by_step(killed)
