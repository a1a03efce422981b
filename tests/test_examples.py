"""The examples run, and say in one line what does not fit."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from tiny import byte_parts

import metarlgym

EXAMPLES = Path(metarlgym.__file__).parent / "examples"


def start(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def test_gsm8k_trains_a_tiny_model(tmp_path, monkeypatch):
    model, tokenizer, _ = byte_parts(context=2048)
    model.save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    sizes = ["--trials_per_task", 2, "--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 1]
    start(
        monkeypatch,
        "gsm8k_simple",
        *[
            "--model_name_or_path",
            tmp_path / "tiny",
            "--output_dir",
            tmp_path / "run",
            "--env_args",
            '{"data":"bundled"}',
        ],
        *["--use_vllm", "false", "--max_steps", 2, "--max_action_tokens", 8, "--save_strategy", "no", *sizes],
    )
    assert (tmp_path / "run" / "final" / "model.safetensors").exists()
    assert (tmp_path / "run" / "final" / "tokenizer.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--episodes", 0], "error: episodes=0"),
        (["--use_vllm", "false", "--env_args", "{data}"], "error: env_args='{data}' is not JSON"),
        (["--use_vllm", "false", "--env_args", '{"data": "./nowhere"}'], "error: data='./nowhere': no such file"),
    ],
)
def test_gsm8k_says_what_does_not_fit(monkeypatch, capsys, tmp_path, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        start(monkeypatch, "gsm8k_simple", "--output_dir", tmp_path, *arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(message)


def test_reading_mode_trains_and_reads(tmp_path, monkeypatch, capsys):
    start(monkeypatch, "reading_mode", "--law", "static", "--steps", 1, "--sequences", 20, "--out", tmp_path)
    assert "above the floor" in capsys.readouterr().out and (tmp_path / "read.png").exists()
