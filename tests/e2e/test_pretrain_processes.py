"""Pretraining with two processes, also under ZeRO-3, is the same as with one; and one that is killed and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.e2e.launchers import ROOT, TORCHRUN, ZERO3

pytestmark = pytest.mark.e2e

ARGUMENTS = [
    *("--config", "mbml_transformer", "--source_args", '{"law": "lin", "T": 32}', "--hidden_size", "16"),
    *("--max_steps", "8", "--checkpoints", "2", "--logging_steps", "1", "--eval_sequences", "16"),
    *("--final_eval_sequences", "32", "--use_cpu", "true"),
]


def command(launcher: list[str], folder: Path, *arguments: str) -> list[str]:
    return [*launcher, "-m", "metarlgym.pretrain", *ARGUMENTS, "--output_dir", str(folder), *arguments]


def train(launcher: list[str], folder: Path, batch: int, *arguments: str) -> dict[int, float]:
    """Losses by step."""
    line = command(launcher, folder, "--per_device_train_batch_size", str(batch), *arguments)
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def test_two_processes_equal_one(tmp_path):
    """Plain data parallelism, and ZeRO-3, where each process holds half of the weights."""
    one = tmp_path / "one"
    losses = train([sys.executable], one, 16)
    for name, launcher in (("two", TORCHRUN), ("zero3", ZERO3)):
        two = tmp_path / name
        assert train(launcher, two, 8) == pytest.approx(losses, abs=1e-5)
        a, b = (load_file(path / "final" / "model.safetensors") for path in (one, two))
        assert a.keys() == b.keys() and max(float((a[name] - b[name]).abs().max()) for name in a) <= 1e-4
        summaries = [json.loads((path / "summary.json").read_text()) for path in (one, two)]
        assert summaries[0]["final_loss"] == pytest.approx(summaries[1]["final_loss"], abs=1e-5)


def test_chunks_of_the_gradient_are_refused_under_deepspeed(tmp_path):
    line = command(ZERO3, tmp_path / "run", "--gradient_chunk", "8")
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode != 0
    assert "error: gradient_chunk=8 cannot go with DeepSpeed" in done.stderr, done.stdout + done.stderr


def test_processes_that_do_not_know_of_each_other_are_refused(tmp_path):
    """A launcher for GPUs started two where there is none."""
    line = command([sys.executable], tmp_path / "run", "--use_cpu", "false")
    variables = {**os.environ, "WORLD_SIZE": "2", "RANK": "0", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(line, capture_output=True, text=True, env=variables, timeout=120, cwd=ROOT)
    assert done.returncode == 2 and "the launcher started 2 processes" in done.stderr, done.stdout + done.stderr
    assert not (tmp_path / "run").exists()


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    """`kill -9` in the middle, then --resume: the same losses and the same weights."""
    changes = ("--max_steps", "40", "--checkpoints", "8", "--variable_length", "true", "--threads", "1")
    whole = train([sys.executable], tmp_path / "whole", 16, *changes)
    cut = tmp_path / "cut"
    line = command([sys.executable], cut, "--per_device_train_batch_size", "16", *changes)
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    deadline = time.monotonic() + 120
    while not list(cut.glob("checkpoint-*/COMPLETE")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (cut / "final").exists()
    assert train([sys.executable], cut, 16, *changes, "--resume") == whole
    steps = [json.loads(line)["step"] for line in (cut / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)  # what came after the checkpoint is there once
    one, two = (load_file(folder / "final" / "model.safetensors") for folder in (cut, tmp_path / "whole"))
    assert all(torch.equal(one[name], two[name]) for name in one)
