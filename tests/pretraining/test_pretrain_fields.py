"""Every setting of `pretrain` has an effect that a test sees, or is refused in one line when it is given.

The tables below name every field once. A field that a new transformers adds is in none of them, and the first test
fails.
"""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from setting_fields import other, write

from metarlgym import ConfigError
from metarlgym.models.loading import load_model
from metarlgym.pretraining import run as running
from metarlgym.pretraining.refused_fields import NEEDS, REFUSED
from metarlgym.pretraining.run import GROUPS, parse

HERE = Path(__file__)

BASE = {
    "source": "metalm",
    "source_args": {"V": 6, "n": 2, "l": 2, "e": 0.1, "L": 8},
    "hidden_size": 8,
    "num_layers": 1,
    "num_heads": 2,
    "per_device_train_batch_size": 4,
    "max_steps": 3,
    "logging_steps": 1,
    "checkpoints": 1,
    "eval_sequences": 4,
    "final_eval_sequences": 4,
    "threads": 1,
}
SGD = {"optim": "sgd", "learning_rate": 0.1}
GIVEN_MODEL = {"hidden_size": None, "num_layers": None, "num_heads": None, "model_name_or_path": "m"}
OTHER = {"num_heads": None, "network": "lstm"}
WORDS = {"words_of": "MetaLM-v0", "words_args": {"V": 6, "n": 2, "l": 2, "e": 0.1}}
RELATIVE = {"positions": "relative"}

WEIGHTS: dict[str, tuple[dict, object]] = {
    "per_device_train_batch_size": ({}, 2),
    "max_steps": ({}, 2),
    "learning_rate": ({}, 2e-3),
    "lr_scheduler_type": ({}, "linear"),
    "lr_scheduler_kwargs": (
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 0.0}},
        {"min_lr": 9e-4},
    ),
    "warmup_steps": ({}, 2),
    "optim": ({}, "sgd"),
    "optim_args": ({"optim": "rmsprop"}, "momentum=0.9"),
    "weight_decay": (SGD, 0.5),
    "adam_beta1": ({}, 0.5),
    "adam_beta2": ({}, 0.5),
    "adam_epsilon": ({}, 1e-2),
    "gradient_accumulation_steps": ({}, 2),
    "max_grad_norm": (SGD, 1e-2),
    "seed": ({}, 1),
    "source": ({"source_args": None, "eval_sequences": 2}, "piecewise"),
    "source_args": ({}, {"V": 6, "n": 2, "l": 2, "e": 0.4, "L": 8}),
    "source_seed": ({}, 1),
    "loss_on": ({"source": "rlm", "source_args": {"v": 5, "L": 2}}, "last"),
    "gradient_chunk": ({}, 2),
    "variable_length": ({}, True),
    "momentum": (SGD, 0.1),
    "decay_steps": ({}, 30),
    "min_lr_rate": ({}, 0.5),
    "network": ({"num_heads": None}, "lstm"),
    "positions": ({}, "learned"),
    "hidden_size": ({}, 16),
    "num_layers": ({}, 2),
    "num_heads": ({}, 1),
    "widening": ({}, 2),
    "dropout": (RELATIVE, 0.5),
    "sliding_window": (RELATIVE, 2),
    "mlp_before": (OTHER, 1),
    "mlp_after": (OTHER, 1),
    "stacks": ({**OTHER, "network": "stack_rnn"}, 2),
    "stack_cells": ({**OTHER, "network": "stack_rnn", "stacks": 1, "stack_cells": 1}, 4),
    "timescale": (OTHER, 8),
    "init_std": ({}, 0.5),
}
"""Field -> settings of a run, and the value that changes the weights it ends with."""

OWN_TESTS = {
    **dict.fromkeys(
        ("output_dir", "checkpoints", "save_strategy", "save_steps", "save_total_limit"),
        "test_checkpoints_as_asked_for",
    ),
    **dict.fromkeys(("logging_strategy", "logging_steps"), "test_lines_as_asked_for"),
    **dict.fromkeys(("report_to", "run_name", "project"), "test_metrics_are_reported"),
    **dict.fromkeys(("eval_sequences", "final_eval_sequences", "context"), "test_sizes_of_evaluations_and_context"),
    **dict.fromkeys(("words_of", "words_args"), "test_words_of_a_game"),
    "threads": "test_threads",
    "ddp_timeout": "test_the_timeout_of_processes",
}
ELSEWHERE = {
    "model_name_or_path": "test_pretrain_run.py::test_goes_on_from_a_model",
    "resume": "test_pretrain_run.py::test_goes_on_from_a_model",
    "overwrite": "test_pretrain_run.py::test_what_a_run_leaves",
}
NEEDS_A_GPU = {
    "bf16": "autocast to bfloat16 is switched on for GPUs only",
    "fp16": "accelerate's loss scaling needs a GPU",
    "tf32": "a number type of GPUs",
    "use_cpu": "on a CPU nothing changes",
    "use_liger_kernel": "Triton kernels",
    "liger_kernel_config": "Triton kernels",
}


def fields():
    return [item for group in GROUPS for item in dataclasses.fields(group)]


def parsed(folder, *line, **settings):
    return parse(["--config", str(write(folder, **settings)), *line])


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Makes runs; the same settings are run once."""
    known = {}

    def run(**settings):
        key = json.dumps(settings, sort_keys=True)
        if key not in known:
            folder = tmp_path_factory.mktemp("fields")
            parts = parsed(folder, **{**BASE, "output_dir": str(folder / "out"), **settings})
            with pytest.MonkeyPatch.context() as patch:  # pictures take longer than such a run
                patch.setattr(running, "plot_curves", lambda *_: None)
                patch.setattr(running, "plot_dynamics", lambda *_: None)
                running.run_pretraining(parts, Console(file=io.StringIO()))
            known[key] = folder / "out"
        return known[key]

    return run


def weights(folder):
    return torch.cat([p.detach().flatten() for p in load_model(str(folder / "final")).parameters()])


def lines(folder, name):
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return sorted({line["step"] for line in read if name in line})


def test_every_field_is_in_one_table():
    names = [item.name for item in fields()]
    assert len(names) == len(set(names))
    named = [name for table in (WEIGHTS, OWN_TESTS, ELSEWHERE, NEEDS_A_GPU, REFUSED) for name in table]
    assert sorted(set(names) - set(named)) == [], "new fields: show their effect in a test, or refuse them"
    assert sorted(set(named) - set(names)) == [], "these are no fields any more"
    assert sorted(name for name in named if named.count(name) > 1) == []
    for name in set(OWN_TESTS.values()):
        assert f"\ndef {name}(" in HERE.read_text(), name
    for place in set(ELSEWHERE.values()):
        path, name = place.split("::")
        assert f"\ndef {name}(" in (HERE.parent / path).read_text(), place


@pytest.mark.slow
@pytest.mark.parametrize("field", WEIGHTS)
def test_the_weights_change(field, start):
    base, value = WEIGHTS[field]
    before, after = weights(start(**base)), weights(start(**{**base, field: value}))
    assert before.shape != after.shape or (before - after).abs().max() > 1e-6


def refusal(folder, *line, **settings):
    """The line that a start ends with."""
    with pytest.raises(ConfigError) as caught:
        parsed(folder, *line, **{**BASE, **settings})
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("field", REFUSED)
def test_it_is_refused_in_a_file_and_on_the_command_line(field, tmp_path):
    value = other(next(item for item in fields() if item.name == field))
    assert refusal(tmp_path, **{field: value}).startswith(f"{field}=")
    written = json.dumps(value) if isinstance(value, dict) else str(value)
    assert refusal(tmp_path, f"--{field}", written).startswith(f"{field}=")


SET = {
    "lr_scheduler_kwargs": {"num_cycles": 2},
    "adam_beta1": 0.5,
    "adam_beta2": 0.5,
    "optim_args": "momentum=0.5",
    "momentum": 0.5,
    "min_lr_rate": 0.5,
    "words_args": {"V": 6},
    "network": "lstm",
    "positions": "learned",
    "hidden_size": 16,
    "num_layers": 3,
    "num_heads": 2,
    "dropout": None,
    "mlp_before": None,
    "mlp_after": None,
    "stacks": None,
    "stack_cells": None,
    "timescale": None,
    "init_std": 0.1,
    "liger_kernel_config": {"rope": True},
}
"""Values for fields of which `other` would not be a valid one; None: another check refuses it first."""
IDLE = {
    "logging_strategy=steps": {"logging_strategy": "no", "logging_steps": None},
    "a schedule with a warm-up (not lr_scheduler_type=constant)": {"lr_scheduler_type": "constant"},
    "optim=adamw_torch or adamw_torch_fused": {"optim": "sgd"},
    "lr_scheduler_type=cosine": {"lr_scheduler_type": "linear"},
    "a network made from scratch (no model_name_or_path)": GIVEN_MODEL,
}


@pytest.mark.parametrize(
    ("need", "field"),
    [(need, name) for need in NEEDS for name in need.names.split() if SET.get(name, 0) is not None],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_have_no_effect_is_refused(need, field, tmp_path):
    value = SET.get(field, other(next(item for item in fields() if item.name == field)))
    text = refusal(tmp_path, **{**IDLE.get(need.what, {}), field: value})
    assert text.startswith(f"{field}=") and text.endswith(("leave it out.", "leave them out.")), text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("field", ["bf16", "fp16", "tf32", "use_liger_kernel"])
def test_what_needs_a_gpu_is_refused_without_one(field, tmp_path):
    assert refusal(tmp_path, **{field: True}) == f"{field}=True needs a GPU, and there is none: leave it out."


def test_the_command_line_of_the_fault(tmp_path):
    for words in ("--dataloader_num_workers 3", "--label_smoothing_factor 0.9", "--momentum 0.1"):
        assert refusal(tmp_path, *words.split()).startswith(words[2:].replace(" ", "="))
    text = refusal(tmp_path, *["--lr_scheduler_type", "linear", "--min_lr_rate", "0.5", "--decay_steps", "2"])
    assert text.startswith("decay_steps=2, min_lr_rate=0.5 would have no effect: they need lr_scheduler_type=cosine")


def test_checkpoints_as_asked_for(start):
    def kept(**settings):
        return sorted(p.name for p in start(**{"max_steps": 4, **settings}).glob("checkpoint-*"))

    assert kept() == ["checkpoint-1", "checkpoint-4"]
    assert kept(checkpoints=3) == ["checkpoint-1", "checkpoint-2", "checkpoint-4"]
    assert kept(save_strategy="steps", save_steps=2) == ["checkpoint-1", "checkpoint-2", "checkpoint-4"]
    assert kept(save_strategy="steps", save_steps=1, save_total_limit=2) == ["checkpoint-3", "checkpoint-4"]


def test_lines_as_asked_for(start):
    def steps(**settings):
        return lines(start(max_steps=4, **settings), "loss")

    assert steps() == [1, 2, 3, 4]
    assert steps(logging_steps=3) == [1, 3, 4]  # the first and the last step have a checkpoint, and a line
    assert steps(logging_strategy="no", logging_steps=None) == [1, 4]


def test_metrics_are_reported(start, monkeypatch):
    told, logged = {}, []
    trackio = types.ModuleType("trackio")
    trackio.__spec__ = types.SimpleNamespace(name="trackio")
    trackio.init = lambda **settings: told.update(settings)
    trackio.log = lambda metrics, **_: logged.append(metrics)
    trackio.finish = lambda: None
    trackio.context_vars = types.SimpleNamespace(current_space_id=types.SimpleNamespace(get=lambda: None))
    trackio.config = type("Config", (dict,), {"update": lambda *_, **__: None})()
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    start(report_to="trackio", run_name="words", project="meta")
    assert (told["name"], told["project"]) == ("words", "meta")
    assert any("train/loss" in metrics for metrics in logged)


def test_sizes_of_evaluations_and_context(start):
    plain = start()

    def summary(folder):
        return json.loads((folder / "summary.json").read_text())

    assert summary(start(eval_sequences=8))["best_eval_loss"] != summary(plain)["best_eval_loss"]
    assert summary(start(final_eval_sequences=8))["floor"] != summary(plain)["floor"]
    assert [
        json.loads((f / "final/config.json").read_text())["max_position_embeddings"] for f in (plain, start(context=32))
    ] == [8, 32]


def test_words_of_a_game(start):
    folder = start(**WORDS)
    assert (folder / "final" / "tokenizer.json").exists() and not (start() / "final" / "tokenizer.json").exists()
    assert load_model(str(folder / "final")).config.vocab_size > 6


def test_threads(start):
    try:
        start(threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_the_timeout_of_processes(tmp_path):
    assert parsed(tmp_path, **BASE, ddp_timeout=77).config.ddp_timeout_delta.total_seconds() == 77


def test_a_config_stays_usable_with_options_that_switch_things_off(tmp_path):
    given = ["--config", "metalm", "--output_dir", str(tmp_path), "--model_name_or_path", "m"]
    with pytest.warns(UserWarning, match="of the config file will have no effect: needs a network made from scratch"):
        settings = parse(given)
    again = tmp_path / "config.yaml"
    again.write_text(yaml.safe_dump(settings.resolved()))
    assert parse(["--config", str(again)]).run.model_name_or_path == "m"
