"""Environment tokens stay in the attention and out of the loss: exactly, not nearly."""

from __future__ import annotations

import pytest
import torch
from tiny import make_trainer, terse, word_parts

from metarlgym.training.prefixes.trainer import ROWS, TREES, TRL

PATHS = [TRL, ROWS, TREES]
LOSSES = ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    group = terse("GuessNumber-v0", numbers=4, guesses=3)
    trainer = make_trainer(
        tmp_path_factory.mktemp("masking"),
        group,
        word_parts(group, layers=2),
        episodes=2,
        entropy_schedule="0:0.1, 5:0",  # the entropy bonus must keep to the policy's tokens too
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


@pytest.fixture(scope="module")
def batch(trainer):
    rows = [dict(row) for row in trainer.train_dataset.select(range(2)) for _ in range(4)]
    return trainer._generate_and_score_completions(rows)


def gradient_at_the_head(trainer, batch):
    """Gradient of the loss at the input of the LM head, shape `(B, P + T, d)`.

    TRL fuses the head into its loss, so that no logits exist to look at. The head's input is the output of the final
    norm, which feeds nothing else: its gradient at a position is `W^T` times the gradient of that position's logits,
    and is exactly 0 if that is.
    """
    kept = []

    def keep(module, args, output):
        output.retain_grad()
        kept.append(output)

    hook = trainer.model.model.norm.register_forward_hook(keep)
    try:
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model, batch).backward()
    finally:
        hook.remove()
    assert len(kept) == 1, "TRL's loss made more than one forward pass: the seam moved"
    return kept[0].grad


def policy_tokens(batch):
    """Bool `(B, P + T)`: the token is the policy's."""
    prompt = torch.zeros_like(batch["prompt_mask"])
    return torch.cat([prompt, batch["completion_mask"] * batch["tool_mask"]], 1).bool()


@pytest.mark.parametrize("path", [TRL, ROWS])
@pytest.mark.parametrize("loss_type", LOSSES)
def test_no_gradient_at_logits_that_predict_environment_tokens(trainer, batch, loss_type, path):
    trainer.loss_type, trainer.path = loss_type, path
    gradient = gradient_at_the_head(trainer, batch)
    predicts_policy = torch.zeros(gradient.shape[:2], dtype=torch.bool)
    predicts_policy[:, :-1] = policy_tokens(batch)[:, 1:]
    assert (~predicts_policy[:, :-1]).any()
    assert torch.equal(gradient[~predicts_policy], torch.zeros_like(gradient[~predicts_policy]))
    assert gradient[predicts_policy].abs().sum(-1).all()  # the entropy bonus reaches each of them


@pytest.mark.parametrize("loss_type", LOSSES)
def test_no_gradient_elsewhere_in_a_tree(trainer, batch, loss_type):
    trainer.loss_type, trainer.path = loss_type, TREES
    gradient = gradient_at_the_head(trainer, batch)
    (tokens,) = {len(rows) for rows in gradient}
    predictors = trainer.index[policy_tokens(batch)[:, batch["prompt_ids"].shape[1] :]].unique()
    found = gradient[0].abs().sum(-1).nonzero()[:, 0]
    assert len(predictors) < tokens
    assert torch.equal(found, predictors)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("loss_type", LOSSES)
def test_huge_advantages_at_environment_tokens_change_no_gradient(trainer, batch, loss_type, path):
    trainer.loss_type, trainer.path = loss_type, path
    gradients = []
    for value in (0.0, 1e9):
        advantages = torch.where(policy_tokens(batch)[:, batch["prompt_ids"].shape[1] :], batch["advantages"], value)
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model, {**batch, "advantages": advantages}).backward()
        gradients.append({name: p.grad.clone() for name, p in trainer.model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_environment_tokens_are_attended_to(trainer, batch):
    """Another observation changes the log-probabilities of later actions."""
    row = trainer._batch.rows[0]
    first = row.action_mask.index(0)
    assert first < len(row.action_mask) - 1
    place = row.prompt_len + first
    changed = list(row.ids)
    changed[place] = (changed[place] + 1) % trainer.model.config.vocab_size
    with torch.no_grad():
        logits = trainer.model(input_ids=torch.tensor([row.ids, changed])).logits
    assert torch.equal(logits[0, :place], logits[1, :place])
    assert not torch.allclose(logits[0, place:], logits[1, place:])
