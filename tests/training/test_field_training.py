"""Settings of `train` that reach the loss, the model, the rollout and the processes."""

from __future__ import annotations

import pytest
import torch
from field_runs import BASE, parsed, refusal


def test_the_adaptive_bonus_follows_its_settings(start):
    def coefficients(**settings):
        found = start(use_adaptive_entropy=True, entropy_coef=0.5, max_steps=3, **settings).lines("entropy_coef")
        return pytest.approx(list(found.values()))

    assert coefficients(entropy_target=9.0) == [0.505, 0.51, 0.515]
    assert coefficients(entropy_target=0.0) == [0.495, 0.49, 0.485]
    assert coefficients(entropy_target=9.0, entropy_coef_delta=0.3) == [0.8, 1.0, 1.0]
    assert coefficients(entropy_target=9.0, entropy_coef_delta=0.3, entropy_coef_max=0.6) == [0.6, 0.6, 0.6]
    assert coefficients(entropy_target=0.0, entropy_coef_delta=0.3, entropy_coef_min=0.4) == [0.4, 0.4, 0.4]


def test_checkpointed_gradients(start, monkeypatch):
    from transformers import PreTrainedModel

    told = []
    inner = PreTrainedModel.gradient_checkpointing_enable

    def enable(self, gradient_checkpointing_kwargs=None, **more):
        told.append(gradient_checkpointing_kwargs)
        inner(self, gradient_checkpointing_kwargs, **more)

    monkeypatch.setattr(PreTrainedModel, "gradient_checkpointing_enable", enable)
    plain = start()
    assert not plain.trainer.model.is_gradient_checkpointing
    run = start(gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": True})
    assert run.trainer.model.is_gradient_checkpointing and told[-1] == {"use_reentrant": True}
    assert (run.weights - plain.weights).abs().max() < 1e-6


def test_limits_reach_the_rollout(start, monkeypatch):
    from metarlgym.training import rollouts

    seen = []
    manager = rollouts.RolloutManager
    monkeypatch.setattr(
        rollouts, "RolloutManager", lambda *args, **more: seen.append(args[2:]) or manager(*args, **more)
    )  # (limits, concurrency)
    settings = {"max_context_tokens": 48, "max_episode_seconds": 60.0, "max_trial_seconds": 90.0}
    run = start(**settings, rollout_concurrency=3)
    limits, concurrency = seen[-1]
    assert (limits.context_tokens, limits.episode_seconds, limits.trial_seconds) == (48, 60.0, 90.0)
    assert concurrency == 3
    assert run.trainer.model.config.max_position_embeddings == 48


def test_the_timeout_of_processes(tmp_path):
    text = refusal(tmp_path, ddp_timeout=300, max_trial_seconds=60.0)
    assert text.startswith("ddp_timeout=300 is shorter than max_trial_seconds=60 + 300")
    assert parsed(tmp_path, **BASE, ddp_timeout=77).grpo.ddp_timeout_delta.total_seconds() == 77


def test_threads(start):
    try:
        start(threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
