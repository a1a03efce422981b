"""The two terminals of the site without a GPU, typed as they are written."""

import json
import os
import re
import signal
import socket
import subprocess

import pytest

from tests.e2e.servers.conftest import ENVIRONMENT, ROOT, end, metrics, wait_for

PAGE = (ROOT / "docs" / "tutorials" / "two_terminals.md").read_text()
SECTION = PAGE.split("## Without a GPU\n", 1)[1].split("\n## ", 1)[0]
ONCE, SERVE, TRAIN = re.findall(r"```sh\n(.*?)```", SECTION, flags=re.S)


def test_two_terminals(tmp_path):
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 8000)) == 0:
            pytest.skip("port 8000, which the page uses, is taken")
    for name in ("configs", ".venv-vllm-cpu"):
        (tmp_path / name).symlink_to(ROOT / name)
    first, rest = ONCE.split("\n", 1)
    assert first == "scripts/prepare_cpu_vllm.sh"  # whoever runs this test has run it
    plain = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONPATH"}
    subprocess.run(["bash", "-ec", rest], cwd=tmp_path, check=True, env=plain)

    log = tmp_path / "terminal1.log"
    with log.open("w") as sink:
        server = subprocess.Popen(
            ["bash", "-ec", SERVE],
            cwd=tmp_path,
            stdout=sink,
            stderr=sink,
            env=plain,
            start_new_session=True,
            # As in a terminal; a shell that runs these tests in the background has Ctrl-C ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        wait_for(lambda: "ready: runs/tiny at http://127.0.0.1:8000" in log.read_text(), 300, server, log)
        done = subprocess.run(
            ["bash", "-ec", TRAIN], cwd=tmp_path, env=plain, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    finally:
        os.killpg(server.pid, signal.SIGINT)  # Ctrl-C
        try:
            assert server.wait(60) == 130
        finally:
            end(server)
    folder = tmp_path / "runs" / "two_terminals"
    steps = metrics(folder)
    assert len(steps) == 10
    assert max(entry["sampling/sampling_logp_difference/max"] for entry in steps) <= 1e-4
    assert (folder / "final" / "model.safetensors").exists()
    assert json.loads((folder / "eval.json").read_text())["errors"] == 0
