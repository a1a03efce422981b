"""`kill -9` of everything under ZeRO-3, then `--resume`: the run is the one it would have been."""

import json

import pytest
from safetensors.torch import load_file

from tests.e2e.servers.conftest import LETTERS, ZERO3_TRAIN, end, metrics, run, start, training, trials, wait_for


def test_killed_and_resumed_under_zero3(serve, tmp_path):
    server = serve("tied")
    saving = ["--save_strategy", "steps", "--save_steps", "3", "--max_steps", "9"]
    whole, killed, log = tmp_path / "whole", tmp_path / "killed", tmp_path / "train.log"
    done = run(training(ZERO3_TRAIN, LETTERS, server.model, server.url, whole, 4, *saving))
    assert done.returncode == 0, done.stderr[-3000:]

    command = training(ZERO3_TRAIN, LETTERS, server.model, server.url, killed, 4, *saving)
    process = start(command, log)
    try:
        wait_for(lambda: len(metrics(killed)) >= 5, 200, process, log)
    finally:
        end(process)
    print(f"killed after step {metrics(killed)[-1]['step']}")
    assert not (killed / "final").exists()
    done = run([*command, "--resume"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert "checkpoint-3" in done.stdout

    first = {entry["step"]: entry for entry in metrics(whole)}
    second = {entry["step"]: entry for entry in metrics(killed)}  # steps played again: the last one counts
    assert sorted(first) == sorted(second) == list(range(1, 10))
    gap = max(abs(first[step]["loss"] - second[step]["loss"]) for step in first)
    print(f"losses apart {gap:.2g}")
    assert gap <= 1e-5
    for step in first:
        assert second[step]["grad_norm"] == pytest.approx(first[step]["grad_norm"], rel=1e-4), step

    def by_step(folder):
        lines = {}
        for line in trials(folder):
            lines.setdefault(json.loads(line)["step"], []).append(line)
        return {step: found[-4:] for step, found in lines.items()}

    assert by_step(whole) == by_step(killed)
    a, b = (load_file(folder / "final" / "model.safetensors") for folder in (whole, killed))
    apart = max(float((a[name] - b[name]).abs().max()) for name in a)
    print(f"final weights apart {apart:.2g}")
    assert apart <= 1e-4
