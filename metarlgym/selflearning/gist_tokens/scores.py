"""How near an own continuation is to the true one: in token space, or in gist space by one of four encoders.

| space | score in [0, 1] |
|---|---|
| `token` | share of places where both have the same symbol |
| `frozen` | similarity of gist states, by the encoder as it was at the end of phase A |
| `ema` | the same, by an exponential moving average of the actor |
| `live` | the same, by the actor itself: the gradient of its verdict reaches it |
| `guarded` | `live`, with the variance term of VICReg (Bardes et al. 2022, arXiv:2105.04906) against collapse |
| `noise` | a random number, as a control: what the update does to the true loss where there is nothing to learn |
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
    """Share of places where two continuations agree; `(B, n)` and `(B, n)` to `(B,)`."""
    return (own == true).float().mean(1)


def state_score(own: Tensor, true: Tensor, centre: Tensor) -> Tensor:
    """Similarity of gist states: cosine from a centre, mean over gists, brought to [0, 1].

    Args:
        own: `(B, k, D)`.
        true: `(B, k, D)`.
        centre: `(k, D)`: what the states of all chunks have in common says nothing about any of them.

    Returns:
        `(B,)`.
    """
    return (1 + functional.cosine_similarity(own - centre, true - centre, dim=-1).mean(1)) / 2


class Judge:
    """The scorer of a run.

    Args:
        space: one of `SPACES`.
        actor: what learns.
        chunks: true chunks, `(B, n2)`, that tell centre and spread of gist states at the start.
        tau: share that the moving average keeps at each step.

    Raises:
        ConfigError: no such space.
    """

    def __init__(self, space: str, actor: GistModel, chunks: Tensor, tau: float) -> None:
        if space not in SPACES:
            raise ConfigError(f"space={space!r} is not known: use one of {', '.join(SPACES)}.")
        self.space, self.actor = space, actor
        self.at_start = copy.deepcopy(actor).requires_grad_(False)
        """The encoder as it was."""
        self.average = None
        if space == "ema":
            self.average = AveragedModel(actor, multi_avg_fn=get_ema_multi_avg_fn(tau)).requires_grad_(False)
        with torch.no_grad():
            states = self.at_start.states(chunks)
        self.centre, self.spread = states.mean(0), states.std(0)
        self._turns = self._directions(states).std(0)

    @property
    def differentiable(self) -> bool:
        """Whether the gradient of the score reaches the actor."""
        return self.space in ("live", "guarded")

    @property
    def encoder(self) -> GistModel:
        """Whose gist states count; where nobody's do, the one of the start, for comparison."""
        if self.differentiable:
            return self.actor
        return self.at_start if self.average is None else self.average.module

    def score(self, own: Tensor, true: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Scores of own continuations `(B, n2)` by the true ones `(B, n2)`; `(B,)`, without a gradient.

        Args:
            own: continuations.
            true: continuations.
            generator: draws the scores of `noise`; without one they are their mean.
        """
        if self.space == "token":
            return token_score(own, true)
        if self.space == "noise":
            return torch.full((len(own),), 0.5) if generator is None else torch.rand(len(own), generator=generator)
        return self.similarity(self.encoder, own, true)

    @torch.no_grad()
    def similarity(self, encoder: GistModel, own: Tensor, true: Tensor) -> Tensor:
        """The gist score under any encoder, `(B,)`."""
        return state_score(encoder.states(own), encoder.states(true), self.centre)

    def live_loss(self, own: Tensor, true: Tensor, score_weight: float, guard_weight: float) -> Tensor:
        """What `live` and `guarded` add to the policy gradient: the score itself, the true side detached, and the
        guard: how far the deviation of each state falls below that of the start, as a share of it.

        The guard is on directions from the centre, since they are all that the score sees: states that vary much may
        still point the same way.
        """
        states, target = self.actor.states(own), self.actor.states(true)
        loss = -score_weight * state_score(states, target.detach(), self.centre).mean()
        if self.space == "guarded":
            for each in (states, target):
                deviation = (self._directions(each).var(0) + 1e-8).sqrt() / (self._turns + 1e-4)
                loss = loss + guard_weight * functional.relu(1 - deviation).mean() / 2
        return loss

    def _directions(self, states: Tensor) -> Tensor:
        return functional.normalize(states - self.centre, dim=-1)

    @torch.no_grad()
    def state_std(self, chunks: Tensor) -> float:
        """Standard deviation of the gist states of true chunks, over that of the start; 0 is collapse."""
        return float(self.encoder.states(chunks).std(0).mean() / self.spread.mean())

    @torch.no_grad()
    def state_alike(self, chunks: Tensor) -> float:
        """Score of each true chunk by another's in place of it: how alike the encoder makes what has nothing in common;
        1 is collapse."""
        return float(self.similarity(self.encoder, chunks, chunks.roll(1, 0)).mean())

    def after_step(self) -> None:
        """Called after each step of the actor."""
        if self.average is not None:
            self.average.update_parameters(self.actor)
