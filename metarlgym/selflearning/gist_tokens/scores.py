"""Similarity of the actor's continuation to the true one: in token space, or in gist space under one of four encoders.

| space | score in [0, 1] |
|---|---|
| `token` | fraction of positions at which both have the same symbol |
| `frozen` | similarity of gist states under the encoder from the end of phase A |
| `ema` | the same under an exponential moving average of the actor |
| `live` | the same under the actor itself, which receives the gradient of the score |
| `guarded` | `live`, with the variance term of VICReg (Bardes et al. 2022, arXiv:2105.04906) against collapse |
| `noise` | a random number, as a control: the effect of updates on the true loss when there is nothing to learn |
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from metarlgym.datatypes import ConfigError
from metarlgym.selflearning.gist_tokens.config import SPACES
from metarlgym.selflearning.gist_tokens.model import GistModel


def token_score(own: Tensor, true: Tensor) -> Tensor:
    """Fraction of positions at which two continuations agree; `(B, n)` and `(B, n)` to `(B,)`."""
    return (own == true).float().mean(1)


def state_score(own: Tensor, true: Tensor, center: Tensor) -> Tensor:
    """Similarity of gist states: cosine after subtracting a center, averaged over gists and mapped to [0, 1].

    Args:
        own: `(B, k, D)`.
        true: `(B, k, D)`.
        center: `(k, D)`: the component shared by all chunks, which carries no information about any of them.

    Returns:
        `(B,)`.
    """
    return (1 + functional.cosine_similarity(own - center, true - center, dim=-1).mean(1)) / 2


class Judge:
    """The scorer of a run.

    Args:
        space: one of `SPACES`.
        actor: the model in training.
        chunks: true chunks, `(B, n2)`, used to estimate the center and spread of gist states at the start.
        tau: decay of the moving average per step.

    Raises:
        ConfigError: unknown space.
    """

    def __init__(self, space: str, actor: GistModel, chunks: Tensor, tau: float) -> None:
        if space not in SPACES:
            raise ConfigError(f"space={space!r} is not known: use one of {', '.join(SPACES)}.")
        self.space, self.actor = space, actor
        self.at_start = copy.deepcopy(actor).requires_grad_(False)
        """The encoder as it was at the start."""
        self.average = None
        if space == "ema":
            self.average = AveragedModel(actor, multi_avg_fn=get_ema_multi_avg_fn(tau)).requires_grad_(False)
        with torch.no_grad():
            states = self.at_start.states(chunks)
        self.center, self.spread = states.mean(0), states.std(0)
        self._turns = self._directions(states).std(0)

    @property
    def differentiable(self) -> bool:
        """Whether the gradient of the score reaches the actor."""
        return self.space in ("live", "guarded")

    @property
    def encoder(self) -> GistModel:
        """The model whose gist states are compared; the initial one, for reference, if the score does not use any."""
        if self.differentiable:
            return self.actor
        return self.at_start if self.average is None else self.average.module

    def score(self, own: Tensor, true: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Scores of the actor's continuations `(B, n2)` against the true ones `(B, n2)`; `(B,)`, without gradient.

        Args:
            own: the actor's continuations.
            true: the true continuations.
            generator: random generator for the scores of `noise`; None for their mean.
        """
        if self.space == "token":
            return token_score(own, true)
        if self.space == "noise":
            return torch.full((len(own),), 0.5) if generator is None else torch.rand(len(own), generator=generator)
        return self.similarity(self.encoder, own, true)

    @torch.no_grad()
    def similarity(self, encoder: GistModel, own: Tensor, true: Tensor) -> Tensor:
        """The gist score under any encoder, `(B,)`."""
        return state_score(encoder.states(own), encoder.states(true), self.center)

    def live_loss(self, own: Tensor, true: Tensor, score_weight: float, guard_weight: float) -> Tensor:
        """Loss that `live` and `guarded` add to the policy gradient: the negative score, with the true side detached,
        and the guard: the relative shortfall of each state's standard deviation below its initial value.

        The guard applies to directions from the center, since the score depends only on them: states with a large
        variance may still point in the same direction.
        """
        states, target = self.actor.states(own), self.actor.states(true)
        loss = -score_weight * state_score(states, target.detach(), self.center).mean()
        if self.space == "guarded":
            for each in (states, target):
                deviation = (self._directions(each).var(0) + 1e-8).sqrt() / (self._turns + 1e-4)
                loss = loss + guard_weight * functional.relu(1 - deviation).mean() / 2
        return loss

    def _directions(self, states: Tensor) -> Tensor:
        return functional.normalize(states - self.center, dim=-1)

    @torch.no_grad()
    def state_std(self, chunks: Tensor) -> float:
        """Standard deviation of the gist states of true chunks, relative to the start; 0 means collapse."""
        return float(self.encoder.states(chunks).std(0).mean() / self.spread.mean())

    @torch.no_grad()
    def state_alike(self, chunks: Tensor) -> float:
        """Mean score of each true chunk against a different one: how similar the encoder makes unrelated chunks; 1
        means collapse."""
        return float(self.similarity(self.encoder, chunks, chunks.roll(1, 0)).mean())

    def after_step(self) -> None:
        """Called after each step of the actor."""
        if self.average is not None:
            self.average.update_parameters(self.actor)
