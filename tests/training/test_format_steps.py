"""Format steps: imitation of random legal play inside the trainer."""

from __future__ import annotations

import pytest
import torch
from tiny import make_trainer, terse, word_parts

from metarlgym import ConfigError, Step
from metarlgym.envs.doors import Doors
from metarlgym.models.scratch import chat_tokenizer
from metarlgym.rollout.render import ChatRenderer
from metarlgym.rollout.thinking import Thinking
from metarlgym.training.format_steps import check_format

DOORS = terse("Doors-v0", doors=3)


def trainer_on_doors(folder, **settings):
    return make_trainer(folder, DOORS, word_parts(DOORS, layers=1), **settings)


def test_the_gradient_is_that_of_the_mean_log_likelihood_of_the_actions(tmp_path):
    trainer = trainer_on_doors(tmp_path, format_steps=1)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    rows = [dict(row) for row in trainer.train_dataset.select(range(2)) for _ in range(4)]
    batch = trainer._generate_and_score_completions(rows)
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, batch).backward()
    found = torch.cat([p.grad.flatten() for p in trainer.model.parameters()])

    inputs = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    logp = torch.log_softmax(trainer.model(input_ids=inputs, attention_mask=mask).logits[:, :-1], -1)
    logp = logp.gather(-1, inputs[:, 1:, None])[..., 0][:, batch["prompt_ids"].shape[1] - 1 :]
    actions = (batch["completion_mask"] * batch["tool_mask"]).bool()
    trainer.model.zero_grad()
    (-logp[actions].mean()).backward()
    expected = torch.cat([p.grad.flatten() for p in trainer.model.parameters()])
    assert torch.allclose(found, expected, atol=1e-6)


def test_they_teach_the_form_and_no_strategy(tmp_path):
    trainer = trainer_on_doors(tmp_path, format_steps=40, max_steps=41, learning_rate=1e-2, eval_trials=1024)
    untrained = trainer.evaluate()
    trainer.train()
    rows = [log for log in trainer.state.log_history if "invalid_rate" in log]
    assert all(row["invalid_rate"] == 0 for row in rows[:40]), "random legal play is legal"
    assert rows[40]["invalid_rate"] < 0.1 < untrained["eval_invalid_rate"]
    assert not any(name.startswith("sampling/") for row in rows[:40] for name in row)
    assert ["rollout/tokens_per_second" in row for row in rows] == [False] * 40 + [True]
    mean = float(trainer.evaluate()["eval_return"])
    standard_error = (3 * 0.19 / 1024) ** 0.5  # the variance of a choice among 1, 0, 0 and .4 is below .19
    assert abs(mean - 3 * (1 / 3 * 3 / 4 + 0.4 / 4)) < 4 * standard_error + 0.1


def test_the_rollouts_after_them_are_the_policys(tmp_path):
    trainer = trainer_on_doors(tmp_path, format_steps=1, max_steps=2)
    kept = []
    trainer.on_trials = lambda step, trajectories: kept.append([t.rows[0] for t in trajectories])
    trainer.train()
    assert all(value == 0.0 for row in kept[0] for value in row.logprobs), "nothing was sampled from the model"
    assert any(value < 0.0 for row in kept[1] for value in row.logprobs)


def test_a_run_of_format_steps_alone_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="format_steps=2 leaves no step of max_steps=2"):
        trainer_on_doors(tmp_path, format_steps=2, max_steps=2)


def test_a_template_that_opens_thoughts_is_refused():
    renderer = ChatRenderer(chat_tokenizer())
    check_format(renderer)
    renderer.thinking = Thinking(1, 2, (2,), opened=False)
    check_format(renderer)
    renderer.thinking = Thinking(1, 2, (2,), opened=True)
    with pytest.raises(ConfigError, match="format_steps imitate actions without thoughts"):
        check_format(renderer)


def test_they_imitate_where_random_play_scores_alike(tmp_path, monkeypatch):
    """`skip_zero_signal` masks groups without a signal, which in format steps all may be."""
    trainer = trainer_on_doors(tmp_path, format_steps=1, skip_zero_signal=True)
    trainer.model.train()
    monkeypatch.setattr(Doors, "on_step", lambda self, action: Step("nothing", 0.0, True, False, {"valid": True}))
    rows = [dict(row) for row in trainer.train_dataset.select(range(2)) for _ in range(4)]
    batch = trainer._generate_and_score_completions(rows)
    assert int((batch["completion_mask"] * batch["tool_mask"]).sum()) == int(batch["num_items_in_batch"]) > 0
