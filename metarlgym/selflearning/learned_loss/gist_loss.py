"""A learned loss: the distance between the gist of the learner's predictions and the gist of the targets.

The third experiment of METALEARN uses the distance between a gist of the model's own output and a gist of output and
ground truth, and learns the map to gists with the second-order gradient instead of a separate bottleneck. Here the gist
of a few neighboring positions is a learned map of their hidden states and token embeddings, pooled with learned
weights:

    own = tanh(sum_t a_t (A h_t + sum_v p_t(v) E_v)),   truth = tanh(sum_t a_t (A h_t + E_{y_t})),
    loss = sum |own - truth|^2 / tokens

phi consists of A, E and the network that computes a_t. The rows of E have unit length and a_t is at most 1; otherwise
the loss would grow without bound, since a larger step gains more as long as steps are evaluated by their direction. The
learner's gradient flows only through its probabilities p_t: through h_t it could make gists similar by making all
hidden states similar.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from metarlgym.datatypes import ConfigError
from metarlgym.seeding import derive
from metarlgym.selflearning.learned_loss.token_weights import View, WeightNet, weighted_loss


class GistLoss(nn.Module):
    """The distance between gists, optionally added to a weighted cross-entropy.

    Args:
        vocab_size: vocabulary size.
        hidden_size: hidden size of the learner.
        gist_size: dimension of a gist.
        window: number of neighboring positions that share a gist.
        with_cross_entropy: add the cross-entropy, weighted with the same weights.
        width: units of the weight network's hidden layers.
        seed: seed of the parameters.
    """

    needs_hidden = True

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        gist_size: int = 16,
        window: int = 4,
        with_cross_entropy: bool = False,
        width: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if window < 1:
            raise ConfigError(f"window={window} must be at least 1.")
        self.window, self.with_cross_entropy = window, with_cross_entropy
        self.pool = WeightNet(width, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "gist") % 2**31)
            self.table = nn.Parameter(torch.randn(vocab_size, gist_size))
            self.of_hidden = nn.Parameter(torch.randn(hidden_size, gist_size) * 0.1 * hidden_size**-0.5)

    def weights(self, view: View) -> torch.Tensor:
        """Weight of each token in its gist, `(B, T)` in (0, 1)."""
        return self.pool.weights(view)

    def forward(self, view: View, held: View) -> torch.Tensor:
        """The loss.

        Args:
            view: view of the learner; its gradient updates the learner.
            held: the same view without gradient to the learner, for hidden states and the inputs of the weights.
        """
        assert held.hidden is not None
        weights = self.weights(held)
        state = held.hidden @ self.of_hidden
        table = functional.normalize(self.table, dim=1)
        own = self._gist(state + view.logits.softmax(-1) @ table, weights)
        truth = self._gist(state + table[view.targets], weights)
        loss = (own - truth).square().sum() / weights.numel()
        return loss + weighted_loss(view.losses(), weights) if self.with_cross_entropy else loss

    def _gist(self, parts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Gists of windows, `(B, windows, gist_size)`."""
        short = -parts.shape[1] % self.window
        pooled = functional.pad(weights[..., None] * parts, (0, 0, 0, short))
        return torch.tanh(pooled.unflatten(1, (-1, self.window)).sum(2))
