"""How a validation loss changes with the settings of a learned loss, exactly, through steps of gradient descent.

One step of the learner is `theta' = theta - rate * grad_theta inner(theta, phi)`. The gradient of `outer(theta')` by
phi holds second derivatives of the inner loss; here autograd takes them, by keeping the graph of the step (ML3,
arXiv:1906.05374; AdaLFL, arXiv:2301.13247). Flash and memory-efficient attention have no second derivative, so
everything runs with the math kernel.
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
"""Weights of a network by name, apart from the network."""
InnerLoss = Callable[[Params, Params, int], torch.Tensor]
"""Loss of the learner, `inner(params, held, k)` in step k; depends on phi. `held` are the same weights: the learner
does not move down what is computed from them, but they too depend on phi after the first step."""
OuterLoss = Callable[[Params], torch.Tensor]
"""Loss that judges the learner's weights; does not depend on phi."""


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Attention by the math kernel, the only one with a second derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def weights_of(network: nn.Module) -> Params:
    """Copies of a network's weights, as leaves that a gradient can be taken by."""
    return {name: weight.detach().clone().requires_grad_() for name, weight in network.named_parameters()}


def call(network: nn.Module, params: Params, **inputs: Any) -> Any:
    """The network's output with `params` in place of its own weights."""
    return functional_call(network, params, args=(), kwargs=inputs)


def inner_steps(inner: InnerLoss, params: Params, rate: float, steps: int = 1) -> tuple[Params, list[torch.Tensor]]:
    """Steps of gradient descent that can be differentiated.

    Args:
        inner: loss of the learner.
        params: where to begin.
        rate: step size.
        steps: how many.

    Returns:
        The weights after the last step, with the graph that leads to them, and the loss before each step.
    """
    losses = []
    for k in range(steps):
        # Tensors of their own, so that the step's slope leaves out what the loss takes from `params` itself.
        moved = {name: weight.view_as(weight) for name, weight in params.items()}
        loss = inner(moved, params, k)
        slopes = torch.autograd.grad(loss, list(moved.values()), create_graph=True)
        params = {name: weight - rate * slope for (name, weight), slope in zip(params.items(), slopes, strict=True)}
        losses.append(loss)
    return params, losses


@dataclass
class Hypergradient:
    """What one step of the learner says about phi."""

    slopes: list[torch.Tensor]
    """Gradient of the outer loss by each tensor of phi; zeros where it does not depend on one."""
    params: Params
    """The learner after its steps, as leaves."""
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
    """The gradient of `outer` after `steps` of gradient descent on `inner`, by phi.

    Args:
        inner: loss of the learner; uses phi.
        outer: loss of weights.
        params: the learner's weights, leaves that require a gradient.
        phi: what the inner loss is made of, leaves that require a gradient.
        rate: step size of the learner.
        steps: how many of its steps are differentiated.
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
    """The largest relative error of the hypergradient along random directions, against central differences.

    Give everything in float64. phi is put back as it was.

    Args:
        inner, outer, params, phi, rate, steps: as in `hypergradient`.
        generator: draws the directions.
        directions: how many.
        size: length of a difference.
    """
    slopes = hypergradient(inner, outer, params, phi, rate, steps).slopes
    kept = [part.detach().clone() for part in phi]
    worst = 0.0
    for _ in range(directions):
        way = [torch.randn(part.shape, generator=generator, dtype=part.dtype) for part in phi]
        length = torch.sqrt(sum((part.square().sum() for part in way), torch.zeros((), dtype=way[0].dtype)))
        way = [part / length for part in way]
        told = sum((slope * part).sum().item() for slope, part in zip(slopes, way, strict=True))
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                for part, start, step in zip(phi, kept, way, strict=True):
                    part.copy_(start + sign * size * step)
            ends.append(hypergradient(inner, outer, params, phi, rate, steps).outer)
        found = (ends[0] - ends[1]) / (2 * size)
        worst = max(worst, abs(told - found) / max(abs(found), 1e-12))
    with torch.no_grad():
        for part, start in zip(phi, kept, strict=True):
            part.copy_(start)
    return worst
