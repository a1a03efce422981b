"""Training with thoughts: forced tokens stay out of the loss, dropped thoughts make one row per episode, metrics."""

from __future__ import annotations

import types

import pytest
import torch

from metarlgym import ConfigError
from metarlgym.training.thoughts import ThoughtAlarm
from tests.thinkers import DOORS, GUESS, thinking_parts
from tests.tiny import logged, make_config, make_trainer

both = pytest.mark.parametrize("opened", [False, True], ids=["sampled", "opened"])
SHORT = {"max_thought_tokens": 3, "max_action_tokens": 3, "episodes": 2, "trials_per_task": 4}


def trained_on(folder, opened=False, group=GUESS, **settings):
    """A trainer and its first batch."""
    parts = thinking_parts(group, opened)
    trainer = make_trainer(folder, group, parts, entropy_schedule="0:0.1, 5:0", **{**SHORT, **settings})
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    rows = trainer.args.per_device_train_batch_size
    chosen = [dict(row) for row in trainer.train_dataset.select(range(rows // trainer.args.num_generations))]
    inputs = [dict(row) for row in chosen for _ in range(trainer.args.num_generations)]
    return trainer, trainer._generate_and_score_completions(inputs)


def forced_places(trainer, batch):
    """Bool `(B, T)`: the token closed a thought without being sampled."""
    close = torch.tensor(trainer.renderer.thinking.close_ids)
    ids, mask = batch["completion_ids"], batch["tool_mask"]
    forced = torch.zeros_like(ids, dtype=torch.bool)
    pairs = (ids[:, :-1] == close[0]) & (ids[:, 1:] == close[1])
    forced[:, :-1] |= pairs
    forced[:, 1:] |= pairs
    assert not mask[forced].any()
    return forced


@both
def test_the_gradient_is_exactly_0_at_forced_tokens(tmp_path, opened):
    trainer, batch = trained_on(tmp_path, opened, share_prefixes=False)
    kept = []

    def keep(module, args, output):
        output.retain_grad()
        kept.append(output)

    hook = trainer.model.model.norm.register_forward_hook(keep)
    trainer.compute_loss(trainer.model, batch).backward()
    hook.remove()
    (output,) = kept
    start = batch["prompt_ids"].shape[1]
    gradient = output.grad[:, start - 1 : -1]  # at the positions that predict the completion
    forced = forced_places(trainer, batch)
    assert int(forced.sum()) > 10
    assert torch.equal(gradient[forced], torch.zeros_like(gradient[forced]))
    sampled = (batch["completion_mask"] * batch["tool_mask"]).bool()
    assert gradient[sampled].abs().sum(-1).all()


@both
def test_huge_advantages_at_forced_tokens_change_no_gradient(tmp_path, opened):
    trainer, batch = trained_on(tmp_path, opened)
    forced = forced_places(trainer, batch)
    assert not batch["advantages"][forced].any()
    gradients = []
    for value in (0.0, 1e9):
        trainer.model.zero_grad()
        changed = {**batch, "advantages": torch.where(forced, value, batch["advantages"])}
        trainer.compute_loss(trainer.model, changed).backward()
        gradients.append([p.grad.clone() for p in trainer.model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@both
def test_dropped_thoughts_give_one_row_an_episode(tmp_path, opened):
    trainer, batch = trained_on(tmp_path, opened, keep_thoughts="episode")
    assert trainer.args.rows_per_trial == 2 and trainer.args.num_generations == 8
    assert len(batch["completion_ids"]) == 8
    start = trainer.renderer.thinking.start_id
    for row in batch["prompt_ids"].tolist()[1::2]:  # the rows of second episodes
        assert row.count(start) == opened
    assert (batch["completion_ids"] == start).any() or opened


def test_thoughts_in_training(tmp_path):
    """The settings reach the rollout, and what is played is counted."""
    ends = {}
    for name, settings in {
        "short": {"max_thought_tokens": 2},
        "long": {"max_thought_tokens": 100},
        "dropped": {"max_thought_tokens": 2, "keep_thoughts": "none"},
    }.items():
        trainer = make_trainer(
            tmp_path / name, DOORS, thinking_parts(DOORS), learning_rate=1e-3, **{**SHORT, **settings}
        )
        trainer.train()
        ends[name] = trainer
    short, long, dropped = ends.values()
    assert logged(short, "thought_cut_rate") == [1.0, 1.0] and logged(long, "thought_cut_rate") == [0.0, 0.0]
    assert logged(short, "thought_tokens") == [2.0, 2.0] and min(logged(long, "thought_tokens")) > 3
    assert all(0 < rate < 1 for rate in logged(short, "thought_rate"))
    assert [t.args.rows_per_trial for t in (short, long, dropped)] == [1, 1, 2]
    weights = [torch.cat([p.flatten() for p in t.model.parameters()]) for t in (short, long, dropped)]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_evaluations_during_training_count_cut_thoughts(tmp_path):
    trainer = make_trainer(tmp_path, DOORS, thinking_parts(DOORS), eval_strategy="steps", eval_trials=8, **SHORT)
    metrics = trainer.evaluate()
    assert 0 < metrics["eval_thought_cut_rate"] <= 1


def test_models_without_thoughts_log_nothing_about_them(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.train()
    assert not any("thought" in name for entry in trainer.state.log_history for name in entry)


# ---------------------------------------------------------------------- refusals


def test_thoughts_within_an_episode_cannot_be_dropped_in_training(tmp_path):
    with pytest.raises(ConfigError, match=r"keep_thoughts='none' with GuessNumber-v0, whose episodes have 3 turns"):
        make_trainer(tmp_path, GUESS, thinking_parts(), keep_thoughts="none", **SHORT)
    trainer, batch = trained_on(tmp_path, keep_thoughts="none", max_episode_turns=1)
    assert len(batch["completion_ids"]) == 8 == trainer.args.num_generations


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep_thoughts": "some"}, r"keep_thoughts='some' is not known: use one of all, episode, none\."),
        ({"keep_thoughts": "episode", "max_total_turns": 5}, "use keep_thoughts='all'"),
        ({"keep_thoughts": "episode", "memory": "none"}, "would have no effect with memory='none'"),
        ({"max_thought_tokens": -1}, "max_thought_tokens=-1 must be at least 0"),
    ],
)
def test_settings_that_contradict_each_other(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        make_config(tmp_path, per_device_train_batch_size=24, **settings)


# ---------------------------------------------------------------------- the warning


def alarm(*logs):
    said = []
    watch = ThoughtAlarm(said.append)
    for line in logs:
        watch.on_log(None, types.SimpleNamespace(is_world_process_zero=True), None, logs=line)
    return said


def test_a_warning_when_most_actions_follow_a_cut_thought():
    few, most = ({"thought_rate": 0.9, "thought_cut_rate": rate} for rate in (0.5, 0.8))
    assert alarm({"loss": 0.0}, few, few) == []
    (line,) = alarm(few, most, most)  # once
    assert line.startswith("72% of the actions follow a cut thought: raise max_thought_tokens")
    assert "enable_thinking: false" in line
