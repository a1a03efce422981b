"""MetaGRPOConfig: rows, derived settings, and every contradiction refused with the field, the value and the fix."""

from __future__ import annotations

import pytest
from tiny import make_config

from metarlgym import ConfigError
from metarlgym.training.config import MetaGRPOConfig
from metarlgym.training.credit import RULES


def config(**settings):
    return make_config("unused", **settings)


# (settings, parts of the message)
REFUSED = [
    ({"episodes": 0}, "episodes=0 must be at least 1"),
    ({"trials_per_task": 1}, "trials_per_task=1 must be at least 2"),
    ({"memory": "some"}, "memory='some' is not known.*last_K"),
    ({"memory": "last_0"}, "k=0 must be at least 1"),
    ({"memory": "none", "max_total_turns": 9, "per_device_train_batch_size": 12}, "max_total_turns=9 .*memory='full'"),
    ({"credit": "mc"}, "credit='mc' is not known: use one of trial"),
    ({"gamma": "1.5"}, "gamma='1.5': 1.5 must lie in"),
    ({"gamma": "0:0.9, 100:-1"}, "-1 must lie in"),
    ({"gamma": "high"}, "gamma='high' is not a schedule"),
    ({"gamma_step": 2.0}, "gamma_step=2.0 must be at least 0 and at most 1"),
    ({"gamma_step": 0.9, "credit": "trial"}, "gamma_step=0.9 credits turns.*'return_to_go' or 'gigpo'"),
    ({"free_shots": "3"}, "free_shots='3': 3 must be a whole number.*below episodes=3"),
    ({"free_shots": "-1"}, "-1 must be a whole number"),
    ({"free_shots": "0.5"}, "0.5 must be a whole number"),
    ({"free_shots": "0:2, 100:5"}, "5 must be a whole number"),
    ({"entropy_schedule": "0:a"}, "entropy_schedule='0:a' is not a schedule"),
    ({"scale_rewards": "group"}, "scale_rewards='group' has no meaning with credit='return_to_go'"),
    ({"scale_rewards": "none", "credit": "gigpo"}, "has no meaning with credit='gigpo'"),
    ({"top_p": 0.9}, "top_p=0.9.*bias the gradient"),
    ({"top_k": 5}, "top_k=5"),
    ({"min_p": 0.1}, "min_p=0.1"),
    ({"num_generations": 8}, "num_generations=8 contradicts trials_per_task=4 with 1 row.*make 4: leave"),
    ({"num_generations_eval": 2}, "num_generations_eval=2 contradicts"),
    ({"memory": "none", "per_device_train_batch_size": 12, "num_generations": 4}, "with 3 row.*make 12"),
    ({"per_device_train_batch_size": 6}, "= 6 rows hold no whole number of groups of 4 rows"),
    ({"memory": "none", "per_device_train_batch_size": 8}, "groups of 12 rows.*make it a multiple of 12"),
    (
        {"save_strategy": "steps", "save_steps": 3, "steps_per_generation": 2, "gradient_accumulation_steps": 1},
        "save_steps=3 .*no multiple of steps_per_generation=2 .*could not be resumed exactly",
    ),
    ({"save_strategy": "steps", "save_steps": 3, "num_iterations": 2}, "num_iterations=2"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED, ids=[str(s) for s, _ in REFUSED])
def test_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        config(**settings)


def test_a_trial_on_two_processes_is_refused(monkeypatch):
    # 2 processes x 6 rows are one group of 12, but 6 rows of a process hold one trial of 4 episodes and a half.
    monkeypatch.setenv("WORLD_SIZE", "2")
    settings = {"memory": "none", "episodes": 4, "trials_per_task": 3, "per_device_train_batch_size": 6}
    with pytest.raises(ConfigError, match="must be a multiple of episodes=4 with memory='none'"):
        config(**settings)


# ---------------------------------------------------------------------- rows and what follows from them


@pytest.mark.parametrize(("memory", "rows"), [("full", 1), ("none", 3), ("last_2", 3)])
def test_rows_per_trial(memory, rows):
    assert config(memory=memory, per_device_train_batch_size=12).rows_per_trial == rows


@pytest.mark.parametrize(("memory", "rows"), [("full", 4), ("none", 12)])
def test_num_generations_follow_from_trials_and_rows(memory, rows):
    args = config(memory=memory, per_device_train_batch_size=24)
    assert args.num_generations == args.num_generations_eval == rows


def test_num_generations_may_be_given_if_they_agree():
    assert config(num_generations=4).num_generations == 4


def test_one_rollout_fills_one_optimizer_step_by_default():
    assert config(gradient_accumulation_steps=2, per_device_train_batch_size=4).steps_per_generation == 2


# ---------------------------------------------------------------------- defaults and schedules


def test_defaults_that_differ_from_trls():
    args = MetaGRPOConfig(output_dir="unused", max_steps=5, per_device_train_batch_size=8)
    assert (args.credit, args.loss_type, args.scale_rewards) == ("return_to_go", "dapo", "none")
    assert args.vllm_importance_sampling_mode == "token_truncate"
    assert args.vllm_mode == "server"
    assert (args.episodes, args.trials_per_task, args.memory, args.free_shots) == (3, 8, "full", "0")


@pytest.mark.parametrize("rule", RULES)
def test_scale_rewards_is_for_credit_trial_alone(rule):
    assert config(credit=rule).scale_rewards == ("group" if rule == "trial" else "none")


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_credit_trial_obeys_scale_rewards(scale):
    assert config(credit="trial", scale_rewards=scale).scale_rewards == scale


def test_free_shots_are_rounded_between_points():
    args = config(free_shots="0:2, 100:0")
    assert [args.free_shots_at(step) for step in (0, 20, 30, 70, 80, 100, 500)] == [2, 2, 1, 1, 0, 0, 0]


def test_gamma_schedule():
    args = config(gamma="0:0.5, 10:1.0")
    assert [args.gamma_at(step) for step in (0, 5, 10, 99)] == [0.5, 0.75, 1.0, 1.0]


def test_an_entropy_schedule_that_starts_at_0_turns_the_bonus_on():
    assert config(entropy_schedule="0:0, 10:0.1").entropy_coef == 0.1


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo"])
def test_losses_that_depend_on_the_process_count_warn(monkeypatch, loss_type):
    monkeypatch.setattr(MetaGRPOConfig, "world_size", property(lambda self: 2))
    with pytest.warns(UserWarning, match="normalizes on each process"):
        config(loss_type=loss_type)


def test_the_config_survives_its_own_plain_form():
    args = config(credit="trial", gamma="0.9", episodes=2)
    assert {"episodes": 2, "gamma": "0.9", "credit": "trial"}.items() <= args.to_dict().items()
