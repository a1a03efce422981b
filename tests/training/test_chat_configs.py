"""The configs for chat models: each command in their headers is dry-run, on the real shape without weights."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.numpy import save_file
from transformers import LlamaConfig, Qwen3Config

from metarlgym import TaskGroup
from metarlgym.cli.main import main
from metarlgym.models.scratch import chat_tokenizer
from tests.rollout.families import CHATML_MARKS, THINKING, byte_family, trl_template

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "grpo"
REAL_TOKENIZER = ROOT / ".tokenizers" / "qwen3"


def qwen3(hidden_size, intermediate_size, layers, heads, tied=True):
    return Qwen3Config(
        vocab_size=151_936,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40_960,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=tied,
        dtype="bfloat16",
        architectures=["Qwen3ForCausalLM"],
    )


SMOLLM2 = LlamaConfig(
    vocab_size=49_152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
    architectures=["LlamaForCausalLM"],
)
MODELS = {  # the published shapes, and their numbers of parameters
    "chat_doors_smollm2": (SMOLLM2, 134_515_008),
    "chat_doors_qwen3_0.6b": (qwen3(1024, 3072, 28, 16), 596_049_920),
    "chat_doors_qwen3_1.7b": (qwen3(2048, 6144, 28, 16), 1_720_574_976),
    "chat_doors_qwen3_4b": (qwen3(2560, 9728, 36, 32), 4_022_468_096),
    "qwen3_8b_zero3": (qwen3(4096, 12_288, 36, 32, tied=False), 8_190_735_360),
}


def commands(name):
    """The commands in a config's header, as words without variables and launcher."""
    lines = re.findall(r"^#   (.+)$", (CONFIGS / f"{name}.yaml").read_text(), flags=re.M)
    found = [[word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)] for line in lines]
    return [["metarlgym", "train", *w[w.index("metarlgym.train") + 1 :]] if w[0] == "accelerate" else w for w in found]


TRAIN = [(name, words[2:]) for name in MODELS for words in commands(name) if words[:2] == ["metarlgym", "train"]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder for each config: the model's own config.json, its chat template, and no weights."""

    def make(name):
        folder = tmp_path_factory.mktemp(name)
        config, _ = MODELS[name]
        config.save_pretrained(folder)
        save_file({}, folder / "model.safetensors")
        if config is SMOLLM2:
            chat_tokenizer().save_pretrained(folder)
        else:
            byte_family(trl_template("qwen3"), CHATML_MARKS, THINKING).save_pretrained(folder)
        return folder

    return {name: make(name) for name in MODELS}


def dry_run(arguments, folder, tmp_path, capsys, monkeypatch):
    """Status and text of a dry run, on one line."""
    monkeypatch.setenv("COLUMNS", "200")
    given = [*arguments, "--model_name_or_path", str(folder), "--output_dir", str(tmp_path / "run")]
    status = main(["train", *given, "--dry-run"])
    captured = capsys.readouterr()
    return status, " ".join((captured.out + captured.err).split())


@pytest.mark.parametrize(("name", "arguments"), TRAIN, ids=[" ".join(words) for _, words in TRAIN])
def test_dry_run(name, arguments, folders, tmp_path, capsys, monkeypatch):
    assert arguments[:2] == ["--config", name]
    status, text = dry_run(arguments, folders[name], tmp_path, capsys, monkeypatch)
    if "colocate" in arguments and not torch.cuda.is_available():
        assert (status, text) == (
            2,
            "error: vllm_mode='colocate' needs a GPU: use vllm_mode='server', or use_vllm=false.",
        )
        return
    assert status == 0, text
    assert f"{MODELS[name][1]:,} parameters" in text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", MODELS)
def test_header_and_figures(name):
    settings = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    text = " ".join(re.sub(r"^#", "", (CONFIGS / f"{name}.yaml").read_text(), flags=re.M).split())
    group = TaskGroup(settings["env_id"], settings["env_args"])
    assert f"Optimum {group.env.optimal_returns(settings['episodes']).total:.2f}" in text
    assert f"one of {settings['env_args']['doors']} doors pays 1, the safe door 0.4, {settings['episodes']} ep" in text
    processes = 6 if name == "qwen3_8b_zero3" else 1
    rows = settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"] * processes
    # All tasks are in each step, equally often.
    assert rows % (settings["trials_per_task"] * settings["env_args"]["doors"]) == 0
    assert f"step{', one a process' * (processes > 1)}: {rows} trials" in text
    for words in commands(name):
        if words[:2] == ["metarlgym", "serve"]:
            assert words[words.index("--model") + 1] == settings["model_name_or_path"]


def test_servers_are_where_the_config_looks_for_them():
    settings = yaml.safe_load((CONFIGS / "qwen3_8b_zero3.yaml").read_text())
    ports = [words[words.index("--port") + 1] for words in commands("qwen3_8b_zero3") if "--port" in words]
    assert settings["vllm_server_base_url"] == ",".join(f"http://127.0.0.1:{port}" for port in ports) and ports


@pytest.mark.skipif(not REAL_TOKENIZER.exists(), reason="no .tokenizers/qwen3: run scripts/fetch_tokenizers.sh")
def test_dry_run_with_the_real_tokenizer(folders, tmp_path, capsys, monkeypatch):
    name = "chat_doors_qwen3_0.6b"
    folder = shutil.copytree(folders[name], tmp_path / "real")
    for path in REAL_TOKENIZER.iterdir():
        shutil.copy(path, folder)
    status, text = dry_run(["--config", name], folder, tmp_path, capsys, monkeypatch)
    assert status == 0, text
