"""What an evaluation leaves behind: a JSON file that is whole or not there, a PNG, and a table to read."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console
from tiny import terse, word_parts

from metarlgym import __version__, list_envs
from metarlgym.evaluation.evaluate import EvalSettings, _Evaluation, evaluate
from metarlgym.evaluation.plots import plot_adaptation
from metarlgym.evaluation.run import evaluate_model, evaluate_policy, write_report
from metarlgym.files import write_json
from metarlgym.policies.scripted import OraclePolicy
from metarlgym.trial import TrialSettings

DOORS = terse("Doors-v0")
SETTINGS = EvalSettings(TrialSettings(3), trials=32)
PNG = b"\x89PNG\r\n\x1a\n"


def quiet():
    return Console(file=io.StringIO(), width=120)


@pytest.fixture(scope="module")
def report():
    return evaluate_policy(DOORS, OraclePolicy(), None, SETTINGS, quiet(), model="oracle")


def test_fields_about_the_model(report):
    assert (report.model, report.version, report.decode) == ("oracle", __version__, None)


@pytest.mark.parametrize(("temperature", "greedy"), [(1.0, False), (0.5, True)])
def test_a_models_report_says_how_it_was_decoded(temperature, greedy):
    model, _, renderer = word_parts(DOORS)
    report = evaluate_model(DOORS, model, renderer, SETTINGS, quiet(), "here", temperature, greedy)
    assert report.decode == {"temperature": temperature, "greedy": greedy}
    assert report.model == "here"


def test_the_files_are_written(tmp_path, report):
    console = quiet()
    write_report(report, tmp_path / "new", console)
    assert json.loads((tmp_path / "new" / "eval.json").read_text()) == report.to_dict()
    assert (tmp_path / "new" / "adaptation.png").read_bytes().startswith(PNG)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["adaptation.png", "eval.json"]
    assert "eval.json" in console.file.getvalue()


def test_a_json_file_is_whole_or_the_old_one(tmp_path):
    path = tmp_path / "eval.json"
    write_json({"a": 1}, path)
    with pytest.raises(TypeError):
        write_json({"a": object()}, path)
    assert json.loads(path.read_text()) == {"a": 1}


@pytest.mark.parametrize("episodes", [1, 3, 40])
def test_a_plot_of_any_length(tmp_path, episodes):
    report = evaluate(DOORS, OraclePolicy(), None, EvalSettings(TrialSettings(episodes), trials=8))
    plot_adaptation(report, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)
    assert len((tmp_path / "a.png").read_bytes()) > 10_000


def test_a_plot_without_optimum_baselines_and_controls(tmp_path, report):
    bare = replace(report, optimum=None, optimum_curve=None, random=None, normalized_score=None)
    plot_adaptation(replace(bare, controls={"no_memory": None, "shuffled": None}), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


def test_the_table_tells_what_a_person_asks(report):
    console = quiet()
    console.print(report.table())
    text = console.file.getvalue()
    for part in ("policy", "optimum (exact)", "random play", "memory wiped", "another's history", "normalized score"):
        assert part in text
    assert "error" not in text


def test_the_table_tells_of_errors(report):
    console = quiet()
    console.print(replace(report, errors=7).table())
    assert "trials ended by an error" in console.file.getvalue()


@pytest.mark.parametrize("env_id", [spec.env_id for spec in list_envs()])
def test_every_oracle_plays_under_every_control_without_an_error(env_id, monkeypatch):
    errors = []
    play = _Evaluation.play

    def watched(self, *args):
        played = play(self, *args)
        errors.extend(t.error for t in played if t.error)
        return played

    monkeypatch.setattr(_Evaluation, "play", watched)
    report = evaluate(terse(env_id), OraclePolicy(), None, EvalSettings(TrialSettings(3), trials=30))
    if "has no oracle" not in str(errors[:1]):
        assert errors == []
        assert report.return_mean > report.random


def test_what_was_invalid_or_cut_is_told_below_the_table(tmp_path, report):
    assert report.shares == []
    console = quiet()
    found = replace(report, invalid_rate=0.25, action_cut_rate=0.5, episode_cut_rate=0.125, truncation_rate=1.0)
    write_report(found, tmp_path, console)
    lines = console.file.getvalue().splitlines()
    assert [line for line in lines if "%" in line] == found.shares
    assert found.shares[:2] == ["invalid actions: 25.0%", "actions cut at the limit of tokens: 50.0%"]
