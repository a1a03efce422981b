"""A small language with known ground truth: fresh sequences, and true probabilities of real and sampled tokens.

It is a `PseudoLanguage` (a random n-gram network), whose next-token distribution depends only on the last n_gram - 1
tokens and therefore fits into a table.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.sources import PseudoLanguage

CONTEXTS = 2**16
"""Maximum number of contexts in the table."""


class Language:
    """Sequences of a pseudo-language and their true distributions.

    Args:
        V: vocabulary size.
        n_gram: context window of the language's network; the oldest token has no effect.
        scale: logit scale; higher is more predictable.
        length: sequence length in tokens.
        language: seed of the network.
        seed: seed of the sequences.
    """

    def __init__(self, V: int, n_gram: int, scale: float, length: int, language: int, seed: int) -> None:
        if n_gram < 2 or V ** (n_gram - 1) > CONTEXTS:
            raise ConfigError(f"n_gram={n_gram} with V={V}: needed are 2 or more, and V^(n_gram - 1) <= {CONTEXTS}.")
        self.source = PseudoLanguage(V, n_gram, scale=scale, L=length, language=language, seed=seed)
        self.V, self.order, self.length = V, n_gram - 1, length
        contexts = itertools.product(range(V), repeat=self.order)
        table = [self.source.distribution(np.array([0, *context])) for context in contexts]
        self.table = torch.tensor(np.array(table), dtype=torch.float32)
        """`(V^order, V)` next-token probabilities; the row index encodes the context in base V, oldest token first."""

    def tokens(self, start: int, count: int, split: str = "train") -> Tensor:
        """Sequences `start` to `start + count - 1`, `(count, length)` int64."""
        return torch.from_numpy(self.source.tokens(start, count, split))

    def truth(self, tokens: Tensor) -> Tensor:
        """True next-token distributions after each of `tokens`, `(B, T)` to `(B, T, V)`; the initial context is 0s."""
        padded = torch.cat([tokens.new_zeros(len(tokens), self.order - 1), tokens], 1)
        number = torch.zeros_like(tokens)
        for i in range(self.order):
            number = number * self.V + padded[:, i : i + tokens.shape[1]]
        return self.table[number]

    def true_loss(self, logits: Tensor, tokens: Tensor, first: int = 0) -> float:
        """Expected cross-entropy of the next token under the true distributions, in nats.

        Args:
            logits: `(B, T, V)` after each token.
            tokens: `(B, T)`, complete sequences, since the true distributions depend on earlier tokens.
            first: first position that counts.
        """
        logs = torch.log_softmax(logits.float(), -1)
        return float(-(self.truth(tokens) * logs).sum(-1)[:, first:].mean())

    def entropy(self, tokens: Tensor, first: int = 0) -> float:
        """Mean entropy of the true distributions after `tokens`: the floor of `true_loss`."""
        truth = self.truth(tokens)[:, first:]
        return float(-torch.special.xlogy(truth, truth).sum(-1).mean())

    def log_likelihood(self, prompts: Tensor, samples: Tensor) -> float:
        """Mean true log-probability of the tokens of `samples` `(B, m)` after `prompts` `(B, n)`, in nats."""
        before = torch.cat([prompts, samples], 1)[:, prompts.shape[1] - 1 : -1]
        context = torch.cat([prompts[:, : prompts.shape[1] - 1], before], 1)
        truth = self.truth(context)[:, prompts.shape[1] - 1 :]
        # A token that the language never emits has probability 0 in float32.
        return float(truth.gather(2, samples[..., None]).clamp_min(1e-30).log().mean())


def distinct(tokens: Tensor, n: int = 2) -> float:
    """Fraction of distinct n-grams among all n-grams of `(B, T)` tokens."""
    grams: Any = tokens.unfold(1, n, 1).reshape(-1, n)
    return len(torch.unique(grams, dim=0)) / len(grams)
