"""Exact hypergradients: derivatives of a validation loss by the parameters of a learned loss, through SGD steps.

One step of the learner is `theta' = theta - rate * grad_theta inner(theta, phi)`. The gradient of `outer(theta')` with
respect to phi contains second derivatives of the inner loss; autograd computes them, since the graph of the step is
kept (ML3, arXiv:1906.05374; AdaLFL, arXiv:2301.13247). Flash and memory-efficient attention do not support second
derivatives, so attention uses the math kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

Params = dict[str, torch.Tensor]
"""Weights of a network by name, separate from the module."""
InnerLoss = Callable[[Params, Params, int], torch.Tensor]
"""Loss of the learner, `inner(params, held, k)` in step k; depends on phi. `held` are the same weights, but the
learner's step does not differentiate through them; after the first step they depend on phi too."""
OuterLoss = Callable[[Params], torch.Tensor]
"""Loss that evaluates the learner's weights; does not depend on phi."""


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Use the math kernel for attention, the only one that supports second derivatives."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def weights_of(network: nn.Module) -> Params:
    """Copies of a network's weights, as leaves that require a gradient."""
    return {name: weight.detach().clone().requires_grad_() for name, weight in network.named_parameters()}


def call(network: nn.Module, params: Params, **inputs: Any) -> Any:
    """The network's output with `params` in place of its own weights."""
    return functional_call(network, params, args=(), kwargs=inputs)


def inner_steps(inner: InnerLoss, params: Params, rate: float, steps: int = 1) -> tuple[Params, list[torch.Tensor]]:
    """Differentiable steps of gradient descent.

    Args:
        inner: loss of the learner.
        params: initial weights.
        rate: learning rate.
        steps: number of steps.

    Returns:
        The weights after the last step, with their graph, and the loss before each step.
    """
    losses = []
    for k in range(steps):
        # Separate tensors, so that the step's gradient excludes what the loss computes from `params` itself.
        moved = {name: weight.view_as(weight) for name, weight in params.items()}
        loss = inner(moved, params, k)
        slopes = torch.autograd.grad(loss, list(moved.values()), create_graph=True)
        params = {name: weight - rate * slope for (name, weight), slope in zip(params.items(), slopes, strict=True)}
        losses.append(loss)
    return params, losses


@dataclass
class Hypergradient:
    """The result of differentiating through the learner's steps."""

    slopes: list[torch.Tensor]
    """Gradient of the outer loss with respect to each tensor of phi; zeros where it does not depend on one."""
    params: Params
    """Weights of the learner after its steps, as leaves."""
    inner: float
    """Inner loss before the first step."""
    outer: float
    """Outer loss after the last step."""


def hypergradient(
    inner: InnerLoss,
    outer: OuterLoss,
    params: Params,
    phi: Sequence[torch.Tensor],
    rate: float,
    steps: int = 1,
) -> Hypergradient:
    """The gradient with respect to phi of `outer` after `steps` of gradient descent on `inner`.

    Args:
        inner: loss of the learner; uses phi.
        outer: loss that evaluates weights.
        params: the learner's weights, leaves that require a gradient.
        phi: parameters of the inner loss, leaves that require a gradient.
        rate: learning rate of the learner.
        steps: number of its steps to differentiate through.
    """
    with twice_differentiable():
        after, losses = inner_steps(inner, params, rate, steps)
        value = outer(after)
        slopes = torch.autograd.grad(value, list(phi), allow_unused=True)
    return Hypergradient(
        [torch.zeros_like(part) if slope is None else slope for part, slope in zip(phi, slopes, strict=True)],
        {name: weight.detach().requires_grad_() for name, weight in after.items()},
        losses[0].item(),
        value.item(),
    )


def finite_difference_error(
    inner: InnerLoss,
    outer: OuterLoss,
    params: Params,
    phi: Sequence[torch.Tensor],
    rate: float,
    generator: torch.Generator,
    steps: int = 1,
    directions: int = 4,
    size: float = 1e-4,
) -> float:
    """The largest relative error of the hypergradient along random directions, compared with central differences.

    Everything must be float64. phi is restored afterwards.

    Args:
        inner, outer, params, phi, rate, steps: as in `hypergradient`.
        generator: random generator for the directions.
        directions: number of directions.
        size: step length of the differences.
    """
    slopes = hypergradient(inner, outer, params, phi, rate, steps).slopes
    kept = [part.detach().clone() for part in phi]
    worst = 0.0
    for _ in range(directions):
        way = [torch.randn(part.shape, generator=generator, dtype=part.dtype) for part in phi]
        length = torch.sqrt(sum((part.square().sum() for part in way), torch.zeros((), dtype=way[0].dtype)))
        way = [part / length for part in way]
        predicted = sum((slope * part).sum().item() for slope, part in zip(slopes, way, strict=True))
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                for part, start, step in zip(phi, kept, way, strict=True):
                    part.copy_(start + sign * size * step)
            ends.append(hypergradient(inner, outer, params, phi, rate, steps).outer)
        found = (ends[0] - ends[1]) / (2 * size)
        worst = max(worst, abs(predicted - found) / max(abs(found), 1e-12))
    with torch.no_grad():
        for part, start in zip(phi, kept, strict=True):
            part.copy_(start)
    return worst
