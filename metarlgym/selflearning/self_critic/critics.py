"""Critics: the networks that score an actor's samples or generate its targets.

| critic | network |
|---|---|
| `live` | the actor itself, which receives the gradient of its own verdict |
| `live_detached` | the actor itself; its verdict is detached |
| `frozen` | a copy of the actor from the end of phase A |
| `ema_T` | a moving average of the actor with decay `T` per step after the first, such as `ema_0.99` |
| `refreshed` | a copy that periodically returns to phase A, with the actor's current samples |
| `grounded` | the actor itself: its gain in log-likelihood of real tokens over its moving average (form `score`) |
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from metarlgym.datatypes import ConfigError
from metarlgym.selflearning.self_critic.actor_critic import ActorCritic

KINDS = ("live", "live_detached", "frozen", "ema_T", "refreshed", "grounded")


def ema_share(name: str) -> float | None:
    """`T` of `ema_T`; None for other critics.

    Raises:
        ConfigError: unknown critic.
    """
    if name.startswith("ema_"):
        try:
            share = float(name[4:])
        except ValueError:
            share = -1.0
        if not 0 < share < 1:
            raise ConfigError(f"critics: {name!r}: the share after ema_ must be above 0 and below 1, as in ema_0.99.")
        return share
    if name not in KINDS:
        raise ConfigError(f"critics: {name!r} is not known: use {', '.join(KINDS)}.")
    return None


class Critic:
    """The critic of a run, of any kind.

    Args:
        name: kind of critic.
        actor: the model in training.
        tau: decay of the moving average for `grounded`.
    """

    def __init__(self, name: str, actor: ActorCritic, tau: float = 0.99) -> None:
        self.name, self.actor = name, actor
        self.at_start = _frozen(actor)
        """The critic as it was at the start."""
        share = tau if name == "grounded" else ema_share(name)
        self.average: Any = None
        if share is not None:
            self.average = AveragedModel(actor, multi_avg_fn=get_ema_multi_avg_fn(share)).requires_grad_(False)
        self._copy = copy.deepcopy(actor).requires_grad_(True) if name == "refreshed" else None

    @property
    def judge(self) -> ActorCritic:
        """The network that gives the verdict."""
        if self.name in ("live", "live_detached", "grounded"):
            return self.actor
        if self.average is not None:
            return self.average.module
        return self.at_start if self._copy is None else self._copy

    @property
    def differentiable(self) -> bool:
        """Whether the gradient of the verdict reaches the actor."""
        return self.name == "live"

    def after_step(self) -> None:
        """Called after each step of the actor."""
        if self.average is not None:
            self.average.update_parameters(self.actor)


def _frozen(model: ActorCritic) -> ActorCritic:
    return copy.deepcopy(model).requires_grad_(False)


def restore(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Restore a module's weights from a copy made by `keep`."""
    model.load_state_dict(state)


def keep(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a module's weights."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
