"""The README's first command: the model learns to explore."""

import json

import pytest

pytestmark = pytest.mark.e2e


def test_quickstart_learns_to_explore(quickstart):
    folder = quickstart / "runs" / "quickstart"
    report = json.loads((folder / "eval.json").read_text())
    print(report["return_mean"], report["curve"], report["controls"])
    assert report["return_mean"] >= 4.40
    assert report["optimum"] == pytest.approx(4.5)
    for value, best in zip(report["curve"], (0.25, 0.5, 0.75, 1, 1, 1), strict=True):
        assert abs(value - best) <= 0.03
    assert max(report["controls"]["shuffled"]["curve"][3:]) <= 0.25
    for name in ("config.yaml", "metrics.jsonl", "trials.jsonl", "adaptation.png", "final/model.safetensors"):
        assert (folder / name).exists(), name
