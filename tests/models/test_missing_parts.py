"""Model folders without some tensors or tokenizer files, or with another config: refused, with names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import make_model

from metarlgym import ConfigError
from metarlgym.cli.main import main
from metarlgym.models.loading import load_config, load_model, load_tokenizer
from metarlgym.models.saveable import first_line
from metarlgym.models.scratch import ScratchArguments, chat_tokenizer, scratch_model

GATE = "model.layers.0.mlp.gate_proj.weight"
WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path):
    """A chat model's folder that a test may damage."""
    tokenizer = chat_tokenizer()
    make_model(tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def refusal(load, path):
    with pytest.raises(ConfigError) as caught:
        load(str(path))
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"model_name_or_path={str(path)!r} ")
    return str(caught.value)


def change(file, add=None, remove=()):
    tensors = {name: value for name, value in load_file(file).items() if name not in remove}
    save_file({**tensors, **(add or {})}, file, metadata={"format": "pt"})


# ---------------------------------------------------------------------- tensors


def test_a_missing_tensor_is_named(folder):
    change(folder / WEIGHTS, remove=[GATE])
    line = refusal(load_model, folder)
    assert f"cannot be loaded: the weights lack the tensor {GATE}: save the model again" in line


def test_several_missing_tensors_are_counted(folder):
    change(folder / WEIGHTS, remove=[GATE, "model.norm.weight", "lm_head.weight"])
    assert "lack the tensor lm_head.weight (and 2 more)" in refusal(load_model, folder)


@pytest.mark.parametrize("command", ["eval", "read", "train", "pretrain"])
def test_every_command_refuses_it(folder, command, tmp_path, capsys):
    change(folder / WEIGHTS, remove=[GATE])
    arguments = {
        "eval": ["eval", "--model", str(folder), "--env", "Doors-v0", "--trials", "2"],
        "read": ["read", "piecewise", "--model", str(folder), "-n", "2"],
        "train": ["train", "--config", "quickstart", "--model_name_or_path", str(folder)],
        "pretrain": ["pretrain", "--config", "mbml_transformer", "--model_name_or_path", str(folder)],
    }[command]
    if command in ("train", "pretrain"):
        arguments += ["--output_dir", str(tmp_path / "run"), "--max_steps", "1"]
    assert main(arguments) != 0
    assert f"the weights lack the tensor {GATE}" in capsys.readouterr().err


def test_tied_weights_are_not_missing_and_unused_ones_are_allowed(folder, tmp_path):
    tied = scratch_model(ScratchArguments(scratch_hidden_size=16, scratch_heads=2), chat_tokenizer(), 64, 0, tied=True)
    tied.save_pretrained(tmp_path / "tied")
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / WEIGHTS)
    model = load_model(str(tmp_path / "tied"))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    change(folder / WEIGHTS, add={"extra.weight": torch.zeros(2)})
    load_model(str(folder))


def test_a_config_of_another_model_names_tensor_and_shapes(folder):
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] = 32
    (folder / "config.json").write_text(json.dumps(config))
    line = refusal(load_model, folder)
    assert "the tensor model.layers.0.mlp.down_proj.weight has shape 16 x 64 in the weights and 16 x 32 by" in line
    assert "config.json (and 2 more): use the config.json that was saved with the weights." in line


def test_adapters(folder, tmp_path):
    """An adapter is checked too, and so is its base model."""
    settings = LoraConfig(r=2, target_modules=["q_proj", "gate_proj"], init_lora_weights=False)
    made = get_peft_model(load_model(str(folder)), settings).eval()
    made.peft_config["default"].base_model_name_or_path = str(folder)
    made.save_pretrained(tmp_path / "adapter")
    ids = torch.arange(3, 9)[None]
    loaded = load_model(str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(loaded(ids).logits, made(ids).logits)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    first = min(load_file(file))
    change(file, remove=[first])
    assert "the weights lack the tensor model.layers.0.mlp.gate_proj.lora_A" in refusal(
        load_model, tmp_path / "adapter"
    )
    change(folder / WEIGHTS, remove=[GATE])
    with pytest.raises(ConfigError, match=rf"{folder}' cannot be loaded: the weights lack the tensor {GATE}"):
        load_model(str(tmp_path / "adapter"))


# ---------------------------------------------------------------------- tokenizers


@pytest.mark.parametrize(
    "lost",
    [
        ["tokenizer.json"],
        ["tokenizer.json", "tokenizer_config.json"],
        ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"],
    ],
    ids=len,
)
def test_missing_tokenizer_files(folder, lost):
    for name in lost:
        (folder / name).unlink()
    line = refusal(load_tokenizer, folder)
    assert "has no tokenizer.json, and no other file with a tokenizer's vocabulary: copy the tokenizer's files" in line


def test_a_tokenizer_needs_only_its_vocabulary(folder):
    (folder / "tokenizer_config.json").unlink()
    assert len(load_tokenizer(str(folder))) >= 259


def test_an_error_that_goes_on_in_the_next_line_is_not_cut():
    text = "Couldn't instantiate it from one of: \n(1) a file, \n(2) a slow one to convert or \n(3) a class.\nMore."
    assert first_line(ValueError(text)) == (
        "Couldn't instantiate it from one of: (1) a file, (2) a slow one to convert or (3) a class"
    )


# ---------------------------------------------------------------------- folders


def test_a_mistyped_folder_is_told_apart_from_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for load in (load_config, load_tokenizer, load_model):
        line = refusal(load, Path("nm/k"))
        assert line.endswith(f"; and there is no folder 'nm/k' here (relative to {str(tmp_path)!r}).")
