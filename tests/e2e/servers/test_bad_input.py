"""Mistakes in settings are told in one line before the first rollout, and before the run's folder is made."""

import http.server
import threading

from tests.e2e.servers.conftest import LETTERS, ONE, ZERO3, free_port, run, training


def check(done, folder, *marks):
    print(done.stderr.strip()[-400:])
    lines = [line for line in done.stderr.splitlines() if "error: " in line]
    assert done.returncode != 0 and len(lines) == 1, done.stderr[-3000:]
    for mark in marks:
        assert mark in lines[0]
    assert not folder.exists()


def test_another_tokenizer(serve, models, tmp_path):
    server = serve("tied")
    doors = ["--env_id", "Doors-v0", "--env_args", '{"style": "terse"}']
    done = run(training(ONE, doors, models["doors"], server.url, tmp_path / "run", 8))
    check(done, tmp_path / "run", "vllm_server_base_url=", "tokenizer differs", "Serve the same model")


def test_a_port_where_something_else_listens(models, tmp_path):
    other = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{other.server_address[1]}"
    try:
        done = run(training(ONE, LETTERS, models["tied"], url, tmp_path / "run", 8))
    finally:
        other.shutdown()
    check(done, tmp_path / "run", url, "not a vLLM server", "port")


AS_ON_ANOTHER_NODE = """
import os, sys
if os.environ["RANK"] == "1":  # this node has no such folder
    place = sys.argv.index("--model_name_or_path") + 1
    sys.argv[place] += "-not-here"
from metarlgym.train import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_model_that_one_node_lacks(models, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(AS_ON_ANOTHER_NODE)
    launcher = [*ZERO3, str(script)]
    done = run(training(launcher, LETTERS, models["tied"], f"http://127.0.0.1:{free_port()}", tmp_path / "run", 4))
    check(done, tmp_path / "run", "-not-here'", "no such folder", "on process 1")
