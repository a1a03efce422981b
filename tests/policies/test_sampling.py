"""Sampling: uniform numbers that depend on the request alone, and tokens distributed as the model says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from metarlgym.policies.sampling import sample, uniforms

N = 40_000


def seeds(n, start=0):
    return np.arange(start, start + n, dtype=np.uint64)


def chi_square(counts, probabilities):
    expected = counts.sum() * probabilities
    return float(((counts - expected) ** 2 / expected).sum())


def limit(degrees):
    """A chi-square of `degrees` stays below this but once in a million (Wilson and Hilferty's cube)."""
    return degrees * (1 - 2 / (9 * degrees) + 4.75 * math.sqrt(2 / (9 * degrees))) ** 3


# ---------------------------------------------------------------------- uniform numbers


def test_uniforms_are_a_function_of_seed_and_count():
    both = uniforms(np.array([5, 6], np.uint64), np.array([0, 3], np.uint64))
    assert both[0] == uniforms(np.array([5], np.uint64), np.array([0], np.uint64))[0]
    assert both[1] == uniforms(np.array([6], np.uint64), np.array([3], np.uint64))[0]
    assert len({*both, uniforms(np.array([5], np.uint64), np.array([1], np.uint64))[0]}) == 3


def test_splitmix64_first_output_of_seed_0():
    # The reference implementation's first output for seed 0 is 0xE220A8397B1DCDAF.
    expected = (0xE220A8397B1DCDAF >> 11) * 2.0**-53
    assert uniforms(np.array([0], np.uint64), np.array([0], np.uint64))[0] == expected


@pytest.mark.parametrize("axis", ["seed", "count"])
def test_uniforms_are_uniform(axis):
    first, second = (seeds(N), np.zeros(N, np.uint64)) if axis == "seed" else (np.full(N, 7, np.uint64), seeds(N))
    u = uniforms(first, second)
    assert u.min() >= 0 and u.max() < 1
    counts = np.bincount((u * 64).astype(int), minlength=64)
    assert chi_square(counts, np.full(64, 1 / 64)) < limit(63)
    pairs = np.bincount((u[:-1] * 8).astype(int) * 8 + (u[1:] * 8).astype(int), minlength=64)
    assert chi_square(pairs, np.full(64, 1 / 64)) < limit(63)


def test_the_largest_seed_does_not_overflow():
    u = uniforms(np.array([2**64 - 1], np.uint64), np.array([2**63], np.uint64))
    assert 0 <= u[0] < 1


# ---------------------------------------------------------------------- tokens


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_tokens_are_distributed_as_the_model_says(temperature):
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -3.0, 0.5])
    tokens, _ = sample(logits.expand(N, -1), uniforms(seeds(N), np.zeros(N, np.uint64)), temperature)
    probabilities = torch.softmax(logits.double() / temperature, -1).numpy()
    assert chi_square(np.bincount(tokens, minlength=6), probabilities) < limit(5)


def test_logprobs_are_those_of_the_divided_logits():
    logits = torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    tokens, logprobs = sample(logits, uniforms(seeds(50), np.zeros(50, np.uint64)), 0.7)
    expected = torch.log_softmax(logits / 0.7, -1)[torch.arange(50), torch.tensor(tokens)]
    torch.testing.assert_close(torch.tensor(logprobs), expected)


def test_greedy_takes_the_largest_with_its_logprob():
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]])
    tokens, logprobs = sample(logits, np.array([0.99, 0.99]), 0.5, greedy=True)
    assert tokens == [1, 0]
    torch.testing.assert_close(torch.tensor(logprobs), torch.log_softmax(logits / 0.5, -1).amax(-1))


def test_tokens_of_no_probability_are_never_taken():
    logits = torch.tensor([float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")]).expand(3, -1)
    tokens, logprobs = sample(logits, np.array([0.0, 0.5, 1 - 2.0**-53]))
    assert tokens == [1, 3, 3]
    torch.testing.assert_close(torch.tensor(logprobs), torch.full((3,), -math.log(2)))


def test_small_probabilities_in_a_large_vocabulary_are_met():
    """A float32 running sum over 150,000 tokens loses the tail; ours reaches the last token."""
    size = 150_000
    last = 1 - 0.5 / size
    tokens, _ = sample(torch.zeros(1, size), np.array([last]))
    assert tokens == [size - 1]
    quantiles = np.linspace(0.05, 0.95, 19)
    tokens, _ = sample(torch.zeros(19, size), quantiles)
    assert np.abs(np.array(tokens) - quantiles * size).max() <= 1


def test_a_row_does_not_depend_on_its_batch():
    logits = torch.randn(64, 11, generator=torch.Generator().manual_seed(0))
    u = uniforms(seeds(64), np.zeros(64, np.uint64))
    whole, _ = sample(logits, u)
    assert [sample(logits[i : i + 1], u[i : i + 1])[0][0] for i in range(64)] == whole
