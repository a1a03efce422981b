"""bfloat16 on CPUs that have it and on those that have not."""

from __future__ import annotations

import pytest
import torch
from tiny import make_trainer, play, specs, terse, trial_maker, word_parts
from typer.testing import CliRunner

from metarlgym.cli.main import app
from metarlgym.models import precision

DOORS = terse("Doors-v0")
CPU = torch.device("cpu")


def parts(width=32):
    model, tokenizer, renderer = word_parts(DOORS, width=width, layers=2)
    return model.bfloat16(), tokenizer, renderer


@pytest.mark.parametrize("found", [{"avx512_bf16": True}, {"amx_bf16": True, "avx512_bf16": False}])
def test_a_processor_with_bfloat16_keeps_it(found, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    model, _, _ = parts()
    assert precision.upcast(model, CPU) is None
    assert model.dtype == torch.bfloat16


def test_a_processor_without_runs_in_float32_and_says_so(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "avx2": True})
    model, _, _ = parts()
    before = model.lm_head.weight.detach().clone()
    assert "runs in float32" in precision.upcast(model, CPU)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.lm_head.weight, before.float())
    assert precision.upcast(model, CPU) is None  # once
    assert precision.upcast(model.bfloat16(), torch.device("cuda")) is None  # GPUs have it


def gaps(model, played):
    """Differences from the log-probabilities of a plain forward pass, over all sampled tokens."""
    found = []
    for row in (row for trajectory in played for row in trajectory.rows):
        with torch.no_grad():
            logits = model(torch.tensor([row.ids])).logits[0, :-1]
        assert logits.dtype == torch.bfloat16
        plain = torch.log_softmax(logits.float(), -1).gather(-1, torch.tensor(row.ids)[1:, None])[:, 0]
        sampled = torch.tensor(row.action_mask).bool()
        ours = torch.tensor(row.logprobs)[sampled]
        assert not torch.equal(ours, ours.bfloat16().float())  # not rounded to bfloat16
        found.append((ours - plain[row.prompt_len - 1 :][sampled]).abs())
    return torch.cat(found)


def test_logprobs_are_float32_from_bfloat16_logits():
    model, _, renderer = parts()
    played, _ = play(model, renderer, specs(DOORS, trial_maker(DOORS, 3), 16))
    assert gaps(model, played).max() < 0.03


def test_training_in_bfloat16(tmp_path):
    trainer = make_trainer(tmp_path, DOORS, parts(), max_steps=3)
    before = trainer.model.lm_head.weight.detach().clone()
    seen = []
    trainer.on_trials = lambda step, played: seen.append(gaps(trainer.model, played).max())
    trainer.train()
    assert trainer.model.dtype == torch.bfloat16
    assert not torch.equal(trainer.model.lm_head.weight, before)
    assert len(seen) == 3 and max(seen) < 0.03


@pytest.mark.parametrize("has", [True, False])
def test_eval_plays_a_folder_saved_in_bfloat16(has, tmp_path, monkeypatch):
    from metarlgym.evaluation import run

    model, tokenizer, _ = parts()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: has)
    played, inner = [], run.evaluate_model

    def evaluate_model(group, model, *rest, **options):
        played.append(model.dtype)
        return inner(group, model, *rest, **options)

    monkeypatch.setattr(run, "evaluate_model", evaluate_model)
    options = "--env Doors-v0 --trials 4 --no-controls --renderer plain"
    command = ["eval", "--model", str(tmp_path / "model"), "--env-args", '{"style": "terse"}', *options.split()]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert played == [torch.bfloat16 if has else torch.float32]
    assert ("runs in float32" in result.output) == (not has)
