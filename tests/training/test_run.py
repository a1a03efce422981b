"""run_training: from settings to a folder that holds everything, and what it refuses, resumes and replaces."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal

import pytest
import torch
import yaml
from rich.console import Console

from metarlgym import ConfigError, MetaRLGymError, TaskGroup
from metarlgym.evaluation.evaluate import EvalSettings, evaluate
from metarlgym.models.loading import load_model, load_tokenizer
from metarlgym.policies.in_process import InProcessPolicy
from metarlgym.rollout.make_renderer import make_renderer
from metarlgym.runtime.checkpoint import latest_complete
from metarlgym.train import main
from metarlgym.training.arguments import parse
from metarlgym.training.run import run_training
from metarlgym.training.trainer import MetaGRPOTrainer
from metarlgym.trial import TrialSettings

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
    "imitation_trials": "256",
    "imitation_max_steps": "2",
    "sample_every": "2",
    "final_eval_trials": "16",
    "learning_rate": "1e-2",
    "threads": "1",
    "seed": "0",
}

NO_IMITATION = {"imitation_trials": 0, "imitation_max_steps": None}


def settings(folder, *flags, **changes):
    small = SMALL if "model_name_or_path" not in changes else {k: v for k, v in SMALL.items() if not _made(k)}
    arguments = [part for k, v in {**small, **changes}.items() if v is not None for part in (f"--{k}", str(v))]
    return parse([*arguments, "--output_dir", str(folder), *flags])


def _made(name):
    """Whether a setting is for models made from scratch."""
    return name.startswith(("scratch_", "imitation_"))


def run(folder, *flags, **changes):
    """(report, what was printed)."""
    console = Console(file=io.StringIO(), width=200)
    report = run_training(settings(folder, *flags, **changes), console)
    return report and report.to_dict(), console.file.getvalue()


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
    again = evaluate(group, policy, renderer, EvalSettings(TrialSettings(3), trials=16)).to_dict()
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
    assert (tmp_path / "note.txt").read_text() == "old" and not list(tmp_path.glob(".replaced-*"))
    assert not (tmp_path / "checkpoint-3").exists()
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


def tree(folder):
    """Hashes of all files below a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_resumed_run_with_other_settings_is_warned_of_or_refused(done, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(done[0], folder)
    before = tree(folder)
    for changes in ({"episodes": 2}, {"weight_decay": 0.5}, {"optim": "sgd"}, {"scratch_layers": 2}, {"seed": 1}):
        name = next(iter(changes))
        with pytest.raises(ConfigError, match=rf"{name}=.* was .*: --resume needs the same settings"):
            run(folder, "--resume", "True", **changes)
    with pytest.raises(ConfigError, match="per_device_train_batch_size=16 was 8"):
        run(folder, "--resume", "True", per_device_train_batch_size=16)
    with pytest.raises(ConfigError, match="the in-process policy cannot change while it plays"):
        run(folder, "--resume", "True", rollouts_ahead="continuous")
    assert tree(folder) == before
    _, text = run(folder, "--resume", "True", learning_rate="2e-2", max_steps=6, final_eval_trials=0, threads=2)
    assert "learning_rate was 0.01 and is 0.02" in text and "threads" not in text
    assert yaml.safe_load((folder / "config.yaml").read_text())["max_steps"] == 6


def test_a_resumed_run_logs_and_saves_as_often_as_it_says_now(done, tmp_path):
    """transformers would go on with the intervals of the checkpoint."""
    folder = tmp_path / "run"
    shutil.copytree(done[0], folder)
    run(folder, "--resume", "True", max_steps=8, logging_steps=3, save_steps=1, final_eval_trials=0)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "trial_return" in line] == [1, 2, 3, 4, 6, 8]  # the last is the summary
    assert (folder / "checkpoint-5").is_dir() and (folder / "checkpoint-7").is_dir()


def test_repeated_steps_are_logged_once_and_a_leftover_stop_is_gone(done, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(done[0], folder)
    shutil.rmtree(folder / "checkpoint-4")
    (folder / "STOP").touch()
    with (folder / "trials.jsonl").open("a") as file:
        file.write('{"step": 2, "cut')
    run(folder, "--resume", "True")
    for name in ("metrics.jsonl", "trials.jsonl"):
        found, whole = ([json.loads(line) for line in (at / name).read_text().splitlines()] for at in (folder, done[0]))
        assert [line["step"] for line in found] == [line["step"] for line in whole]
    assert torch.equal(weights(folder / "final"), weights(done[0] / "final"))


def test_a_full_disk_at_the_end_loses_nothing(done, tmp_path):
    """What is there of a run that came to its end is made again by --resume."""
    folder = tmp_path / "run"
    shutil.copytree(done[0], folder)
    shutil.rmtree(folder / "final")
    (folder / "eval.json").unlink()
    (folder / "eval.json").symlink_to("/dev/full")
    console = Console(file=io.StringIO(), width=200)
    with pytest.raises(
        MetaRLGymError, match=r"cannot be written.*No space left.*; the final model is .*final"
    ) as caught:
        run_training(settings(folder, "--resume", "True"), console)
    assert "\n" not in str(caught.value) and "held-out trials" in console.file.getvalue()
    assert torch.equal(weights(folder / "final"), weights(done[0] / "final"))
    (folder / "eval.json").unlink()
    report, _ = run(folder, "--resume", "True")
    assert report["return_mean"] == done[1]["return_mean"]


def test_a_run_that_is_done_has_one_summary_however_often_it_is_resumed(done, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(done[0], folder)
    before = (folder / "metrics.jsonl").read_text()
    assert before.count("train_runtime") == 1
    run(folder, "--resume", "True", final_eval_trials=0)
    assert (folder / "metrics.jsonl").read_text() == before
    run(folder, "--resume", "True", final_eval_trials=0, max_steps=5)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert ["train_runtime" in line for line in lines] == [False] * (len(lines) - 1) + [True]


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_damaged_start_is_made_again(file, done, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(done[0], folder)
    for step in (2, 4):
        shutil.rmtree(folder / f"checkpoint-{step}")
    before = tree(folder / "start")
    os.truncate(folder / "start" / file, 100)
    (folder / "start" / "notes.md").write_text("mine")
    _, text = run(folder, "--resume", "True", final_eval_trials=0)
    assert f"start is damaged ({file} has 100 bytes of " in text and "): it is made again" in text
    (folder / "start" / "notes.md").unlink()
    assert tree(folder / "start") == before
    assert torch.equal(weights(folder / "final"), weights(done[0] / "final"))


def test_a_run_without_its_settings_is_not_resumed(done, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(done[0], folder)
    for name in ("settings.json", "config.yaml"):
        (folder / name).unlink()
    before = tree(folder)
    with pytest.raises(ConfigError, match=r"holds neither settings.json nor config.yaml"):
        run(folder, "--resume", "True", seed=5)
    assert tree(folder) == before


def test_a_damaged_checkpoint_is_passed_over(done, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(done[0], folder)
    os.truncate(folder / "checkpoint-4" / "optimizer.pt", 100)
    _, text = run(folder, "--resume", "True", final_eval_trials=0)
    assert "checkpoint-4 is damaged (optimizer.pt has 100 bytes of" in text and "checkpoint-2\n" in text
    assert torch.equal(weights(folder / "final"), weights(done[0] / "final"))
    for step in (2, 4):
        os.truncate(folder / f"checkpoint-{step}" / "model.safetensors", 0)
    before = tree(folder)
    with pytest.raises(ConfigError, match="no checkpoint can be resumed"):
        run(folder, "--resume", "True")
    assert tree(folder) == before


# ---------------------------------------------------------------------- what is not the run's


def test_a_folder_that_is_not_a_run_is_left_alone(tmp_path):
    folder = tmp_path / "thatfolder"
    (folder / "src").mkdir(parents=True)
    (folder / "config.yaml").write_text("a: 1")
    (folder / "src" / "thesis.tex").write_text("years")
    before = tree(tmp_path)
    for flags in ((), ("--overwrite", "True"), ("--resume", "True")):
        with pytest.raises(ConfigError, match=r"holds config\.yaml, which a run would write"):
            run(folder, *flags)
        assert tree(tmp_path) == before


def test_a_model_in_the_output_folder_is_refused(done, tmp_path):
    folder = tmp_path / "own"
    shutil.copytree(done[0], folder)
    before = tree(tmp_path)
    for model in (folder / "final", folder / "checkpoint-2" / ".." / "final"):
        with pytest.raises(ConfigError, match=r"model_name_or_path=.* lies in output_dir"):
            run(folder, "--overwrite", "True", model_name_or_path=model)
    with pytest.raises(ConfigError, match=r"model_name_or_path=.* lies in output_dir"):
        run(folder / "final", "--overwrite", "True", model_name_or_path=folder / "final")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"report_to": "wandb"}, "report_to='wandb' needs a library that is not installed"),
        ({"report_to": "blackboard"}, "report_to='blackboard'"),
        ({"push_to_hub": "True"}, "push_to_hub"),
        ({"sync_ref_model": "True"}, "sync_ref_model"),
        ({"model_name_or_path": "BROKEN"}, "holds no weights as safetensors"),
    ],
)
def test_what_libraries_find_out_late_is_told_before_the_claim(changes, told, done, tmp_path, monkeypatch):
    monkeypatch.setattr("metarlgym.runtime.before_claim.get_available_reporting_integrations", list)
    shutil.copytree(done[0] / "final", tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    changes = {k: tmp_path / "model" if v == "BROKEN" else v for k, v in changes.items()}
    with pytest.raises(ConfigError, match=told) as caught:
        run(tmp_path / "new", **changes)
    assert "\n" not in str(caught.value) and not (tmp_path / "new").exists()


def test_a_start_that_fails_leaves_nothing_and_the_next_one_works(done, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("the trainer cannot be made")

    old = tmp_path / "old"
    shutil.copytree(done[0], old)
    before = tree(tmp_path)
    monkeypatch.setattr("metarlgym.training.run.MetaGRPOTrainer", broken)
    for folder, flags in ((tmp_path / "a" / "new", ()), (old, ("--overwrite", "True")), (old, ("--resume", "True"))):
        with pytest.raises(RuntimeError, match="cannot be made"):
            run(folder, *flags, **({} if "--resume" in flags else NO_IMITATION))
        assert tree(tmp_path) == before and not (tmp_path / "a").exists()
    monkeypatch.undo()
    run(tmp_path / "a" / "new", max_steps=1, final_eval_trials=0, **NO_IMITATION)


def test_a_failing_first_rollout_leaves_nothing(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise MetaRLGymError("no trial could act")

    monkeypatch.setattr("metarlgym.rollout.manager.RolloutManager.run", broken)
    with pytest.raises(MetaRLGymError, match="no trial could act"):
        run(tmp_path / "new", scratch_tokenizer="byte", max_context_tokens=256, max_action_tokens=8, **NO_IMITATION)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("moment", ["warm-up", "rollout", "step 3", "evaluation"])
def test_ctrl_c_is_one_line_that_says_what_is_saved(moment, tmp_path, monkeypatch, capfd):
    def press(*_, **__):
        os.kill(os.getpid(), signal.SIGINT)

    places = {
        "warm-up": "metarlgym.training.start.warm_up",
        "rollout": "metarlgym.training.trainer.MetaGRPOTrainer.rollout",
        "step 3": "metarlgym.training.trainer.MetaGRPOTrainer.rollout",
        "evaluation": "metarlgym.training.run.evaluate_policy",
    }
    inner = MetaGRPOTrainer.rollout
    later = moment == "step 3"

    def rollout(self, rows):
        return press() if self.state.global_step == 3 else inner(self, rows)

    monkeypatch.setattr(places[moment], rollout if later else press)
    words = [word for name, value in SMALL.items() for word in (f"--{name}", value)]
    before = signal.getsignal(signal.SIGINT)
    assert main([*words, "--output_dir", str(tmp_path / "run"), "--overwrite"]) == 130
    assert signal.getsignal(signal.SIGINT) == before
    error = capfd.readouterr().err
    line = error[error.index("stopped:") :]
    assert line.count("\n") == 1 and "Traceback" not in error
    last = tmp_path / "run" / "checkpoint-2"
    told = {
        "warm-up": f"before the first step was done: {tmp_path / 'run'} is left as it was.",
        "rollout": "step 0 of 4; no checkpoint is written yet; resume with: metarlgym train",
        "step 3": f"step 3 of 4; the last complete checkpoint is {last}; resume with: metarlgym train",
        "evaluation": f"training is done, the evaluation is not: the final model is {last.with_name('final')}; resume",
    }
    assert told[moment] in line
    assert (tmp_path / "run").exists() == (moment != "warm-up")
    if moment != "warm-up":
        assert line.rstrip().endswith("--resume") and "--overwrite" not in line


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


def test_an_unknown_group_is_told_with_its_neighbors(tmp_path):
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
    assert main(["--env_id", "Doors-v0", "--episodes", "0", "--max_steps", "1", "--output_dir", str(tmp_path)]) == 2
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
    again = evaluate(group, policy, renderer, EvalSettings(TrialSettings(3), trials=16)).to_dict()
    assert again["return_mean"] == report["return_mean"]
