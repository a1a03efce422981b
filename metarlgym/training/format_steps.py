"""Format steps: first optimizer steps on random legal play, which teach a pretrained model how actions are written.

A chat model writes "I would open door 2" where the environment reads `[2]`. In a format step the trials are played by
uniformly random legal actions, written as they should be, and every action token gets advantage 1, so that the step is
one of imitation: the same loss, optimizer, adapters, shards and checkpoints as in all other steps. What is imitated is
random, so the model learns the form and no strategy: afterwards it scores random play.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from metarlgym.datatypes import ConfigError
from metarlgym.policies.scripted import RandomTokenPolicy
from metarlgym.rollout.protocol import Policy
from metarlgym.rollout.render import Renderer

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from metarlgym.training.batch import TrialBatch


def check_format(renderer: Renderer) -> None:
    """Refuse format steps for a model whose replies begin inside a thought.

    Raises:
        ConfigError: imitating actions without thoughts would teach it not to think.
    """
    if renderer.thinking is not None and renderer.thinking.opened:
        raise ConfigError(
            "format_steps imitate actions without thoughts, and the chat template begins each reply inside one: set "
            "format_steps to 0, or chat_template_kwargs such as enable_thinking: false."
        )


def random_player(renderer: Renderer) -> Policy:
    """The policy of format steps."""
    return RandomTokenPolicy(renderer)


def imitate(out: dict[str, Any], batch: TrialBatch, metrics: MutableMapping[str, list[float]]) -> None:
    """Turn TRL's scored rollout into one to imitate.

    Advantages become 1, the importance ratios too: nothing was sampled from a model, so there is no other distribution
    to correct for, and TRL's metrics of the sampler are dropped.
    """
    sampled = batch.sampled(out["completion_ids"].shape[1])
    out["advantages"] = sampled.float().to(out["completion_ids"].device)
    if "importance_sampling_ratio" in out:
        out["importance_sampling_ratio"] = torch.ones_like(out["importance_sampling_ratio"])
    for name in [name for name in metrics if name.startswith("sampling/")]:
        metrics[name].pop()
        if not metrics[name]:
            del metrics[name]
