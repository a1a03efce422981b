"""Prompts that leave no room for an action: told in one line, before a folder is claimed where that can be."""

from __future__ import annotations

import json

import pytest
from tiny import byte_parts, make_trainer, terse, trial_maker, word_parts

from metarlgym import ConfigError, Episode, MetaTrajectory, StopReason, Task
from metarlgym.evaluation.evaluate import EvalSettings, evaluate
from metarlgym.policies.in_process import InProcessPolicy
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.prompt_room import check_room, no_room, stuck
from metarlgym.rollout.transcript import Transcript
from metarlgym.runtime.agreement import AgreedError
from metarlgym.training.batch import TrialBatch
from metarlgym.trial import TrialSettings

DOORS = terse("Doors-v0")
END = 2


def test_a_rollout_without_room_stops_the_run_with_the_numbers(tmp_path):
    model, tokenizer, renderer = word_parts(DOORS)
    prompt = len(renderer.prompt(_messages()))
    trainer = make_trainer(tmp_path, DOORS, (model, tokenizer, renderer), max_context_tokens=prompt + 1)
    with pytest.raises(AgreedError) as error:
        trainer.train()
    told = str(error.value)
    assert f"longest prompt has {prompt} tokens" in told and f"max_context_tokens {prompt + 1}" in told
    assert f"Set max_context_tokens to at least {prompt + 2}" in told and "\n" not in told
    assert trainer.state.global_step == 0


def test_room_for_one_action_is_enough(tmp_path):
    parts = word_parts(DOORS)
    prompt = len(parts[2].prompt(_messages()))
    trainer = make_trainer(tmp_path, DOORS, parts, max_context_tokens=prompt + 2)
    trainer.train()
    assert trainer.state.global_step == 2


def test_the_models_positions_count_too(tmp_path):
    model, tokenizer, renderer = byte_parts(context=8)
    trainer = make_trainer(tmp_path, DOORS, (model, tokenizer, renderer))
    with pytest.raises(
        AgreedError, match=r"the model's positions 8\).*Take a model with more positions|more positions"
    ):
        trainer.train()


def test_an_evaluation_without_room_stops_with_the_numbers():
    model, _, renderer = byte_parts()
    settings = EvalSettings(TrialSettings(2), 4, limits=Limits(context_tokens=8), controls=False, baselines=False)
    with pytest.raises(ConfigError, match=r"the longest prompt has \d+ tokens.*a context holds 8"):
        evaluate(DOORS, InProcessPolicy(model, renderer), renderer, settings)


def test_prompts_are_checked_beforehand():
    _, _, renderer = word_parts(DOORS)
    prompt = len(renderer.prompt(_messages()))
    check_room(DOORS, trial_maker(DOORS), renderer, {"max_context_tokens": prompt + 2, "positions": None})
    with pytest.raises(ConfigError, match=f"longest prompt has {prompt} tokens"):
        check_room(DOORS, trial_maker(DOORS), renderer, {"max_context_tokens": prompt + 1})


@pytest.mark.parametrize("tokenizer", ["word", "byte"])
def test_train_refuses_before_it_claims_the_folder(tokenizer, tmp_path, capsys):
    from metarlgym.train import main

    folder = tmp_path / "run"
    settings = {
        "env_id": "Doors-v0",
        "env_args": json.dumps({"style": "terse"}),
        "episodes": 2,
        "trials_per_task": 4,
        "per_device_train_batch_size": 8,
        "max_steps": 1,
        "max_context_tokens": 2,
        "scratch_tokenizer": tokenizer,
        "use_cpu": "true",
        "output_dir": str(folder),
    }
    assert main([part for name, value in settings.items() for part in (f"--{name}", str(value))]) != 0
    captured = capsys.readouterr()
    assert "max_context_tokens 2" in " ".join((captured.out + captured.err).split())
    assert not folder.exists()


def test_what_limits_is_named():
    only = no_room(50, 1, {"max_context_tokens": 40, "the model's positions": 64})
    both = no_room(70, 1, {"max_context_tokens": 40, "the model's positions": 64})
    assert "holds 40" in only and "Set max_context_tokens to at least 52" in only
    assert "a model with more positions" in both


def trial(stop, acted=False, prompt=20):
    row = Transcript.open([1] * prompt)
    if acted:
        row.add_action([7], [-0.5], 0, 0)
    row.close(frozenset([END]), END)
    return MetaTrajectory(Task("Doors-v0", {"prize": 0}), 0, [Episode("", [], stop=stop)], 3, [row], stop)


def test_stuck_is_where_no_trial_could_act():
    full, failed = trial(StopReason.CONTEXT_LIMIT), trial(StopReason.ERROR)
    assert stuck([full, trial(StopReason.CONTEXT_LIMIT, prompt=30), failed]) == 30
    assert stuck([failed]) is None
    assert stuck([]) is None


def test_rows_without_actions_cost_nothing(tmp_path):
    from tiny import make_config

    class Renderer:
        end_id = END
        thinking = None

    trials = [trial(StopReason.CONTEXT_LIMIT), trial(StopReason.TERMINATED, acted=True)]
    args = make_config(tmp_path, trials_per_task=2, per_device_train_batch_size=12, memory="none")
    out = TrialBatch(trials, args, Renderer()).rollout_output()
    assert out["prompt_ids"][:3] == [[END]] * 3 and out["completion_ids"][:3] == [[END]] * 3
    assert out["prompt_ids"][3] == [1] * 20 and out["completion_ids"][3] == [7, END]
    assert out["env_mask"][:4] == [[0], [0], [0], [1, 0]]
    assert out["trial_return"] == [0] * 6  # it stays in the baseline with what it earned


def _messages():
    trial = trial_maker(DOORS)()
    trial.reset(options={"task": DOORS.task(0), "episode_seed": 0})
    return trial.messages
