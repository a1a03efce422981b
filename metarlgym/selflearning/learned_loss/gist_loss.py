"""A learned loss between gists: of what the learner would write, and of that with the truth put in.

The third experiment of METALEARN takes the distance between a gist of the model's own output and a gist of output and
ground truth, and learns the map to gists by the second-order gradient, in place of a bottleneck of its own. Here the
gist of a few neighbouring places is a learned map of their hidden states and token embeddings, pooled by learned
weights:

    own = tanh(sum_t a_t (A h_t + sum_v p_t(v) E_v)),   truth = tanh(sum_t a_t (A h_t + E_{y_t})),
    loss = sum |own - truth|^2 / tokens

A, E and the network behind a_t are phi. The rows of E have length 1 and a_t is at most 1, else the loss would be made
ever larger: the larger the step, the more it gains, as long as it is judged by its direction. The learner's gradient
goes through its probabilities p_t alone: through h_t it could make gists alike by making all hidden states alike.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from metarlgym.datatypes import ConfigError
from metarlgym.seeding import derive
from metarlgym.selflearning.learned_loss.token_weights import View, WeightNet, weighted_loss


class GistLoss(nn.Module):
    """The distance between gists, alone or added to a weighted cross-entropy.

    Args:
        vocab_size: tokens.
        hidden_size: width of the learner.
        gist_size: numbers in a gist.
        window: neighbouring places that share a gist.
        with_cross_entropy: add the cross-entropy, weighted by the same weights.
        width: units of the weights' hidden layers.
        seed: seeds the parameters.
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
        """How much each token enters its gist, `(B, T)` in (0, 1)."""
        return self.pool.weights(view)

    def forward(self, view: View, held: View) -> torch.Tensor:
        """The loss.

        Args:
            view: of the learner that moves.
            held: the same, where the learner shall not move: hidden states, and what the weights are made of.
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
