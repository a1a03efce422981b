"""The README's first command, as a new user types it: the model learns to explore."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.e2e


def test_quickstart_learns_to_explore(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "metarlgym.cli.main", "train", "--config", "configs/quickstart.yaml"]
    done = subprocess.run([*command, "--output_dir", str(folder)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "eval.json").read_text())
    print(report["return_mean"], report["curve"], report["controls"])
    assert report["return_mean"] >= 4.40
    assert report["optimum"] == pytest.approx(4.5)
    for value, best in zip(report["curve"], (0.25, 0.5, 0.75, 1, 1, 1), strict=True):
        assert abs(value - best) <= 0.03
    assert max(report["controls"]["shuffled"]["curve"][3:]) <= 0.27
    for name in ("config.yaml", "metrics.jsonl", "trials.jsonl", "adaptation.png", "final/model.safetensors"):
        assert (folder / name).exists(), name
