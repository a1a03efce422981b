"""Sampling that depends only on a request's seed, not on the batch in which it happens to run."""

from __future__ import annotations

import numpy as np
import torch


def uniforms(seeds: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Uniform numbers in [0, 1) from (seed, number of earlier draws); splitmix64 (Steele et al. 2014).

    Args:
        seeds: uint64, shape `(n,)`.
        counts: uint64, shape `(n,)`.

    Returns:
        float64, shape `(n,)`.
    """
    with np.errstate(over="ignore"):
        z = seeds + (counts + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def sample(
    logits: torch.Tensor, u: np.ndarray, temperature: float = 1.0, greedy: bool = False
) -> tuple[list[int], list[float]]:
    """Sample one token per row by inverse transform, with its exact log-probability.

    Args:
        logits: shape `(n, vocabulary)`.
        u: uniform numbers, shape `(n,)`.
        temperature: divides the logits; as in TRL, log-probabilities are those of the divided logits.
        greedy: take the argmax instead.

    Returns:
        Tokens and log-probabilities, each of length n.
    """
    logprobs = torch.log_softmax(logits.float() / temperature, dim=-1)
    if greedy:
        tokens = logprobs.argmax(-1)
    else:
        # float64: the rounding error of a float32 cumulative sum over a large vocabulary exceeds small probabilities.
        cumulative = logprobs.double().exp_().cumsum_(-1)
        target = torch.from_numpy(u).to(cumulative.device)[:, None] * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, target, right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)
    chosen = logprobs.gather(-1, tokens[:, None])[:, 0]
    return tokens.tolist(), chosen.tolist()
