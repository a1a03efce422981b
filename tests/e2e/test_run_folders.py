"""Run folders with real processes: two at once, killed in the middle of a start, stopped by Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.e2e.launchers import ROOT, TORCHRUN

e2e, slow = pytest.mark.e2e, pytest.mark.slow

TRAIN = [
    *("--env_id", "Doors-v0", "--env_args", '{"doors": 3, "style": "terse"}', "--episodes", "2"),
    *("--trials_per_task", "4", "--per_device_train_batch_size", "8", "--scratch_hidden_size", "16"),
    *("--scratch_layers", "1", "--scratch_heads", "2", "--threads", "1", "--final_eval_trials", "4"),
    *("--max_steps", "100000", "--save_steps", "4", "--save_total_limit", "2", "--imitation_trials", "256"),
]
PRETRAIN = [
    *("--source", "piecewise", "--source_args", '{"law": "lin", "T": 16}', "--hidden_size", "8", "--num_layers", "1"),
    *("--num_heads", "2", "--max_steps", "100000", "--checkpoints", "40", "--eval_sequences", "8", "--threads", "1"),
    *("--use_cpu", "true"),
]
COMMANDS = {"train": TRAIN, "pretrain": PRETRAIN, "selflearn": ["--config", "self_critic", "--only", "score-live-0"]}


def command(kind, folder, *extra, launcher=(sys.executable,)):
    module = ["metarlgym.cli.main", kind] if kind == "selflearn" else [f"metarlgym.{kind}"]
    return [*launcher, "-m", *module, *COMMANDS[kind], "--output_dir", str(folder), *extra]


def start(*args, **kwargs):
    """A run in a process group of its own, so that a signal reaches it as Ctrl-C reaches a terminal's."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
    variables = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command(*args, **kwargs), **pipes, env=variables, start_new_session=True)


def wait_for(process, folder, pattern):
    deadline = time.monotonic() + 240
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def press(process, number=signal.SIGINT):
    """(what was printed, the status, seconds until the end)."""
    began = time.monotonic()
    os.killpg(process.pid, number)
    text, _ = process.communicate(timeout=120)
    return text, process.returncode, time.monotonic() - began


@pytest.mark.parametrize("kind", [pytest.param("train", marks=e2e), pytest.param("pretrain", marks=slow)])
def test_two_at_once(kind, tmp_path):
    folder = tmp_path / "run"
    first = start(kind, folder)
    try:
        wait_for(first, folder, "checkpoint-*/COMPLETE")
        for flags in ((), ("--resume",)) if kind == "train" else (("--resume",),):
            done = subprocess.run(command(kind, folder, *flags), capture_output=True, text=True, cwd=ROOT, timeout=240)
            assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
            assert f"is being written by another process: {first.pid} on " in done.stderr
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    third = start(kind, folder, "--resume")  # the lock of the killed one is taken over
    deadline = time.monotonic() + 240
    lock = folder / "run.lock"
    while not lock.exists() or json.loads(lock.read_text())["pid"] != third.pid:
        assert third.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    text, status, _ = press(third)
    assert status == 130 and "resume with" in text


@pytest.mark.parametrize(
    ("kind", "moment"),
    [
        pytest.param("train", "checkpoint-8/COMPLETE", marks=e2e),
        pytest.param("pretrain", "checkpoint-6/COMPLETE", marks=slow),
    ],
)
def test_ctrl_c(kind, moment, tmp_path):
    folder = tmp_path / "run"
    process = start(kind, folder)
    wait_for(process, folder, moment)
    text, status, seconds = press(process)
    assert status == 130 and "Traceback" not in text and seconds < 60, text
    last = text[text.index("stopped:") :].strip()
    assert "the last complete checkpoint is" in last and last.endswith("--resume") and "\n" not in last
    assert not (folder / "run.lock").exists()


@slow
def test_ctrl_c_in_selflearn(tmp_path):
    folder = tmp_path / "run"
    process = start("selflearn", folder)
    wait_for(process, folder, "variants/*.jsonl")
    text, status, _ = press(process)
    assert status == 130 and "Traceback" not in text and "is left as it was" in text, text
    assert not folder.exists()


@slow
def test_ctrl_c_of_two_processes(tmp_path):
    folder = tmp_path / "run"
    process = start("train", folder, "--use_cpu", "true", launcher=TORCHRUN)
    wait_for(process, folder, "checkpoint-8/COMPLETE")
    text, status, seconds = press(process)
    assert status != 0 and text.count("stopped: step") == 1 and seconds < 90, text
    assert "resume with: the same command and --resume" in text
    assert not (folder / "run.lock").exists()


@slow
def test_two_processes_hear_of_a_refusal(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("a: 1")
    done = subprocess.run(
        command("train", folder, "--use_cpu", "true", launcher=TORCHRUN), capture_output=True, text=True, timeout=240
    )
    assert done.returncode != 0 and done.stderr.count("error: output_dir=") == 1, done.stderr
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("number", [pytest.param(signal.SIGKILL, marks=slow), pytest.param(signal.SIGTERM, marks=e2e)])
def test_stopped_in_the_middle_of_the_warm_up(number, tmp_path):
    folder = tmp_path / "runs" / "a"
    process = start("train", folder, "--imitation_trials", "20000")
    wait_for(process, folder, "run.json")
    time.sleep(0.5)
    text, status, _ = press(process, number)
    if number == signal.SIGKILL:
        assert (folder / "run.json").exists()  # undone by the next start
    else:
        assert status == 128 + number and "before the first step was done" in text and "Traceback" not in text, text
        assert not (tmp_path / "runs").exists()
    again = start("train", folder)
    wait_for(again, folder, "checkpoint-4/COMPLETE")
    press(again)
