"""`metarlgym eval`: how many trials it plays, and what it writes of them."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from tiny import make_model, terse, trial_maker

from metarlgym import registry
from metarlgym.cli import eval as command
from metarlgym.cli import eval_model
from metarlgym.cli.main import main
from metarlgym.envs.doors import Doors

TERSE = ("--env-args", '{"style": "terse"}')


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from metarlgym.models.scratch import word_tokenizer
    from metarlgym.training.warmup import sample_text

    folder = tmp_path_factory.mktemp("model")
    group = terse("Doors-v0")
    tokenizer = word_tokenizer(sample_text(group, trial_maker(group), 64))
    make_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def evaluate(folder, *arguments):
    """(status, report or None, trials or None)."""
    report, trials = folder / "e.json", folder / "t.jsonl"
    status = main(["eval", "--json", str(report), "--trajectories", str(trials), *map(str, arguments)])
    written = [json.loads(line) for line in trials.read_text().splitlines()] if trials.exists() else None
    return status, json.loads(report.read_text()) if report.exists() else None, written


def test_a_tiny_model_plays_all_on_one_thread(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "TRIALS", 30)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        status, report, trials = evaluate(tmp_path, "--model", model, "--env", "Doors-v0", *TERSE)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert (status, report["trials"], len(trials)) == (0, 30, 30)
    assert "would take" not in capsys.readouterr().out


def test_a_larger_model_plays_what_there_is_time_for(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(eval_model, "TINY", 0)
    monkeypatch.setattr(command, "SECONDS", 1e-3)
    threads = torch.get_num_threads()
    _, report, trials = evaluate(tmp_path, "--model", model, "--env", "Doors-v0", *TERSE)
    assert report["trials"] == len(trials) == 8  # more would take longer than that
    assert "8 trials, about 1 s; --trials 2000 would take" in capsys.readouterr().out
    assert torch.get_num_threads() == threads
    _, report, _ = evaluate(tmp_path, "--model", model, "--env", "Doors-v0", *TERSE, "--trials", "20")
    assert report["trials"] == 20 and "would take" not in capsys.readouterr().out


def test_a_small_group_is_played_whole(tmp_path):
    arguments = ("--env-args", '{"numbers": 40, "split": "content"}', "--episodes", "2", "--no-controls")
    _, report, _ = evaluate(tmp_path, "--policy", "random", "--env", "GuessNumber-v0", *arguments)
    assert report["trials"] == 8


def test_trials_hold_rules_and_on_request_contexts(model, tmp_path):
    arguments = ("--model", model, "--env", "Doors-v0", *TERSE, "--trials", "9", "--no-controls")
    _, _, plain = evaluate(tmp_path, *arguments)
    _, _, full = evaluate(tmp_path, *arguments, "--write-contexts")
    assert [line["trial"] for line in plain] == list(range(9))
    assert [{k: v for k, v in line.items() if k != "contexts"} for line in full] == plain
    (context,) = full[4]["contexts"]
    actions = [turn["action"] for episode in full[4]["episodes"] for turn in episode["turns"]]
    words = context["text"].split()
    assert words[0] == "<bos>" and words[-1] == "<end>"
    start = context["prompt_len"]
    assert [words[start + i] for i, mask in enumerate(context["action_mask"]) if mask] == actions
    assert len(context["logprobs"]) == len(context["action_mask"]) == len(context["ids"]) - start


def test_the_rules_are_those_of_the_trial(tmp_path):
    _, _, (line,) = evaluate(tmp_path, "--policy", "random", "--env", "Doors-v0", "--trials", "1", "--no-controls")
    assert "behind one of 4 doors" in line["rules"] and "You play 3 episodes" in line["rules"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "m", "--env", "Doors-v0", "--write-contexts"], "write_contexts has no effect without"),
        (
            ["--policy", "random", "--env", "Doors-v0", "--write-contexts", "--trajectories", "t.jsonl"],
            "write_contexts=True is for models",
        ),
        (
            ["--policy", "random", "--env", "Doors-v0", "--json", "t.jsonl.partial", "--trajectories", "t.jsonl"],
            "is the file of json too",
        ),
    ],
    ids=["no file", "no model", "the partial file"],
)
def test_bad_input(arguments, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["eval", *arguments]) == 2
    line = capsys.readouterr().err
    assert told in line and line.strip().count("\n") == 0
    assert not list(tmp_path.iterdir())


class StopsLate(Doors):
    steps = 0

    def on_step(self, action):
        type(self).steps += 1
        if type(self).steps == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().on_step(action)


def test_a_killed_evaluation_leaves_the_trials_that_ended(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    monkeypatch.setattr(registry, "_register_in_gymnasium", lambda env_id: None)
    registry.register("StopsLate-v0", StopsLate)
    arguments = ("--policy", "random", "--env", "StopsLate-v0", "--concurrency", "1", "--trials", "50")
    status, report, trials = evaluate(tmp_path, *arguments)
    assert (status, report, trials) == (143, None, None)
    line = " ".join(capsys.readouterr().err.split())
    assert "stopped: the evaluation is not done, the 6 trials that ended are in" in line
    left = [json.loads(line) for line in (tmp_path / "t.jsonl.partial").read_text().splitlines()]
    assert [entry["trial"] for entry in left] == list(range(6))  # 20 of 3 steps each
