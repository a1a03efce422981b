"""Continuous play through three faults: the server killed, one process killed, and resumed each time."""

import json
import re
import signal
from collections import Counter

import psutil

from metarlgym.seeding import derive
from tests.e2e.servers.conftest import (
    LETTERS,
    ZERO3_TRAIN,
    Served,
    end,
    metrics,
    run,
    start,
    training,
    trials,
    wait_for,
)

STEPS, GROUPS, SIZE = 10, 2, 4
"""Steps, groups of a process in each, trials of a group."""
SEED = 42


def test_no_task_is_lost_or_played_twice(models, tmp_path):
    server = Served(models["tied"], tmp_path).wait()
    folder, log = tmp_path / "run", tmp_path / "train.log"
    command = training(ZERO3_TRAIN, LETTERS, server.model, server.url, folder, 8, "--server_retry_seconds", "4")
    command += ["--max_steps", str(STEPS), "--rollouts_ahead", "continuous", "--rollout_concurrency", "6"]
    command += ["--save_strategy", "steps", "--save_steps", "2", "--seed", str(SEED)]

    process = start(command, log)
    try:
        wait_for(lambda: len(metrics(folder)) >= 3, 200, process, log)
        server.kill()
        took = wait_for(lambda: process.poll() is not None, 60)
    finally:
        end(process)
        server.stop()
    told = re.search(r"error:.*", log.read_text())[0]
    print(f"{took:.1f} s after the server was killed: {told}")
    assert re.search(r"did not answer for 4 s of retries|did not get the weights|could not be paused", told)
    step = int(re.search(r"resume from step (\d+) with --resume", told)[1])
    assert (folder / f"checkpoint-{step}" / "COMPLETE").exists()

    server = Served(models["tied"], tmp_path, port=server.port).wait()
    try:
        process = start([*command, "--resume"], log)
        try:
            wait_for(lambda: metrics(folder)[-1]["step"] >= 6, 200, process, log)
            ranks = [p for p in psutil.Process(process.pid).children(recursive=True) if "train" in str(p.cmdline())]
            ranks[-1].send_signal(signal.SIGKILL)
            took = wait_for(lambda: process.poll() is not None, 90)
            _, alive = psutil.wait_procs(ranks, timeout=10)
        finally:
            end(process)
        print(f"{took:.1f} s after one process was killed: status {process.returncode}")
        assert process.returncode != 0 and not alive
        done = run([*command, "--resume"])
    finally:
        server.stop()
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resuming from" in done.stdout and metrics(folder)[-1]["step"] == STEPS

    # Steps that were played again: the last time counts. The main process writes the trials of its own groups.
    steps = {}
    for line in trials(folder):
        trial = json.loads(line)
        steps.setdefault(trial["step"], []).append(trial["seed"])
    survived = Counter(seed for step in range(STEPS) for seed in steps[step][-GROUPS * SIZE :])
    numbers = range(0, STEPS * GROUPS * 2, 2)
    assert survived == Counter(derive(SEED, "group", number, i) for number in numbers for i in range(SIZE))
