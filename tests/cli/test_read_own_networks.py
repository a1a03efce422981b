"""`metarlgym read` and the other commands load networks that only this package has."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from metarlgym.models.loading import load_config, load_model
from metarlgym.models.networks import NetworkArguments, make_network

OWN = {name: {"network": name} for name in ("rnn", "lstm", "stack_rnn")} | {"relative": {"positions": "relative"}}


@pytest.mark.parametrize("name", OWN)
def test_reads_networks_of_ours(name, tmp_path):
    from typer.testing import CliRunner

    from metarlgym.cli.main import app

    make_network(NetworkArguments(hidden_size=16, **OWN[name]), 2, 32).save_pretrained(tmp_path / "net")
    out = tmp_path / "read.json"
    command = ["read", "piecewise", "--model", str(tmp_path / "net"), "--source-args", '{"T": 8}', "-n", "4"]
    result = CliRunner().invoke(app, [*command, "--json", str(out)])
    assert result.exit_code == 0, result.output
    assert len(json.loads(out.read_text())["curves"]["model"]["by_position"]) == 8


@pytest.mark.slow
def test_loading_registers_them_in_a_fresh_process(tmp_path):
    """The tests import the networks; a command does not."""
    for name, kind in OWN.items():
        make_network(NetworkArguments(hidden_size=16, **kind), 2, 32).save_pretrained(tmp_path / name)
    code = "import sys; from metarlgym.models.loading import load_config, load_model\n" + "\n".join(
        f"load_{what}(sys.argv[1] + '/{name}')" for name, what in zip(OWN, ("config", "model") * 2)
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert load_config(str(tmp_path / "lstm")).cell == type(load_model(str(tmp_path / "lstm")).config)().cell
