"""A learned loss that weighs tokens: how much each target counts, told from how the learner sees it.

`loss = mean_t w_t CE_t` with `w_t` in (0, 1) from a small network. The learner does not move down what the network
looks at: through it, it could lower its loss by making its targets count less, without learning. The mean is over all
tokens, not over their weights. Divided by the weights' sum, the loss would gain most over one step by giving all weight
to the few tokens that help most; with weights bounded by 1, every token that helps wants 1 and every one that harms 0,
and no step is larger than under uniform weights.
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
    """What a learned loss sees of the learner and of a chunk."""

    logits: torch.Tensor
    """`(B, T, V)`."""
    hidden: torch.Tensor | None
    """`(B, T, width)`, or None where no loss asks for it."""
    targets: torch.Tensor
    """`(B, T)`, the noisy next tokens."""

    def losses(self) -> torch.Tensor:
        """Cross-entropy of each target, `(B, T)`, nats."""
        return functional.cross_entropy(self.logits.transpose(1, 2), self.targets, reduction="none")

    def detached(self) -> View:
        """The same, as constants."""
        hidden = None if self.hidden is None else self.hidden.detach()
        return View(self.logits.detach(), hidden, self.targets)


def token_features(view: View) -> torch.Tensor:
    """What a token's weight is made of: `(B, T, len(FEATURES))`, scaled to about 1."""
    logs = view.logits.log_softmax(-1)
    loss = -logs.gather(-1, view.targets[..., None])[..., 0]
    entropy = -(logs.exp() * logs).sum(-1)
    mask = (view.targets == MASK).to(logs.dtype)
    return torch.stack([loss / 3, entropy / 2, logs.max(-1).values / 2, mask], -1)


class WeightNet(nn.Module):
    """Weights of tokens, from their features.

    Args:
        width: units of each of the two hidden layers.
        seed: seeds the parameters. At the start all tokens weigh the same, .85.
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
        # The slope falls with the cube of the score, a logistic curve's exponentially: weights near 1 can come back.
        return (1 + score / (1 + score.square()).sqrt()) / 2

    def forward(self, view: View, held: View) -> torch.Tensor:
        """The loss.

        Args:
            view: of the learner that moves.
            held: the same, where the learner shall not move: what the weights are made of.
        """
        return weighted_loss(view.losses(), self.weights(held))


def weighted_loss(losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean over all tokens of `losses` times `weights`, both `(B, T)`."""
    return (weights * losses).mean()
