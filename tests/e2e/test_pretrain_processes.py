"""Pretraining with two processes, also under ZeRO-3, is the same as with one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.e2e.launchers import ROOT, TORCHRUN, ZERO3

pytestmark = pytest.mark.e2e

ARGUMENTS = [
    *("--config", "mbml_transformer", "--source_args", '{"law": "lin", "T": 32}', "--hidden_size", "16"),
    *("--max_steps", "8", "--checkpoints", "2", "--logging_steps", "1", "--eval_sequences", "16"),
    *("--final_eval_sequences", "32", "--use_cpu", "true"),
]


def train(launcher: list[str], folder: Path, batch: int) -> dict[int, float]:
    """Losses by step."""
    command = [*launcher, "-m", "metarlgym.pretrain", *ARGUMENTS, "--output_dir", str(folder)]
    command += ["--per_device_train_batch_size", str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT)
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
    command = [*ZERO3, "-m", "metarlgym.pretrain", *ARGUMENTS, "--output_dir", str(tmp_path / "run")]
    done = subprocess.run([*command, "--gradient_chunk", "8"], capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode != 0
    assert "error: gradient_chunk=8 cannot go with DeepSpeed" in done.stderr, done.stdout + done.stderr
