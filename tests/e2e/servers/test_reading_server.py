"""A server's prompt log-probabilities are those of the model in this process."""

import json
import subprocess
import sys

import numpy as np
import pytest

from metarlgym.models.loading import load_model, load_tokenizer
from metarlgym.sequences.scoring.log_loss import SymbolCodec, describe_server, read_from_server, read_in_process
from metarlgym.sequences.sources import RLM
from tests.e2e.servers.conftest import ENVIRONMENT, ROOT, Served


@pytest.fixture
def served(models, tmp_path):
    """A server of its own: what the shared ones hold was trained by other tests."""
    server = Served(models["tied"], tmp_path).wait()
    yield server
    server.stop()


def test_server_reads_as_the_model_does(served, models, tmp_path):
    told = describe_server(served.url)
    assert told.max_tokens is not None and told.root == str(models["tied"])
    codec = SymbolCodec(load_tokenizer(told.root), 16)  # bytes: 10..15 are several tokens
    sequences = RLM(16, 4, 2.0).tokens(0, 12)
    done = []
    losses = read_from_server(served.url, told, codec, sequences, progress=done.append)
    here = read_in_process(load_model(str(models["tied"])), codec, sequences)
    assert sum(done) == 12 and losses.shape == (12, 16)
    assert np.nanmax(np.abs(losses - here)) < 1e-3 and (np.isnan(losses) == np.isnan(here)).all()

    out = tmp_path / "read.json"
    command = [sys.executable, "-m", "metarlgym.cli.main", "read", "rlm", "--server", served.url]
    command += ["--source-args", '{"v": 16, "L": 4}', "-n", "5", "--json", str(out)]
    run = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = json.loads(out.read_text())["curves"]
    assert found["above_floor"]["mean"] > 0 and len(found["model"]["by_position"]) == 16

    command[command.index('{"v": 16, "L": 4}')] = '{"v": 16, "L": 12}'
    run = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2 and "more than the model's context" in run.stderr
