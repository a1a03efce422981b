"""Probes of the segment's age: exact beliefs against enumeration, and what a probe finds in states that hold it."""

import itertools
import math

import numpy as np
import pytest
import torch

from metarlgym.datatypes import ConfigError
from metarlgym.models.networks import NetworkArguments, make_network
from metarlgym.pretraining.linear_probe import find_log_ages, probe
from metarlgym.sequences.predictors import KT, LIN, PTW, exact_predictor
from metarlgym.sequences.sources import Piecewise, Source


def kt(symbols):
    """KT probability of a list of binary symbols."""
    prob, counts = 1.0, [0, 0]
    for symbol in symbols:
        prob *= (counts[symbol] + 0.5) / (sum(counts) + 1)
        counts[symbol] += 1
    return prob


def lin_beliefs(sequence):
    """By enumeration of all partitions: mean log2(1 + age) before each symbol."""
    found = []
    for t in range(len(sequence)):
        weights = []
        for cuts in itertools.product([False, True], repeat=t):  # cuts[i]: a new segment begins at i + 1
            starts = [0, *(i + 1 for i, cut in enumerate(cuts) if cut)]
            weight, age = 1.0, 0
            for i in range(t):
                age += 1
                weight *= 0.5 / age if cuts[i] else 1 - 0.5 / age
                age = 0 if cuts[i] else age
            for a, b in itertools.pairwise([*starts, t]):
                weight *= kt(sequence[a:b])
            weights.append((weight, math.log2(1 + t - starts[-1])))
        found.append(sum(w * v for w, v in weights) / sum(w for w, _ in weights))
    return found


def ptw_partitions(start, size):
    """(prior, starts of segments) of all trees over a block."""
    yield (0.5 if size > 1 else 1.0), [start]
    if size > 1:
        half = size // 2
        for (p, left), (q, right) in itertools.product(
            ptw_partitions(start, half), list(ptw_partitions(start + half, half))
        ):
            yield 0.5 * p * q, [*left, *right]


def ptw_beliefs(sequence, depth):
    found = []
    for t in range(len(sequence)):
        weights = []
        for prior, starts in ptw_partitions(0, 2**depth):
            before = [s for s in starts if s <= t]
            weight = prior
            for a, b in itertools.pairwise([*before, t]):
                weight *= kt(sequence[a:b])
            weights.append((weight, math.log2(1 + t - before[-1])))
        found.append(sum(w * v for w, v in weights) / sum(w for w, _ in weights))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_beliefs_equal_enumeration(seed):
    sequence = np.random.default_rng(seed).integers(2, size=8).tolist()
    assert LIN().log_ages(sequence)[0] == pytest.approx(lin_beliefs(sequence), abs=1e-12)
    assert PTW(3).log_ages(sequence)[0] == pytest.approx(ptw_beliefs(sequence, 3), abs=1e-12)


class Oracle(torch.nn.Module):
    """A network whose hidden state is the belief itself, or with other weights (`blind`) nothing."""

    def __init__(self, config):
        super().__init__()
        self.config, self.device, self.blind = config, torch.device("cpu"), not isinstance(config, dict)

    def forward(self, input_ids, output_hidden_states):
        noise = torch.from_numpy(np.random.default_rng(0).standard_normal((*input_ids.shape, 1)))
        beliefs = torch.from_numpy(exact_predictor(SOURCE).log_ages(torch.nn.functional.pad(input_ids, (0, 1)))[:, 1:])
        state = noise if self.config["blind"] else torch.cat([noise, 3 * beliefs[..., None] + 1], 2)

        class Out:
            hidden_states = (state,)

        self.config["blind"] = True  # the copy with fresh weights knows nothing
        return Out


SOURCE = Piecewise("lin", 32, seed=0)


def test_a_state_that_holds_the_belief_is_read_perfectly():
    found = probe(Oracle({"blind": False}), SOURCE, sequences=60, batch_size=60)
    assert found["posterior"]["network"] > 0.999
    assert found["posterior"]["untrained"] < 0.05
    assert 0.1 < found["posterior"]["recent_symbols"] < 0.95
    assert found["truth"]["network"] == pytest.approx(found["truth"]["exact_posterior"], abs=0.01)


@pytest.mark.parametrize("network", ["lstm", "stack_rnn", "transformer"])
def test_every_network_can_be_probed(network):
    made = make_network(NetworkArguments(network=network, hidden_size=8), 2, 32).train()
    found = probe(made, Piecewise("ptw", 32, seed=0), sequences=20)
    assert made.training and all(-2 < value <= 1 for part in found.values() for value in part.values())


class Halves(Source):
    """Two segments of i.i.d. symbols: a source from outside, with PTW as its predictor."""

    exact = f"{__name__}:make_ptw"
    in_segments = True
    vocab_size, length = 2, 16

    def tokens(self, start, count, split="train"):
        p = np.random.default_rng((self.seed, start)).random((count, 2)).repeat(8, 1)
        return (np.random.default_rng((self.seed, start, 1)).random((count, 16)) < p).astype(np.int64)

    def columns(self, start, count, split="train", optional=False):
        switches = np.zeros((count, 16), bool)
        switches[:, 8] = True
        return {"tokens": self.tokens(start, count, split), "switches": switches}


def make_ptw(source, *_):
    return PTW(4)


def make_kt(source, *_):
    return KT()


def test_a_source_from_outside_is_probed():
    made = make_network(NetworkArguments(network="lstm", hidden_size=8), 2, 16)
    found = probe(made, Halves(0), sequences=40)
    assert 0.2 < found["truth"]["exact_posterior"] <= 1


def test_a_predictor_without_ages_is_refused():
    class AgelessHalves(Halves):
        exact = f"{__name__}:make_kt"

    with pytest.raises(ConfigError, match="its exact predictor, KT, has no log_ages"):
        find_log_ages(AgelessHalves(0))
