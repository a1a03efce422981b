"""Two processes, under torchrun or with weights in shards, play and train the same as one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.e2e.launchers import ROOT, TORCHRUN, ZERO3

pytestmark = pytest.mark.e2e

ARGUMENTS = [
    *("--config", "quickstart", "--max_steps", "6", "--save_strategy", "no", "--imitation_trials", "0"),
    *("--sample_every", "1", "--sample_trials", "4", "--logging_steps", "1", "--final_eval_trials", "64"),
    *("--eval_strategy", "steps", "--eval_steps", "3", "--eval_trials", "64"),
]


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def train(launcher: list[str], folder: Path, batch: int) -> None:
    command = [*launcher, "-m", "metarlgym.train", *ARGUMENTS, "--output_dir", str(folder)]
    command += ["--per_device_train_batch_size", str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("processes") / "one"
    train([sys.executable], folder, 64)
    return folder


@pytest.mark.parametrize("launcher", [TORCHRUN, ZERO3], ids=["torchrun", "ZeRO-3"])
def test_two_processes_equal_one(launcher, one, tmp_path):
    two = tmp_path / "two"
    train(launcher, two, 32)

    played = [(folder / "trials.jsonl").read_text().splitlines() for folder in (one, two)]
    assert played[0] == played[1]
    for first, second in zip(metrics(one), metrics(two), strict=True):
        for name in ("grad_norm", "trial_return", "eval_return", "zero_signal_groups"):
            assert (name in first) == (name in second)
            if name in first:
                assert second[name] == pytest.approx(first[name], rel=1e-4, abs=1e-6), (name, first["step"])
    a, b = (load_file(folder / "final" / "model.safetensors") for folder in (one, two))
    assert max(float((a[name] - b[name]).abs().max()) for name in a) <= 1e-4
