"""One small network as actor and critic: a language model with a second head that classifies tokens as real.

Actor and critic share all weights except the head, as in METALEARN, so a live critic changes with the actor.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from metarlgym.datatypes import MetaRLGymError
from metarlgym.models.networks import NetworkArguments, make_network

MARKS = 2
"""Extra token ids: `V` requests a verdict or begins a thought, `V + 1` ends a thought."""


class ActorCritic(nn.Module):
    """A causal transformer with a second head.

    Args:
        V: vocabulary size of the language.
        hidden_size: hidden size.
        layers: number of transformer blocks.
        heads: number of attention heads.
        context: maximum sequence length.
        seed: seed of the weights.
    """

    def __init__(self, V: int, hidden_size: int, layers: int, heads: int, context: int, seed: int) -> None:
        super().__init__()
        self.V = V
        sizes = NetworkArguments(hidden_size=hidden_size, num_layers=layers, num_heads=heads)
        self.lm = make_network(sizes, V + MARKS, context, seed)
        self.head = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.head.weight)  # initially every token has probability 1/2 of being real
        nn.init.zeros_(self.head.bias)

    def hidden(self, tokens: Tensor) -> Tensor:
        """Last hidden states, `(B, T)` to `(B, T, hidden_size)`."""
        return self.lm.base_model(input_ids=tokens).last_hidden_state

    def logits(self, tokens: Tensor) -> Tensor:
        """Next-token logits over the language, `(B, T, V)`."""
        return self.lm.lm_head(self.hidden(tokens))[..., : self.V]

    def both(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Next-token logits `(B, T, V)`, and the logit of each token being real `(B, T)`."""
        states = self.hidden(tokens)
        return self.lm.lm_head(states)[..., : self.V], self.head(states)[..., 0]

    def score(self, tokens: Tensor, after: int) -> Tensor:
        """Mean probability that the tokens from position `after` on are real, `(B,)`."""
        return torch.sigmoid(self.head(self.hidden(tokens))[..., 0])[:, after:].mean(1)

    @torch.no_grad()
    def sample(self, prompts: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Sample `count` tokens of the language after each of `prompts` `(B, n)`; `(B, count)`.

        Raises:
            MetaRLGymError: the network's probabilities are NaN or infinite.
        """
        cache, step, out = DynamicCache(), prompts, []
        for _ in range(count):
            found = self.lm(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
            probs = found.logits[:, -1, : self.V].float().softmax(-1)
            if not bool(torch.isfinite(probs).all()):
                raise MetaRLGymError("the network's probabilities are no numbers: lower lr or phase_a_lr.")
            step = torch.multinomial(probs, 1, generator=generator)
            out.append(step)
        return torch.cat(out, 1)
