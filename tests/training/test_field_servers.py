"""Settings of `train` for servers, and TRL's correction for what they sample."""

from __future__ import annotations

import math

import pytest
from field_runs import BASE, CHAT, GIVEN_MODEL, parsed

from metarlgym import TaskGroup
from metarlgym.models.loading import load_model, load_tokenizer
from metarlgym.rollout.make_renderer import make_renderer
from metarlgym.training import trainer as training


def test_settings_of_servers(tmp_path):
    given = {k: v for k, v in BASE.items() if k not in GIVEN_MODEL} | {"model_name_or_path": "m", "use_vllm": True}
    args = parsed(tmp_path, **given, vllm_server_host="far", vllm_server_port=9).grpo
    assert args.server_urls == ["http://far:9"]


def test_correction_for_the_sampler(tmp_path, models):
    """TRL's own loss, told that a server sampled the trials: their log-probabilities are one nat too high."""
    given = {k: v for k, v in {**BASE, **CHAT}.items() if k not in GIVEN_MODEL}
    given |= {"model_name_or_path": str(models / "chat"), "use_vllm": True}

    def ratio(**settings):
        args = parsed(tmp_path, **given, **settings).grpo
        return _ratio(args, tmp_path, models)

    mean = ratio(vllm_importance_sampling_clip_min=None)
    assert mean == pytest.approx(math.exp(-1))
    assert ratio(vllm_importance_sampling_clip_min=0.5) == pytest.approx(0.5)
    assert ratio(vllm_importance_sampling_clip_max=0.2) == pytest.approx(0.2)
    masked = {"vllm_importance_sampling_mode": "token_mask", "vllm_importance_sampling_clip_max": 0.2}
    assert ratio(**masked) == 0
    assert ratio(vllm_importance_sampling_correction=False) is None


def _ratio(args, folder, models):
    """The weight that TRL's batch gives its tokens; None where it has none."""
    args.use_vllm = False
    args.max_steps, args.output_dir = 1, str(folder / "ratio")
    group = TaskGroup("Doors-v0", {"doors": 3})
    tokenizer = load_tokenizer(str(models / "chat"))
    renderer = make_renderer("chat", tokenizer, group)
    trainer = training.MetaGRPOTrainer(load_model(str(models / "chat")), args, group, tokenizer, renderer)
    found = []
    rollout, loss = trainer.rollout, trainer._compute_loss

    def play(rows):
        out = rollout(rows)
        out["logprobs"] = [[value + 1 for value in row] for row in out["logprobs"]]
        return out

    def weigh(model, inputs):
        found.append(inputs.get("importance_sampling_ratio"))
        found.append(inputs["completion_mask"] * inputs["tool_mask"])
        trainer.use_vllm = False  # nothing to weigh the loss by: only the batch is looked at
        return loss(model, inputs)

    trainer.rollout, trainer._compute_loss, trainer.use_vllm = play, weigh, True
    trainer._last_loaded_step = 0  # the server has the weights
    trainer.train()
    if found[0] is None:
        return None
    values = found[0][found[1] > 0]
    assert values.min() == pytest.approx(float(values.max()), rel=1e-3)
    return float(values.mean())
