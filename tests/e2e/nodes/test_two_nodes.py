"""One training run on two nodes, each with a launcher of its own, and two servers on a third: as on one machine."""

from contextlib import ExitStack

import pytest
from safetensors.torch import load_file

from tests.e2e.nodes.conftest import launchers
from tests.e2e.servers.conftest import LETTERS, ONE, end, metrics, run, start, training, trials

STEPS = 4


def test_two_nodes_train_as_one_machine_does(nodes, servers, tmp_path):
    urls = ",".join(server.url for server in servers)
    arguments = ["--max_steps", str(STEPS)]

    def command(launcher, name, rows):
        return training(launcher, LETTERS, servers[0].model, urls, tmp_path / name, rows, *arguments)

    done = run(command(nodes.inside("node1", ONE), "one", 8), 600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-10000:]
    logs = {node: tmp_path / f"{node}.log" for node in launchers(nodes)}
    with ExitStack() as ending:
        running = {}
        for node, launcher in launchers(nodes).items():
            running[node] = start(command(launcher, "two", 4), logs[node])
            ending.callback(end, running[node])
        for node, process in running.items():
            assert process.wait(600) == 0, logs[node].read_text()[-10000:]

    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert len(one) == len(two) == STEPS
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-4), a["step"]
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-4, abs=1e-6), a["step"]
        assert b["trial_return"] == pytest.approx(a["trial_return"], abs=1e-6)  # of all trials, on both nodes
    assert any(entry["grad_norm"] > 1e-3 for entry in one)  # otherwise equality would mean nothing
    worst = max(entry["sampling/sampling_logp_difference/max"] for entry in one + two)
    assert worst <= 1e-4
    # The main process writes the trials it played itself: the first half of them on two nodes.
    played = [trials(tmp_path / name) for name in ("one", "two")]
    assert [line for i, line in enumerate(played[0]) if i % 8 < 4] == played[1]
    weights = [load_file(tmp_path / name / "final" / "model.safetensors") for name in ("one", "two")]
    start_weights = load_file(servers[0].model / "model.safetensors")
    gap = max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0])
    moved = max(float((weights[0][name] - start_weights[name]).abs().max()) for name in start_weights)
    asked = [server.log.read_text().count("POST /v1/completions") for server in servers]
    print(f"logp difference at most {worst:.2g}; final weights apart {gap:.2g}, moved {moved:.2g}; requests {asked}")
    assert gap <= 1e-4 < moved
    assert min(asked) > sum(asked) / 4  # both servers played
