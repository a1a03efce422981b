"""`metarlgym eval` of a model that a run wrote: the run's own numbers, and one line for what cannot be read."""

from __future__ import annotations

import io
import json
import shutil

import pytest
import yaml
from rich.console import Console

from metarlgym.cli.main import main
from metarlgym.training.arguments import parse
from metarlgym.training.run import run_training

SETTINGS = {
    "env_id": "Doors-v0",
    "env_args": '{"doors": 3, "style": "terse"}',
    "episodes": "3",
    "trials_per_task": "4",
    "per_device_train_batch_size": "8",
    "max_steps": "2",
    "logging_steps": "1",
    "scratch_hidden_size": "16",
    "scratch_layers": "1",
    "scratch_heads": "2",
    "imitation_trials": "0",
    "final_eval_trials": "24",
    "learning_rate": "1e-2",
    "threads": "1",
    "save_strategy": "no",
}


def train(folder, **changes):
    """(folder, eval.json) of a small run."""
    arguments = [part for name, value in {**SETTINGS, **changes}.items() for part in (f"--{name}", str(value))]
    run_training(parse([*arguments, "--output_dir", str(folder)]), Console(file=io.StringIO()))
    return folder, json.loads((folder / "eval.json").read_text())


def evaluate(model, *arguments):
    """(exit status, report or None) of the command."""
    path = model.parent / "again.json"
    path.unlink(missing_ok=True)
    status = main(["eval", "--model", str(model), "--trials", "24", "--json", str(path), *arguments])
    return status, json.loads(path.read_text()) if path.exists() else None


@pytest.fixture(scope="module")
def cold(tmp_path_factory):
    """Every setting that an evaluation takes over differs from its default."""
    return train(
        tmp_path_factory.mktemp("run") / "cold",
        temperature="0.5",
        task_seed="3",
        seed="5",
        free_shots="0:2, 2:1",
        stop_on_success="true",
        max_total_turns="5",
        max_context_tokens="40",
    )


def test_the_numbers_are_those_of_the_runs_own_evaluation(cold, capsys):
    folder, report = cold
    status, again = evaluate(folder / "final")
    assert status == 0
    assert again == report | {"model": str(folder / "final")}
    assert report["free_shots"] == 1 and report["decode"]["temperature"] == 0.5
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "config.yaml: env_id Doors-v0",
        "temperature 0.5",
        "task_seed 3",
        "seed 5",
        "free_shots 1",
        "threads 1",
    ):
        assert part in text


@pytest.mark.parametrize("changes", [{}, {"memory": "last_1", "per_device_train_batch_size": "12"}], ids=str)
def test_they_are_so_where_the_run_left_seed_and_temperature_at_their_defaults(tmp_path, changes):
    folder, report = train(tmp_path / "run", **changes)
    assert evaluate(folder / "final") == (0, report | {"model": str(folder / "final")})


def test_options_override_the_run(cold):
    folder, report = cold
    _, warm = evaluate(folder / "final", "--temperature", "1.5")
    assert warm["decode"]["temperature"] == 1.5
    assert warm["task_keys_hash"] == report["task_keys_hash"]
    assert warm["curve"] != report["curve"]
    _, other = evaluate(folder / "final", "--seed", "9", "--free-shots", "0")
    assert (other["seed"], other["free_shots"]) == (9, 0)
    assert other["task_keys_hash"] != report["task_keys_hash"]


def test_truncated_sampling_is_said_to_stay_behind(cold, tmp_path, capsys):
    shutil.copytree(cold[0] / "final", tmp_path / "final")
    settings = yaml.safe_load((cold[0] / "config.yaml").read_text()) | {"top_p": 0.9}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    assert evaluate(tmp_path / "final")[0] == 0
    assert "not taken from it: top_p 0.9" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("content", [b"a: [1", b"\xff\xfea\x00"], ids=["broken", "utf-16"])
def test_a_config_that_cannot_be_read_is_one_line(cold, tmp_path, capsys, content):
    shutil.copytree(cold[0] / "final", tmp_path / "final")
    (tmp_path / "config.yaml").write_bytes(content)
    assert evaluate(tmp_path / "final") == (2, None)
    err = capsys.readouterr().err
    assert err.startswith("error: ") and "config.yaml" in err and "cannot be read" in err
    assert err.count("\n") == 1


def test_a_home_folder_is_expanded(cold, monkeypatch, capsys):
    folder, report = cold
    monkeypatch.setenv("HOME", str(folder))
    path = folder / "home.json"
    assert main(["eval", "--model", "~/final", "--trials", "24", "--json", str(path)]) == 0
    assert json.loads(path.read_text())["curve"] == report["curve"]
