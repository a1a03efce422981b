"""run_training: from settings to a folder that holds everything, and what it refuses, resumes and replaces."""

from __future__ import annotations

import io
import json

import pytest
import torch
import yaml
from rich.console import Console

from metarlgym import ConfigError, TaskGroup
from metarlgym.evaluation.adaptation import EvalSettings, evaluate
from metarlgym.policies.in_process import InProcessPolicy
from metarlgym.train import main
from metarlgym.training.arguments import parse
from metarlgym.training.checkpoint import latest_complete
from metarlgym.training.loading import load_model, load_tokenizer, make_renderer
from metarlgym.training.run import run_training

SMALL = {
    "env_id": "Doors-v0",
    "env_args": '{"style": "terse"}',
    "episodes": "3",
    "trials_per_task": "4",
    "per_device_train_batch_size": "8",
    "max_steps": "4",
    "save_steps": "2",
    "logging_steps": "1",
    "scratch_hidden_size": "16",
    "scratch_layers": "1",
    "scratch_heads": "2",
    "warmup_trials": "256",
    "warmup_max_steps": "2",
    "sample_every": "2",
    "final_eval_trials": "16",
    "learning_rate": "1e-2",
    "threads": "1",
    "seed": "0",
}


def settings(folder, *flags, **changes):
    small = SMALL if "model_name_or_path" not in changes else {k: v for k, v in SMALL.items() if not _made(k)}
    arguments = [part for k, v in {**small, **changes}.items() if v is not None for part in (f"--{k}", str(v))]
    return parse([*arguments, "--output_dir", str(folder), *flags])


def _made(name):
    """Whether a setting is for models made from scratch."""
    return name.startswith(("scratch_", "warmup_"))


def run(folder, *flags, **changes):
    """(report, what was printed)."""
    console = Console(file=io.StringIO(), width=200)
    return run_training(settings(folder, *flags, **changes), console), console.file.getvalue()


def weights(folder):
    return torch.cat([p.detach().flatten() for p in load_model(str(folder)).parameters()])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "a"
    report, text = run(folder)
    return folder, report, text


# ---------------------------------------------------------------------- what a run leaves


def test_the_folder_holds_everything(done):
    folder, report, _ = done
    names = {path.name for path in folder.iterdir()}
    wanted = {"config.yaml", "metrics.jsonl", "trials.jsonl", "eval.json", "adaptation.png", "final", "start"}
    assert wanted | {"checkpoint-2", "checkpoint-4"} <= names
    assert json.loads((folder / "eval.json").read_text()) == report
    assert latest_complete(folder) == (folder / "checkpoint-4", [])


def test_the_config_starts_the_same_run_again(done, tmp_path):
    folder, _, _ = done
    again = tmp_path / "again"
    console = Console(file=io.StringIO())
    run_training(parse(["--config", str(folder / "config.yaml"), "--output_dir", str(again)]), console)
    assert torch.equal(weights(again / "final"), weights(folder / "final"))
    assert yaml.safe_load((folder / "config.yaml").read_text())["episodes"] == 3


def test_the_final_model_plays_as_the_report_says(done):
    folder, report, _ = done
    group = TaskGroup("Doors-v0", {"style": "terse"})
    renderer = make_renderer("auto", load_tokenizer(str(folder / "final")), group)
    policy = InProcessPolicy(load_model(str(folder / "final")), renderer)
    again = evaluate(group, policy, renderer, EvalSettings(episodes=3, trials=16))
    assert again["return_mean"] == report["return_mean"]
    assert again["controls"] == report["controls"]


def test_plain_output_is_readable(done):
    _, _, text = done
    for part in ("model from scratch", "warm-up: 2 steps", "training Doors-v0", "step 4/4", "held-out trials"):
        assert part in text


# ---------------------------------------------------------------------- again


def test_a_folder_that_holds_a_run_is_refused(done):
    with pytest.raises(ConfigError, match="holds another run: give another --output_dir"):
        run(done[0])


def test_overwrite_replaces_it(done, tmp_path):
    folder, _, _ = done
    run(tmp_path, max_steps=2)
    (tmp_path / "note.txt").write_text("old")
    run(tmp_path, "--overwrite", "True")
    assert not (tmp_path / "note.txt").exists()
    assert torch.equal(weights(tmp_path / "final"), weights(folder / "final"))


def test_resume_goes_on_where_the_run_was_and_passes_over_what_is_incomplete(done, tmp_path):
    whole, _, _ = done
    run(tmp_path)
    (tmp_path / "checkpoint-4" / "COMPLETE").unlink()
    (tmp_path / "checkpoint-4" / "optimizer.pt").write_text("half")
    (tmp_path / "final" / "model.safetensors").unlink()
    _, text = run(tmp_path, "--resume", "True")
    assert "checkpoint-4 is incomplete" in text
    assert f"resuming from {tmp_path / 'checkpoint-2'}" in text
    assert "warm-up" not in text  # the starting model is kept
    assert "warning" not in text
    assert torch.equal(weights(tmp_path / "final"), weights(whole / "final"))


def test_resume_of_nothing_starts(tmp_path):
    _, text = run(tmp_path / "new", "--resume", "True", max_steps=2)
    assert "step 2/2" in text


def test_a_resumed_run_with_other_settings_is_warned_of(tmp_path):
    run(tmp_path)
    _, text = run(tmp_path, "--resume", "True", learning_rate="2e-2", max_steps=6)
    assert "learning_rate was 0.01 and is 0.02" in text


# ---------------------------------------------------------------------- before anything is done


def test_a_dry_run_says_what_would_happen_and_writes_nothing(tmp_path):
    console = Console(file=io.StringIO(), width=200)
    assert run_training(settings(tmp_path / "dry", max_steps=10), console, dry_run=True) is None
    text = console.file.getvalue()
    assert not (tmp_path / "dry").exists()
    for part in ("8 (2 tasks x 4 trials)", "optimizer steps", "parameters", "memory a process"):
        assert part in text


def test_contradictions_between_trial_and_group_come_first(tmp_path):
    with pytest.raises(ConfigError, match="doors=1 must be at least 2"):
        run(tmp_path / "new", env_args='{"style": "terse", "doors": 1}')
    assert not (tmp_path / "new").exists()


def test_an_unknown_group_is_told_with_its_neighbours(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean Doors-v0"):
        run(tmp_path / "new", env_id="Door-v0")


def test_too_few_held_out_tasks_are_told_before_training(tmp_path):
    args = {"env_id": "GuessNumber-v0", "env_args": '{"style": "terse", "numbers": 40, "split": "content"}'}
    with pytest.raises(ConfigError, match=r"final_eval_trials=16.*only 8 held-out tasks"):
        run(tmp_path / "new", **args)


def test_a_missing_model_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        run(tmp_path / "new", model_name_or_path=str(tmp_path / "gone"))
    assert not (tmp_path / "new").exists()


def test_main_turns_errors_into_one_line_and_a_status(tmp_path, capsys):
    assert main(["--env_id", "Doors-v0", "--episodes", "0", "--output_dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: episodes=0 must be at least 1")
    assert error.count("\n") == 1


# ---------------------------------------------------------------------- from a given model


def test_training_goes_on_from_a_model(done, tmp_path):
    folder, _, _ = done
    _, text = run(tmp_path / "b", model_name_or_path=folder / "final", max_steps=2, final_eval_trials=0)
    assert "from scratch" not in text
    assert not torch.equal(weights(tmp_path / "b" / "final"), weights(folder / "final"))


def test_a_reference_model_of_a_run_from_scratch(tmp_path):
    run(tmp_path, beta=0.1, max_steps=2, final_eval_trials=0)
    first, second = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()][:2]
    assert first["kl"] == pytest.approx(0.0, abs=1e-6)
    assert second["kl"] > 0


def test_the_result_of_a_lora_run_loads(done, tmp_path):
    folder, _, _ = done
    flags = ("--use_peft", "True", "--lora_r", "4", "--lora_target_modules", "q_proj", "v_proj")
    report, _ = run(tmp_path / "lora", *flags, model_name_or_path=folder / "final", max_steps=2)
    group = TaskGroup("Doors-v0", {"style": "terse"})
    renderer = make_renderer("auto", load_tokenizer(str(tmp_path / "lora" / "final")), group)
    policy = InProcessPolicy(load_model(str(tmp_path / "lora" / "final")), renderer)
    again = evaluate(group, policy, renderer, EvalSettings(episodes=3, trials=16))
    assert again["return_mean"] == report["return_mean"]
