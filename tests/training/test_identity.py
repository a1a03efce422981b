"""The credit identity: with one episode and rule `trial` our trainer IS TRL's GRPO.

Advantages are computed by `credit.py` and painted `(B, T)`; TRL's trainer computes its own `(B,)` on the same recorded
rows and rewards, with an identical model. Loss and every gradient agree to the last bit. The rows are multi-turn, with
environment tokens between the actions, and the old log-probabilities are moved, so that ratios are not 1 and clip.
"""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import make_trainer, terse, word_parts
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from metarlgym import StopReason

TOKEN_LOSSES = ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo"]


def reward(prompts, trial_return, **_):
    return trial_return


def plain_trainer(folder, ours, model, record):
    """TRL's own trainer, whose rollouts are those `ours` played."""
    args = ours.args
    settings = {
        name: getattr(args, name)
        for name in (
            "per_device_train_batch_size",
            "max_steps",
            "learning_rate",
            "num_generations",
            "steps_per_generation",
            "scale_rewards",
            "seed",
            "save_strategy",
            "report_to",
            "disable_tqdm",
            "bf16",
            "use_cpu",
            "gradient_checkpointing",
        )
    }
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=[reward],
        args=GRPOConfig(output_dir=str(folder), **settings),
        train_dataset=ours.train_dataset,
        processing_class=ours.processing_class,
        rollout_func=lambda prompts, trainer: record(),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class Pair:
    """Both trainers after one rollout, with the same rows."""

    def __init__(self, folder, scale):
        group = terse("GuessNumber-v0", numbers=3, guesses=3)
        model, tokenizer, renderer = word_parts(group, layers=2)
        twin = copy.deepcopy(model)
        settings = {"episodes": 1, "credit": "trial", "scale_rewards": scale, "share_prefixes": False}
        self.ours = make_trainer(folder, group, (model, tokenizer, renderer), **settings)
        self.trl = plain_trainer(folder, self.ours, twin, lambda: self.ours._batch.rollout_output())
        rows = [dict(row) for row in self.ours.train_dataset.select(range(2)) for _ in range(4)]
        self.rows = {}
        for trainer in (self.ours, self.trl):
            trainer.model.train()
            trainer.current_gradient_accumulation_steps = 1
            self.rows[trainer] = trainer._generate_and_score_completions([dict(row) for row in rows])
        old = self.old_logprobs()
        for out in self.rows.values():
            out["old_per_token_logps"] = old

    def old_logprobs(self):
        out = self.rows[self.ours]
        ids = torch.cat([out["prompt_ids"], out["completion_ids"]], 1)
        mask = torch.cat([out["prompt_mask"], out["completion_mask"]], 1)
        with torch.no_grad():
            now = self.trl._get_per_token_logps_and_entropies(self.trl.model, ids, mask, out["completion_ids"].shape[1])
        return now[0] + 0.5 * torch.randn(now[0].shape, generator=torch.Generator().manual_seed(0))

    def loss_and_gradients(self, trainer, loss_type, level):
        trainer.loss_type, trainer.importance_sampling_level = loss_type, level
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, self.rows[trainer])
        loss.backward()
        return loss.detach(), {name: p.grad for name, p in trainer.model.named_parameters()}


@pytest.fixture(scope="module", params=["group", "batch", "none"])
def pair(request, tmp_path_factory):
    return Pair(tmp_path_factory.mktemp("identity"), request.param)


def test_the_rows_are_the_same_and_hold_environment_tokens(pair):
    ours, trl = pair.rows[pair.ours], pair.rows[pair.trl]
    for key in ("prompt_ids", "completion_ids", "completion_mask", "tool_mask", "num_items_in_batch"):
        assert torch.equal(ours[key], trl[key]), key
    inside = ours["tool_mask"] * ours["completion_mask"]
    assert 0 < inside.sum() < ours["completion_mask"].sum()


def test_our_advantages_are_painted_and_equal_trls_to_the_last_bit(pair):
    ours, trl = pair.rows[pair.ours], pair.rows[pair.trl]
    assert ours["advantages"].shape == ours["completion_ids"].shape
    assert trl["advantages"].dim() == 1
    assert trl["advantages"].any()
    policy = (ours["tool_mask"] * ours["completion_mask"]).bool()
    wide = trl["advantages"][:, None].expand_as(policy)
    assert torch.equal(ours["advantages"][policy], wide[policy])
    assert not ours["advantages"][~policy].any()


@pytest.mark.parametrize("loss_type", TOKEN_LOSSES)
def test_token_level_loss_and_gradients_are_bitwise_equal(pair, loss_type):
    loss, gradients = pair.loss_and_gradients(pair.ours, loss_type, "token")
    loss_trl, gradients_trl = pair.loss_and_gradients(pair.trl, loss_type, "token")
    assert loss == loss_trl
    assert any(g.any() for g in gradients.values())
    unequal = [name for name, g in gradients.items() if not torch.equal(g, gradients_trl[name])]
    assert unequal == []


@pytest.mark.parametrize("loss_type", TOKEN_LOSSES)
def test_sequence_level_loss_and_gradients_are_close(pair, loss_type):
    loss, gradients = pair.loss_and_gradients(pair.ours, loss_type, "sequence")
    loss_trl, gradients_trl = pair.loss_and_gradients(pair.trl, loss_type, "sequence")
    torch.testing.assert_close(loss, loss_trl, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, gradients_trl[name], atol=1e-5, rtol=1e-5)


def test_a_trial_that_failed_leaves_the_baseline_as_an_unscorable_row_does(pair):
    batch = pair.ours._batch
    victim = batch.trajectories[1]
    stop, victim.stop = victim.stop, StopReason.ERROR
    try:
        length = pair.rows[pair.ours]["completion_ids"].shape[1]
        painted = batch.credit([1.0], 1.0, 0, length).advantages
        out = pair.trl._generate_and_score_completions([{"prompt": ""} for _ in batch.rows])
    finally:
        victim.stop = stop
    policy = (out["tool_mask"] * out["completion_mask"]).bool()
    assert not painted[1].any()
    assert torch.equal(painted[policy], out["advantages"][:, None].expand_as(policy)[policy])


@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
def test_whole_training_is_bitwise_equal(tmp_path, loss_type):
    group = terse("GuessNumber-v0", numbers=3, guesses=3)
    parts = word_parts(group)
    start, twin = copy.deepcopy(parts[0]), copy.deepcopy(parts[0])
    recorded = []
    settings = {"episodes": 1, "credit": "trial", "max_steps": 3, "loss_type": loss_type}
    ours = make_trainer(tmp_path, group, parts, {"on_trials": lambda *_: None}, share_prefixes=False, **settings)
    ours.on_trials = lambda step, trajectories: recorded.append(ours._batch.rollout_output())
    ours.train()
    trl = plain_trainer(tmp_path, ours, twin, lambda: recorded.pop(0))
    trl.loss_type = loss_type
    trl.train()
    assert trl.state.global_step == 3
    assert not torch.equal(ours.model.lm_head.weight, start.lm_head.weight)
    for (name, a), (_, b) in zip(ours.model.named_parameters(), trl.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name
