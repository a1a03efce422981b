"""The learner: a small transformer that takes plain SGD steps on a noisy stream under a given loss."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from metarlgym.models.networks import NetworkArguments, make_network
from metarlgym.selflearning.learned_loss.data import Chunk
from metarlgym.selflearning.learned_loss.gist_loss import GistLoss
from metarlgym.selflearning.learned_loss.hypergradient import (
    InnerLoss,
    OuterLoss,
    Params,
    call,
    hypergradient,
    twice_differentiable,
    weights_of,
)
from metarlgym.selflearning.learned_loss.token_weights import View, WeightNet, weighted_loss

LearnedLoss = WeightNet | GistLoss
FixedWeights = Callable[[Chunk], torch.Tensor]
"""Maps a chunk to weights of its targets, `(B, T)`."""


class Learner:
    """A network with its weights kept separately.

    Args:
        vocab_size: vocabulary size.
        length: length of a chunk.
        hidden_size, num_layers, num_heads: sizes of the transformer. It uses relative positions, because that network
            computes throughout in the data type of its weights, including float64.
        rate: learning rate of SGD.
        seed: seed of the weights.
    """

    def __init__(
        self, vocab_size: int, length: int, hidden_size: int, num_layers: int, num_heads: int, rate: float, seed: int
    ) -> None:
        arguments = NetworkArguments(
            positions="relative", hidden_size=hidden_size, num_layers=num_layers, num_heads=num_heads
        )
        self.network: nn.Module = make_network(arguments, vocab_size, length, seed)
        self.rate = rate
        self.params = weights_of(self.network)

    def copy(self, rate: float) -> Learner:
        """A copy with another learning rate, starting from the current weights; only the module is shared."""
        twin = copy(self)
        twin.rate, twin.params = rate, dict(self.params)
        return twin

    def double(self) -> Learner:
        """Convert to float64, in place."""
        self.network.double()
        self.params = {name: weight.detach().double().requires_grad_() for name, weight in self.params.items()}
        return self

    def view(self, params: Params, chunk: Chunk, hidden: bool = False) -> View:
        """What a learned loss sees of this learner at `params`."""
        out = call(self.network, params, input_ids=chunk.inputs, output_hidden_states=hidden)
        return View(out.logits, out.hidden_states[-1] if hidden else None, chunk.targets)

    def represent(self, inputs: torch.Tensor) -> torch.Tensor:
        """Last hidden states, `(B, T, width)`."""
        return call(self.network, self.params, input_ids=inputs, output_hidden_states=True).hidden_states[-1]

    def fixed_step(self, chunk: Chunk, weights: FixedWeights, optimizer: torch.optim.Optimizer | None = None) -> float:
        """Take a step under cross-entropy with fixed token weights.

        Args:
            chunk: training data.
            weights: weights of its targets.
            optimizer: optimizer of `params`, instead of SGD.

        Returns:
            The loss before the step.
        """
        loss = weighted_loss(self.view(self.params, chunk).losses(), weights(chunk))
        slopes = torch.autograd.grad(loss, list(self.params.values()))
        if optimizer is None:
            self.params = {
                name: (weight.detach() - self.rate * slope).requires_grad_()
                for (name, weight), slope in zip(self.params.items(), slopes, strict=True)
            }
        else:
            for weight, slope in zip(self.params.values(), slopes, strict=True):
                weight.grad = slope
            optimizer.step()
        return loss.item()

    def inner(self, loss: LearnedLoss, chunks: list[Chunk]) -> InnerLoss:
        """The learned loss as an inner loss, on chunk k in step k."""

        def judge(params: Params, held: Params, k: int) -> torch.Tensor:
            view = self.view(params, chunks[k], loss.needs_hidden)
            # Before the first step nothing depends on phi, so `held` needs no forward pass of its own.
            first = all(weight.is_leaf for weight in held.values())
            return loss(view, view.detached() if first else self.view(held, chunks[k], loss.needs_hidden))

        return judge

    def outer(self, chunk: Chunk) -> OuterLoss:
        """Cross-entropy on clean labels as an outer loss."""

        def judge(params: Params) -> torch.Tensor:
            logits = self.view(params, chunk).logits
            return functional.cross_entropy(logits.flatten(0, 1), chunk.labels.flatten())

        return judge

    def learned_step(
        self,
        chunk: Chunk,
        judge: Chunk,
        loss: LearnedLoss,
        optimizer: torch.optim.Optimizer,
        lookahead: float,
    ) -> float:
        """Take a step under a learned loss, and update that loss with its hypergradient.

        Args:
            chunk: training data.
            judge: validation data, whose clean labels evaluate the step.
            loss: the learned loss.
            optimizer: optimizer of the loss.
            lookahead: size of the evaluated step, relative to the actual one.

        Returns:
            The learned loss before the step.
        """
        phi = list(loss.parameters())
        found = hypergradient(
            self.inner(loss, [chunk]), self.outer(judge), self.params, phi, lookahead * self.rate, steps=1
        )
        for part, slope in zip(phi, found.slopes, strict=True):
            # Makes the gradients' scale nearly independent of the size of the evaluated step.
            part.grad = slope / lookahead
        nn.utils.clip_grad_norm_(phi, 1.0)
        optimizer.step()
        self.params = {
            name: (weight + (found.params[name] - weight) / lookahead).detach().requires_grad_()
            for name, weight in self.params.items()
        }
        return found.inner

    def true_loss(self, chunk: Chunk) -> float:
        """Mean cross-entropy on clean labels, in nats."""
        with torch.no_grad(), twice_differentiable():
            judged = [self.outer(part)(self.params).item() * len(part.inputs) for part in _parts(chunk)]
        return sum(judged) / len(chunk.inputs)

    def token_losses(self, chunk: Chunk) -> np.ndarray:
        """Cross-entropy of the noisy targets, `(B, T)`, in nats."""
        with torch.no_grad(), twice_differentiable():
            return torch.cat([self.view(self.params, part).losses() for part in _parts(chunk)]).numpy()

    def token_weights(self, chunk: Chunk, loss: LearnedLoss) -> np.ndarray:
        """The weights that a learned loss assigns to a chunk's targets, `(B, T)`."""
        with torch.no_grad(), twice_differentiable():
            found = [loss.weights(self.view(self.params, part, loss.needs_hidden)) for part in _parts(chunk)]
        return torch.cat(found).numpy()


def _parts(chunk: Chunk) -> list[Chunk]:
    return [chunk[slice(i, i + 64)] for i in range(0, len(chunk.inputs), 64)]
