"""A cable pulled while two nodes train: every side ends in time and says why, and the servers can be used again.

benchmarks/results/two_nodes.md has what was seen. Takes about twenty minutes, most of it waiting.
"""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.e2e.nodes.conftest import launchers
from tests.e2e.servers.conftest import LETTERS, Served, end, metrics, start, training, wait_for

pytestmark = pytest.mark.slow

DDP_TIMEOUT = 70
"""Seconds: the least that the other time limits allow."""
LIMITS = ["--ddp_timeout", str(DDP_TIMEOUT), "--vllm_server_timeout", "10", "--weight_sync_timeout", "10"]
LIMITS += ["--server_retry_seconds", "10", "--max_steps", "1000"]
WITHIN = {
    "training": ["--num_iterations", "500"],  # optimizer steps without rollouts in between
    "weight sync": [],
    "rollout": ["--max_action_tokens", "64", "--episodes", "6"],
}
"""What makes a phase long enough to be hit, by phase."""
NO_ANSWER = "the run's other processes do not answer"
NO_WEIGHTS = "the vLLM servers did not get the weights"
NO_SERVER = "did not answer for 10 s of retries"

ASK = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=30)"


def reached(when: str, server: Served) -> Callable[[], bool]:
    """A condition that becomes true when a run is next in the middle of this phase."""
    begun = server.log.read_text().count("POST /start_weight_update")

    def syncing() -> bool:
        return server.log.read_text().count("POST /start_weight_update") > begun

    def playing() -> bool:
        text = server.log.read_text()
        return 3 < text[text.rfind("POST /reset_prefix_cache") :].count("POST /v1/completions") < 12

    return {"training": lambda: True, "weight sync": syncing, "rollout": playing}[when]


@pytest.mark.parametrize(
    ("cut", "when", "told"),
    [
        ("node1", "training", NO_ANSWER),
        ("node2", "training", NO_ANSWER),
        ("node1", "weight sync", NO_ANSWER),
        ("node2", "weight sync", NO_ANSWER),
        ("server", "weight sync", NO_WEIGHTS),
        ("node1", "rollout", NO_ANSWER),
        ("node2", "rollout", NO_ANSWER),
        ("server", "rollout", NO_SERVER),
    ],
)
def test_every_side_ends_and_says_why(cut, when, told, nodes, servers, tmp_path):
    urls = ",".join(server.url for server in servers)
    logs = [tmp_path / "node1.log", tmp_path / "node2.log"]
    with ExitStack() as undo:
        running = []
        for launcher, log in zip(launchers(nodes).values(), logs, strict=True):
            command = training(launcher, LETTERS, servers[0].model, urls, tmp_path / "run", 4, *LIMITS, *WITHIN[when])
            running.append(start(command, log))
            undo.callback(end, running[-1])
        wait_for(lambda: len(metrics(tmp_path / "run")) >= 2, 400, running[0], logs[0])
        wait_for(reached(when, servers[0]), 60, running[0], logs[0])
        nodes.cut(cut)
        undo.callback(nodes.mend, cut)
        begin, took = time.monotonic(), {}
        while len(took) < 2 and time.monotonic() - begin < DDP_TIMEOUT + 60:
            for i, process in enumerate(running):
                if process.poll() is not None:
                    took.setdefault(i, time.monotonic() - begin)
            time.sleep(0.1)
        texts = [log.read_text() for log in logs]
        said = [re.findall(r"^error: .*", text, re.MULTILINE) for text in texts]
        print(f"{cut} cut off in {when}: {took}, {said}")
        assert set(took) == {0, 1}, "".join(text[-3000:] for text in texts)
    for lines in said:
        assert len(lines) == 1 and told in lines[0]
    if cut == "server":
        assert re.search(r"resume from step \d+ with --resume", said[0][0])
    for server in servers:
        command = nodes.inside("node1", [sys.executable, "-c", ASK, f"{server.url}/health"])
        assert subprocess.run(command, timeout=60).returncode == 0
