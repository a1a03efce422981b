"""Settings of `train` that say what a run writes, and when it evaluates."""

from __future__ import annotations

import json
import sys
import types

import pytest
import torch

from metarlgym.models.loading import load_model


def test_checkpoints_as_asked_for(start):
    def kept(**settings):
        return sorted(p.name for p in start(**{"max_steps": 4, **settings}).folder.glob("checkpoint-*"))

    assert kept() == []
    assert kept(save_strategy="steps", save_steps=2) == ["checkpoint-2", "checkpoint-4"]
    assert kept(save_strategy="steps", save_steps=1, save_total_limit=2) == ["checkpoint-3", "checkpoint-4"]


def test_lines_as_asked_for(start):
    def steps(**settings):
        return sorted(start(max_steps=4, **settings).lines("trial_return"))

    assert steps() == [1, 2, 3, 4]
    assert steps(logging_steps=2) == [2, 4]
    assert steps(logging_steps=2, logging_first_step=True) == [1, 2, 4]
    assert steps(logging_strategy="no", logging_steps=None) == [4]  # the line at the end


def test_evaluations_as_asked_for(start):
    asked = {"max_steps": 4, "eval_strategy": "steps", "eval_trials": 8, "logging_steps": 4}

    def steps(**settings):
        return sorted(start(**{**asked, **settings}).lines("eval_return"))

    assert start(max_steps=4).lines("eval_return") == {}
    assert steps() == [4]  # as often as lines are written
    assert steps(eval_steps=2) == [2, 4]
    assert steps(eval_steps=1, eval_delay=3) == [3, 4]
    assert steps(eval_steps=2, eval_on_start=True) == [0, 2, 4]
    few, many = (start(**{**asked, "eval_trials": trials}).lines("eval_return") for trials in (8, 64))
    assert few != many


@pytest.mark.parametrize("greater", [True, False])
def test_the_best_model_is_kept(greater, start):
    settings = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 1, "eval_trials": 64, "save_strategy": "steps"}
    settings |= {"save_steps": 1, "load_best_model_at_end": True, "metric_for_best_model": "eval_return"}
    run = start(**settings, greater_is_better=greater, learning_rate=5e-2, seed=3)
    found = run.lines("eval_return")
    best = (max if greater else min)(found, key=found.get)
    assert len(set(found.values())) > 1
    step = torch.cat([p.flatten() for p in load_model(str(run.folder / f"checkpoint-{best}")).parameters()])
    assert torch.equal(run.weights, step)
    assert max(found, key=found.get) != min(found, key=found.get)


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
    monkeypatch.setattr("trl.extras.profiling.trackio", trackio, raising=False)
    start(report_to="trackio", run_name="doors", project="meta")
    assert (told["name"], told["project"]) == ("doors", "meta")
    assert any("train/trial_return" in metrics for metrics in logged)


def test_what_is_played_and_written_at_the_side(start):
    def steps(**settings):
        lines = (start(**settings).folder / "trials.jsonl").read_text().splitlines()
        return [json.loads(line)["step"] for line in lines]

    assert steps() == [0, 0, 0, 0]
    assert steps(sample_every=1, sample_trials=3) == [0, 0, 0, 1, 1, 1]
    plain, full = (
        json.loads((start(write_contexts=given).folder / "trials.jsonl").read_text().splitlines()[0])
        for given in (False, True)
    )
    assert "contexts" not in plain and set(full) - set(plain) == {"contexts"}
    (context,) = full["contexts"]
    sampled = [i for i, mask in zip(context["ids"][context["prompt_len"] :], context["action_mask"]) if mask]
    assert len(sampled) == 2 and context["text"].endswith("<end>")
    assert not (start().folder / "eval.json").exists()
    assert json.loads((start(final_eval_trials=6).folder / "eval.json").read_text())["trials"] == 6
