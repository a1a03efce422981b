"""MetaGRPOTrainer: a few steps of everything, on terse Doors or GuessNumber with a tiny model."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import gymnasium
import pytest
import torch
from tiny import logged, make_trainer, terse, tokens, word_parts

from metarlgym import MetaRLGymError, StopReason, register, registry
from metarlgym.envs.doors import Doors
from metarlgym.policies.scripted import RandomTokenPolicy
from metarlgym.runtime.checkpoint import latest_complete

DOORS = terse("Doors-v0")
GUESS = terse("GuessNumber-v0", numbers=3, guesses=2)


def weights(trainer):
    return torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])


def recording(trainer):
    """Keep the trajectories of every rollout of a trainer."""
    kept = []
    trainer.on_trials = lambda step, trajectories: kept.append((step, trajectories))
    return kept


def train(folder, group=DOORS, **settings):
    trainer = make_trainer(folder, group, **settings)
    trainer.before = weights(trainer)
    trainer.kept = recording(trainer)
    trainer.train()
    return trainer


# ---------------------------------------------------------------------- every mode trains

MODES = {
    "full memory": {},
    "no memory": {"memory": "none", "per_device_train_batch_size": 24},
    "last episode": {"memory": "last_1", "per_device_train_batch_size": 24},
    "credit trial": {"credit": "trial"},
    "gigpo by turn": {"credit": "gigpo", "gamma_step": 0.9},
    "return to go by turn": {"gamma_step": 0.9, "gamma": "0.8"},
    "free shots": {"free_shots": "0:2, 2:1"},
    "sequence level": {"importance_sampling_level": "sequence"},
    "entropy schedule": {"entropy_schedule": "0:0.1, 2:0"},
    "budget of turns": {"max_total_turns": 5, "episodes": 5},
}


@pytest.mark.parametrize("settings", MODES.values(), ids=MODES)
def test_every_mode_trains(tmp_path, settings):
    trainer = train(tmp_path, GUESS, **settings)
    assert trainer.state.global_step == 2
    assert torch.isfinite(weights(trainer)).all()
    assert not torch.equal(weights(trainer), trainer.before)
    assert all(error is None for _, played in trainer.kept for error in [t.error for t in played])


def test_training_on_doors_raises_the_return(tmp_path):
    trainer = train(tmp_path, trials_per_task=16, per_device_train_batch_size=128, max_steps=25, learning_rate=2e-2)
    returns = logged(trainer, "trial_return")
    assert sum(returns[-5:]) / 5 > 2 * returns[0]  # from playing any word at all to playing doors
    assert logged(trainer, "invalid_rate")[-1] < 0.5 * logged(trainer, "invalid_rate")[0]


# ---------------------------------------------------------------------- what is logged


def test_metrics_are_those_of_the_trials(tmp_path):
    trainer = train(tmp_path, max_steps=1)
    played = [t.returns for t in trainer.kept[0][1]]
    curve = torch.tensor(played).mean(0)
    assert len(played) == 8
    for n in range(3):
        assert logged(trainer, f"episode_{n + 1}/return") == [pytest.approx(float(curve[n]), abs=1e-6)]
    assert logged(trainer, "trial_return") == [pytest.approx(float(curve.sum()), abs=1e-6)]
    assert logged(trainer, "adaptation_slope") == [pytest.approx(float(curve[2] - curve[0]), abs=1e-6)]
    assert logged(trainer, "reward") == [pytest.approx(float(curve.sum()), abs=1e-5)]
    invalid = sum(e.invalid for t in trainer.kept[0][1] for e in t.episodes)
    assert logged(trainer, "invalid_rate") == [pytest.approx(invalid / 24)]
    for name in ("truncation_rate", "episode_cut_rate", "action_cut_rate", "error_rate"):
        assert logged(trainer, name) == [0.0]
    assert 0 <= logged(trainer, "zero_signal_groups")[0] <= 1


def test_truncated_episodes_are_counted_and_stay_in_the_loss(tmp_path):
    trainer = train(tmp_path, GUESS, max_episode_turns=1, max_steps=1, per_device_train_batch_size=64)
    assert logged(trainer, "episode_cut_rate")[0] > 0.5
    assert logged(trainer, "truncation_rate") == [0.0]  # the trials go on
    assert all(t.stop is not StopReason.ERROR for t in trainer.kept[0][1])
    assert not torch.equal(weights(trainer), trainer.before)


def test_the_entropy_coefficient_follows_its_schedule(tmp_path):
    trainer = train(tmp_path, entropy_schedule="0:0.1, 2:0", max_steps=3)
    assert logged(trainer, "entropy_coef") == [pytest.approx(value) for value in (0.1, 0.05, 0.0)]


def test_free_shots_follow_their_schedule(tmp_path):
    trainer = train(tmp_path, free_shots="0:2, 2:0", max_steps=3)
    assert logged(trainer, "free_shots") == [2.0, 1.0]


# ---------------------------------------------------------------------- groups and seeds


def test_a_group_plays_one_task_and_rollouts_play_new_ones(tmp_path):
    group = terse("GuessNumber-v0", numbers=900, guesses=2)
    trainer = train(tmp_path, group, parts=word_parts(terse("GuessNumber-v0", numbers=9)), max_steps=2)
    keys = [[t.task.key for t in played] for _, played in trainer.kept]
    for played in keys:
        assert len(set(played[:4])) == len(set(played[4:])) == 1
    assert len({key for played in keys for key in played}) == 4


def test_no_two_trials_of_a_run_share_noise_or_samples(tmp_path):
    trainer = make_trainer(tmp_path, steps_per_generation=1, max_steps=3)
    seeds, named = [], []
    trainer.on_trials = lambda step, trajectories: seeds.extend(t.seed for t in trajectories)
    inner = trainer.acting

    @contextmanager
    def watched():
        with inner() as policy:
            submit = policy.submit
            policy.submit = lambda request, done: named.append(request.seed) or submit(request, done)
            yield policy

    trainer.acting = watched
    trainer.train()
    assert len(set(seeds)) == 3 * 8
    assert len(set(named)) == 3 * 8 * 3


def test_common_noise_is_common_to_a_group(tmp_path):
    trainer = train(tmp_path, common_noise=True, max_steps=1)
    seeds = [t.seed for t in trainer.kept[0][1]]
    assert len(set(seeds[:4])) == 1 and len(set(seeds)) == 2
    assert len({t.seed for t in train(tmp_path / "own", max_steps=1).kept[0][1]}) == 8


def test_the_same_seed_trains_the_same_model(tmp_path):
    first, second = train(tmp_path / "a"), train(tmp_path / "b")
    assert [tokens(played) for _, played in first.kept] == [tokens(played) for _, played in second.kept]
    assert torch.equal(weights(first), weights(second))
    other = train(tmp_path / "c", seed=1)
    assert tokens(other.kept[0][1]) != tokens(first.kept[0][1])


# ---------------------------------------------------------------------- batches


def test_accumulated_micro_batches_give_the_step_of_one_batch(tmp_path):
    parts = word_parts(DOORS)
    whole = train(tmp_path / "a", parts=copy.deepcopy(parts), max_steps=1)
    split = train(
        tmp_path / "b",
        parts=copy.deepcopy(parts),
        max_steps=1,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
    )
    assert tokens(whole.kept[0][1]) == tokens(split.kept[0][1])
    assert logged(whole, "grad_norm")[0] == pytest.approx(logged(split, "grad_norm")[0], rel=1e-4)


def test_several_optimizer_steps_on_one_rollout(tmp_path):
    trainer = train(tmp_path, per_device_train_batch_size=4, steps_per_generation=2, max_steps=4)
    assert [step for step, _ in trainer.kept] == [0, 2]


def test_several_iterations_on_one_rollout(tmp_path):
    trainer = train(tmp_path, num_iterations=2, max_steps=4)
    assert [step for step, _ in trainer.kept] == [0, 2]


def test_groups_without_signal_leave_the_loss_and_its_denominator(tmp_path):
    trainer = make_trainer(tmp_path, skip_zero_signal=True, credit="return_to_go")
    trainer.model.train()
    rows = [dict(row) for row in trainer.train_dataset.select(range(2)) for _ in range(4)]
    inner = trainer.rollout

    def rollout(rows):
        inner(rows)
        for trajectory in trainer._batch.trajectories[:4]:  # the first group: nobody earns anything
            for episode in trajectory.episodes:
                episode.ret = 0.0
        for i, trajectory in enumerate(trainer._batch.trajectories[4:]):  # the second: each something else
            trajectory.episodes[0].ret = float(i)
        return trainer._batch.rollout_output()

    trainer.rollout = rollout
    out = trainer._generate_and_score_completions(rows)
    assert out["advantages"][4:].any()
    kept = out["completion_mask"] * out["tool_mask"]
    assert not kept[:4].any()
    assert kept[4:].any()
    assert int(out["num_items_in_batch"]) == int(kept.sum())


# ---------------------------------------------------------------------- errors in environments


class Fragile(Doors):
    """Breaks when the safe door is opened, or already at its start where `fatal`."""

    def __init__(self, fatal=False, **kwargs):
        super().__init__(**kwargs)
        self.fatal = fatal

    def on_reset(self, params, rng):
        if self.fatal:
            raise OSError("no door")
        return super().on_reset(params, rng)

    def on_step(self, action):
        if action in ("safe", "1"):
            raise RuntimeError("the hinge broke")
        return super().on_step(action)


@pytest.fixture(scope="module")
def fragile():
    register("Fragile-v0", Fragile)
    yield lambda **args: terse("Fragile-v0", **args)
    del registry._REGISTRY["Fragile-v0"]
    for name in ("Fragile-v0", "Fragile-Trial-v0"):
        del gymnasium.registry[f"metarlgym/{name}"]


@pytest.mark.parametrize("settings", [{}, {"memory": "none"}, {"gamma_step": 0.9}], ids=str)
def test_an_environment_that_breaks_costs_its_trial_and_not_the_batch(tmp_path, fragile, settings):
    trainer = train(
        tmp_path, fragile(), parts=word_parts(DOORS), max_steps=1, per_device_train_batch_size=24, **settings
    )
    trials = trainer.kept[0][1]
    failed = [i for i, t in enumerate(trials) if t.stop is StopReason.ERROR]
    assert 0 < len(failed) < len(trials)
    assert trials[failed[0]].error == "RuntimeError: the hinge broke"
    assert "on_step" in trials[failed[0]].error_detail
    assert logged(trainer, "error_rate") == [pytest.approx(len(failed) / len(trials))]
    credit = trainer._batch.credit([1.0] * 3, 1.0, 0, 64)
    for row, trial in enumerate(trainer._batch.row_trial):
        if trial in failed:
            assert not credit.advantages[row].any()
    assert torch.isfinite(weights(trainer)).all()


def test_a_rollout_of_nothing_but_errors_ends_the_run_with_the_first_of_them(tmp_path, fragile):
    with pytest.raises(MetaRLGymError, match=r"every trial .* the first in OSError: no door(.|\n)*on_reset"):
        train(tmp_path, fragile(fatal=True), parts=word_parts(DOORS))


def test_a_rollout_that_fails_leaves_a_checkpoint_to_go_on_from(tmp_path, fragile):
    whole = train(tmp_path / "whole", max_steps=4)
    trainer = make_trainer(tmp_path / "broken", DOORS, max_steps=4)

    def breaks(step, trajectories):
        if step == 1:  # from the next rollout on, no environment starts
            trainer.rollouts._trials.clear()
            trainer.group = fragile(fatal=True)

    trainer.on_trials = breaks
    with pytest.raises(MetaRLGymError, match="resume from step 2 with --resume"):
        trainer.train()
    checkpoint, _ = latest_complete(tmp_path / "broken")
    assert checkpoint.name == "checkpoint-2"
    again = make_trainer(tmp_path / "broken", DOORS, word_parts(DOORS, seed=9), max_steps=4)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert torch.equal(weights(again), weights(whole))


# ---------------------------------------------------------------------- other parts


def test_lora_trains_the_adapter_alone(tmp_path):
    from peft import LoraConfig

    base = word_parts(DOORS)
    trainer = make_trainer(
        tmp_path, DOORS, base, {"peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"])}, max_steps=2
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    assert max(logged(trainer, "clip_ratio/region_mean")) == 0.0  # the adapter acted in the rollout too


def test_another_policy_can_play(tmp_path):
    made = []

    def policy(model, renderer, temperature):
        made.append(temperature)
        return RandomTokenPolicy(renderer)

    trainer = make_trainer(tmp_path, DOORS, None, {"policy": policy}, max_steps=2, temperature=0.7)
    trainer.train()
    assert made == [0.7, 0.7]
    assert logged(trainer, "invalid_rate") == [0.0, 0.0]


def test_evaluation_during_training_is_logged(tmp_path):
    trainer = train(tmp_path, eval_strategy="steps", eval_steps=1, eval_trials=16, max_steps=2)
    assert len(logged(trainer, "eval_return")) == 2
    entry = next(e for e in trainer.state.log_history if "eval_return" in e)
    assert entry["eval_return"] == pytest.approx(sum(entry[f"eval_episode_{n}"] for n in (1, 2, 3)))
    assert {"eval_slope", "eval_invalid_rate", "eval_errors"} <= set(entry)


def test_evaluation_leaves_the_train_metrics_alone(tmp_path):
    """The mean of four steps is that of the four, with an evaluation among them or without."""
    settings = {"logging_steps": 4, "max_steps": 4, "save_strategy": "no"}
    alone = train(tmp_path / "a", **settings)
    watched = train(tmp_path / "b", eval_strategy="steps", eval_steps=2, eval_trials=4, **settings)
    evals = [entry for entry in watched.state.log_history if "eval_return" in entry]
    assert [entry["step"] for entry in evals] == [2, 4]
    known = {"epoch", "step"}
    assert all(name in known or name.startswith("eval_") for entry in evals for name in entry)
    lines = [[e for e in t.state.log_history if "trial_return" in e] for t in (alone, watched)]
    assert len(lines[0]) == len(lines[1]) == 1
    timed = {"step_time", "rollout_seconds"}
    same = {k: v for k, v in lines[0][0].items() if not (k in timed or "time" in k or "second" in k)}
    assert same == {k: lines[1][0][k] for k in same}
    returns = [sum(sum(t.returns) for t in played) / len(played) for _, played in watched.kept]
    assert len(returns) == 4
    assert lines[1][0]["trial_return"] == pytest.approx(sum(returns) / 4, abs=1e-6)


def test_evaluation_does_not_change_the_run(tmp_path):
    """Also with dropout, which draws from torch's generator."""

    def parts():
        model, tokenizer, renderer = word_parts(DOORS)
        for module in model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.3
        return model, tokenizer, renderer

    first = train(tmp_path / "a", parts=parts(), max_steps=4)
    second = train(tmp_path / "b", parts=parts(), max_steps=4, eval_strategy="steps", eval_steps=1, eval_trials=4)
    assert [tokens(played) for _, played in first.kept] == [tokens(played) for _, played in second.kept]
    assert torch.equal(weights(first), weights(second))


def test_evaluation_draws_the_same_held_out_trials_each_time(tmp_path):
    trainer = make_trainer(tmp_path, eval_trials=16)
    assert trainer.evaluate() == trainer.evaluate()


@pytest.mark.parametrize("lora", [False, True])
def test_no_model_card_is_written(tmp_path, lora):
    """TRL's would call it a fine-tuned chat model, PEFT's is an empty form."""
    from peft import LoraConfig

    given = {"peft_config": LoraConfig(r=4, target_modules=["q_proj"])} if lora else {}
    trainer = make_trainer(tmp_path, DOORS, None, given, max_steps=1, save_strategy="steps", save_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    assert latest_complete(tmp_path)[0].name == "checkpoint-1"
    assert (tmp_path / "final" / ("adapter_config.json" if lora else "config.json")).exists()
    assert not list(tmp_path.rglob("README.md"))


def test_epochs_are_refused(tmp_path):
    with pytest.raises(MetaRLGymError, match="max_steps is missing"):
        make_trainer(tmp_path, max_steps=-1)
