"""Correction for rollouts by older weights, and how far these were from the current ones.

TRL keeps two ratios apart: PPO's, of the new to the current policy, and the importance weight, of the current policy to
the one that sampled. It computes the second only if its policy is vLLM; `correction` makes it do so for the in-process
policy as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator

    from metarlgym.training.config import MetaGRPOConfig
    from metarlgym.training.trainer import MetaGRPOTrainer


@contextmanager
def correction(trainer: MetaGRPOTrainer) -> Iterator[None]:
    """Within the block, TRL weighs tokens by current over sampling probability, whatever policy sampled them."""
    if not trainer.args.plays_ahead or trainer.use_vllm:
        yield
        return
    # The flag has one more effect there: weights are sent to vLLM unless this step's were.
    trainer._last_loaded_step = trainer.state.global_step
    trainer.use_vllm = True
    try:
        yield
    finally:
        trainer.use_vllm = False


def off_policy_metrics(
    out: dict[str, Any], versions: Sequence[int], step: int, args: MetaGRPOConfig, accelerator: Accelerator
) -> dict[str, float]:
    """How far the policy that sampled a batch was from the one that learns from it, over all processes. Collective.

    Args:
        out: TRL's scored rollout.
        versions: of this process's tokens, -1 where it is unknown.
        step: optimizer step that trains on the batch.
        args: provides the limits of the importance weights.
        accelerator: gathers.

    Returns:
        `off_policy/updates` and `off_policy/updates_max`, mean and maximum over action tokens of the updates since the
        weights that sampled them; `off_policy/log_ratio`, mean absolute difference of log-probabilities in nats per
        action token; `off_policy/clipped`, share of action tokens whose weight lies outside of the limits. In the
        sequence modes a token has the weight of its row.
    """
    difference = (out["old_per_token_logps"] - out["sampling_per_token_logps"]).float()
    mask = (out["completion_mask"] * out["tool_mask"]).bool() & ~difference.isnan()  # NaN: the server gave none
    difference = difference.masked_fill(~mask, 0.0)
    exponent = difference
    if args.vllm_importance_sampling_mode.startswith("sequence"):
        exponent = difference.sum(-1, keepdim=True).expand_as(difference)
    ratio = exponent.exp()
    low, high = args.vllm_importance_sampling_clip_min, args.vllm_importance_sampling_clip_max
    outside = torch.zeros_like(mask)
    if low is not None:
        outside |= ratio < low
    if high is not None:
        outside |= ratio > high
    ages = [step - version for version in versions if version >= 0]
    sums = torch.stack([difference.abs().sum(), (outside & mask).float().sum(), mask.sum().float()])
    sums = torch.cat([sums, sums.new_tensor([float(sum(ages)), float(len(ages))])])
    distance, clipped, count, age, aged = accelerator.reduce(sums, "sum").tolist()
    oldest = accelerator.gather(sums.new_tensor([float(max(ages, default=0))])).max()
    return {
        "off_policy/updates": age / max(aged, 1.0),
        "off_policy/updates_max": float(oldest),
        "off_policy/log_ratio": distance / max(count, 1.0),
        "off_policy/clipped": clipped / max(count, 1.0),
    }
