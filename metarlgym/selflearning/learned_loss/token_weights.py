"""A learned loss that weights tokens: the weight of each target is computed from the learner's view of it.

`loss = mean_t w_t CE_t` with `w_t` in (0, 1) from a small network. The learner's gradient does not flow through the
network's inputs, or the learner could lower its loss by reducing the weights of its targets without learning. The mean
is taken over all tokens, without dividing by the weights' sum: with that division, a one-step objective would put all
weight on the few most helpful tokens. With weights bounded by 1, every helpful token tends to 1 and every harmful one
to 0, and no step is larger than under uniform weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from metarlgym.seeding import derive
from metarlgym.sequences.sources.metalm import MASK

FEATURES = ("loss of the target", "entropy", "top log probability", "target is the mask")


@dataclass
class View:
    """The inputs of a learned loss, computed from the learner and a chunk."""

    logits: torch.Tensor
    """`(B, T, V)`."""
    hidden: torch.Tensor | None
    """`(B, T, width)`, or None if the loss does not need it."""
    targets: torch.Tensor
    """`(B, T)`, the noisy next tokens."""

    def losses(self) -> torch.Tensor:
        """Cross-entropy of each target, `(B, T)`, in nats."""
        return functional.cross_entropy(self.logits.transpose(1, 2), self.targets, reduction="none")

    def detached(self) -> View:
        """The same view, detached."""
        hidden = None if self.hidden is None else self.hidden.detach()
        return View(self.logits.detach(), hidden, self.targets)


def token_features(view: View) -> torch.Tensor:
    """Input features of the token weights: `(B, T, len(FEATURES))`, scaled to about 1."""
    logs = view.logits.log_softmax(-1)
    loss = -logs.gather(-1, view.targets[..., None])[..., 0]
    entropy = -(logs.exp() * logs).sum(-1)
    mask = (view.targets == MASK).to(logs.dtype)
    return torch.stack([loss / 3, entropy / 2, logs.max(-1).values / 2, mask], -1)


class WeightNet(nn.Module):
    """Computes token weights from token features.

    Args:
        width: units of each of the two hidden layers.
        seed: seed of the parameters. Initially all tokens have the same weight, 0.85.
    """

    needs_hidden = False

    def __init__(self, width: int = 16, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "weight net") % 2**31)
            self.layers = nn.Sequential(
                nn.Linear(len(FEATURES), width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
            )
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, 1.0)

    def weights(self, view: View) -> torch.Tensor:
        """`(B, T)`, each in (0, 1)."""
        score = self.layers(token_features(view))[..., 0]
        # The gradient decays with the cube of the score, a sigmoid's exponentially, so weights near 1 can still
        # decrease.
        return (1 + score / (1 + score.square()).sqrt()) / 2

    def forward(self, view: View, held: View) -> torch.Tensor:
        """The loss.

        Args:
            view: view of the learner; its gradient updates the learner.
            held: the same view without gradient to the learner, for the inputs of the weights.
        """
        return weighted_loss(view.losses(), self.weights(held))


def weighted_loss(losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean over all tokens of `losses` times `weights`, both `(B, T)`."""
    return (weights * losses).mean()
