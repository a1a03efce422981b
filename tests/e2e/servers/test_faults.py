"""What goes wrong between a trainer and its servers: what the user is told, and after how long. Nothing hangs, and no
trial is lost in silence."""

import json
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import requests
from transformers import AutoModelForCausalLM

from metarlgym.serving.weight_sync import ServerGroupClient
from tests.e2e.servers.conftest import (
    LETTERS,
    ONE,
    ZERO3_TRAIN,
    Served,
    end,
    free_port,
    metrics,
    run,
    start,
    start_model,
    training,
    trials,
    wait_for,
)
from tests.e2e.servers.proxy import FaultyProxy


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    """A served model whose update takes long enough to be broken off in its middle."""
    folder = tmp_path_factory.mktemp("larger")
    server = Served(start_model(folder / "model", "--hidden-size", "256", "--layers", "8"), folder).wait()
    yield server
    server.stop()


def in_a_rollout(server) -> bool:
    """Whether the server has answered some of a rollout's requests, and not yet most of them."""
    text = server.log.read_text()
    return 10 < text[text.rfind("POST /reset_prefix_cache") :].count("POST /v1/completions") < 60


def in_flight(server) -> int:
    """Requests that the server's engine is working on."""
    text = requests.get(f"{server.url}/metrics", timeout=30).text
    return int(float(re.search(r"^vllm:num_requests_running\S* (\S+)$", text, re.MULTILINE)[1]))


def test_no_server(models, tmp_path):
    command = training(
        ONE,
        LETTERS,
        models["tied"],
        f"http://127.0.0.1:{free_port()}",
        tmp_path / "run",
        8,
        "--vllm_server_timeout",
        "3",
    )
    begin = time.monotonic()
    done = run(command)
    print(f"{time.monotonic() - begin:.1f} s: {done.stderr.strip()}")
    assert done.returncode == 2
    waited = re.search(r"no vLLM server answered in (\d+) s", done.stderr)
    assert waited and int(waited[1]) <= 5
    assert "metarlgym serve" in done.stderr
    assert not (tmp_path / "run").exists()


def test_server_killed_in_a_rollout_then_resumed(models, tmp_path):
    server = Served(models["tied"], tmp_path).wait()
    folder, log = tmp_path / "run", tmp_path / "train.log"
    command = training(ZERO3_TRAIN, LETTERS, server.model, server.url, folder, 16, "--server_retry_seconds", "4")
    command += ["--max_steps", "6"]
    process = start(command, log)
    try:
        wait_for(lambda: len(metrics(folder)) >= 3 and in_a_rollout(server), 200, process, log)
        server.kill()
        took = wait_for(lambda: process.poll() is not None, 60)
    finally:
        end(process)
        server.stop()
    text = log.read_text()
    told = re.search(r"error:.*", text)[0]
    print(f"{took:.1f} s after the kill: {told}")
    assert text.count("error: ") == 1  # one process speaks for all
    assert "did not answer for 4 s of retries" in told
    step = int(re.search(r"resume from step (\d+) with --resume", told)[1])
    assert (folder / f"checkpoint-{step}" / "COMPLETE").exists()
    before = [json.loads(line) for line in trials(folder)]

    server = Served(models["tied"], tmp_path, port=server.port).wait()
    try:
        done = run([*command, "--resume"])
    finally:
        server.stop()
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"resuming from {folder}/checkpoint-{step}" in done.stdout
    assert metrics(folder)[-1]["step"] == 6
    # The tasks go on where they stood: no step is missing, and none of the tasks played before comes again.
    after = [json.loads(line) for line in trials(folder)]
    assert sorted({t["step"] for t in after}) == list(range(6))
    assert after[: len(before)] == before
    again = [t for t in after[len(before) :] if t["step"] < step]
    assert not again


@pytest.mark.parametrize("fault", ["hung", "killed"])
def test_server_lost_during_a_weight_sync(fault, larger, tmp_path):
    server = larger  # the second run finds it as the first has left it: in the middle of an update
    folder, log = tmp_path / "run", tmp_path / "train.log"
    command = training(ZERO3_TRAIN, LETTERS, server.model, server.url, folder, 4, "--weight_sync_timeout", "8")
    process = start(command, log)

    def begun() -> int:
        return server.log.read_text().count("POST /start_weight_update")

    try:
        wait_for(lambda: len(metrics(folder)) >= 2, 200, process, log)
        count = begun()
        wait_for(lambda: begun() > count, 60, process, log)
        server.signal(signal.SIGSTOP)
        if fault == "killed":
            server.kill()
        took = wait_for(lambda: process.poll() is not None, 60)
    finally:
        end(process)
        if fault == "hung":
            server.signal(signal.SIGCONT)
    told = re.search(r"error:.*", log.read_text())
    assert told, log.read_text()[-3000:]
    print(f"{took:.1f} s: {told[0]}")
    assert "did not get the weights" in told[0] and "--resume" in told[0]
    step = int(re.search(r"resume from step (\d+)", told[0])[1])
    assert (folder / f"checkpoint-{step}" / "COMPLETE").exists()
    assert took < 8 + 20


def test_one_process_killed(serve, tmp_path):
    server = serve("tied")
    folder, log = tmp_path / "run", tmp_path / "train.log"
    process = start(training(ZERO3_TRAIN, LETTERS, server.model, server.url, folder, 16, "--max_steps", "1000"), log)
    try:
        wait_for(lambda: len(metrics(folder)) >= 2, 200, process, log)
        ranks = [
            child for child in psutil.Process(process.pid).children(recursive=True) if "train" in str(child.cmdline())
        ]
        ranks[-1].kill()
        took = wait_for(lambda: process.poll() is not None, 90)
        _, alive = psutil.wait_procs(ranks, timeout=10)
    finally:
        end(process)
    print(f"the launch ended {took:.1f} s after one process was killed, with status {process.returncode}")
    assert process.returncode != 0 and not alive


def test_requests_slower_than_their_deadline(serve, tmp_path):
    server = serve("tied")
    folder, log = tmp_path / "run", tmp_path / "train.log"
    command = training(ONE, LETTERS, server.model, server.url, folder, 16, "--server_request_timeout", "2")
    process = start(command, log)
    try:
        wait_for(lambda: len(metrics(folder)) >= 2 and in_a_rollout(server), 200, process, log)
        server.signal(signal.SIGSTOP)
        time.sleep(4)
        server.signal(signal.SIGCONT)
        assert process.wait(120) == 0, log.read_text()[-3000:]
    finally:
        server.signal(signal.SIGCONT)
        end(process)
    slow = [entry for entry in metrics(folder) if entry["server/deadlines"]]
    stopped = [t for t in map(json.loads, trials(folder)) if t["stop"] == "time_limit"]
    print(f"deadlines by step: {[(e['step'], e['server/deadlines'], e['truncation_rate']) for e in slow]}")
    assert slow and len(stopped) == sum(entry["server/deadlines"] for entry in slow)
    assert len(trials(folder)) == 10 * 16 and metrics(folder)[-1]["step"] == 10


def test_requests_still_running_at_a_weight_update(serve):
    """They would compute with half of the weights, which ends a server: it is paused, and they are broken off."""
    server = serve("tied")
    weights = dict(AutoModelForCausalLM.from_pretrained(server.model).named_parameters())
    metadata = [(name, str(t.dtype).removeprefix("torch."), list(t.shape)) for name, t in weights.items()]
    client = ServerGroupClient(server.url, free_port(), connection_timeout=5, sync_timeout=60)
    client.init_communicator("cpu")
    body = {"model": str(server.model), "prompt": list(range(10, 40)), "max_tokens": 900, "ignore_eos": True}

    def ask() -> str:
        answer = requests.post(f"{server.url}/v1/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]["finish_reason"]

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask) for _ in range(4)]
        wait_for(lambda: in_flight(server) == 4, 60)
        client.update_named_params(metadata, iter(weights.items()))
        assert client.failure is None
        assert [future.result() for future in asked] == ["abort"] * 4
        body["max_tokens"] = 5
        assert ask() == "length"
    client.close_communicator()


def test_context_longer_than_the_servers(models, tmp_path):
    server = Served(models["tied"], tmp_path, "--max-model-len", "220").wait()
    folder = tmp_path / "run"
    try:
        done = run(training(ONE, LETTERS, server.model, server.url, folder, 8, "--max_steps", "3"))
    finally:
        server.stop()
    assert done.returncode == 0, done.stderr[-3000:]
    stops = [json.loads(line)["stop"] for line in trials(folder)]
    print(f"stop reasons: { {reason: stops.count(reason) for reason in set(stops)} }")
    assert len(stops) == 24 and set(stops) == {"context_limit"}
    assert all(entry["truncation_rate"] == 1.0 for entry in metrics(folder))


def test_bursts_of_http_500(serve, tmp_path):
    server = serve("tied")
    proxy = FaultyProxy(server.url, free_port(), 0.2)
    played = {}
    try:
        for name, url in (("plain", server.url), ("faulty", proxy.url)):
            done = run(training(ONE, LETTERS, server.model, url, tmp_path / name, 16, "--max_steps", "4"))
            assert done.returncode == 0, done.stderr[-3000:]
            played[name] = trials(tmp_path / name)
    finally:
        proxy.stop()
    retries = sum(entry["server/retries"] for entry in metrics(tmp_path / "faulty"))
    print(f"{proxy.failed} of {proxy.failed + proxy.passed} requests failed, {retries:.0f} retries")
    assert proxy.failed > 30 and retries >= proxy.failed - 5  # the probe's own request is not a rollout's
    assert played["faulty"] == played["plain"]
    assert {json.loads(line)["stop"] for line in played["faulty"]} == {"terminated"}
