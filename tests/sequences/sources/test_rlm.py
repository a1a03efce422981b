"""The Random Language Model against its definition: grammar, trees, batches, exact marginals and predictions."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from scipy import stats

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.predictors import RLMPredictor
from metarlgym.sequences.sources import RLM


def sequence_probs(rules: np.ndarray, prior: np.ndarray, depth: int) -> dict[tuple[int, ...], float]:
    """Probability of every sequence of leaves, straight from the definition."""
    V = len(prior)
    below = [{(a,): 1.0} for a in range(V)]  # by root: the leaves of a tree of depth 0
    for _ in range(depth):
        above: list[dict[tuple[int, ...], float]] = [{} for _ in range(V)]
        for a, b, c in itertools.product(range(V), repeat=3):
            for (left, p), (right, q) in itertools.product(below[b].items(), below[c].items()):
                above[a][left + right] = above[a].get(left + right, 0.0) + rules[a, b, c] * p * q
        below = above
    total: dict[tuple[int, ...], float] = {}
    for a in range(V):
        for leaves, p in below[a].items():
            total[leaves] = total.get(leaves, 0.0) + prior[a] * p
    return total


def pooled(counts: np.ndarray, probs: np.ndarray) -> float:
    """p-value of a chi-square test, cells expected below 8 taken together; what cannot be must not have been."""
    expected = (probs * counts.sum()).ravel()
    counts = counts.ravel().astype(float)
    assert (counts[expected == 0] == 0).all()
    rare = expected < 8
    expected, counts = (np.append(a[~rare], a[rare].sum()) for a in (expected, counts))
    if expected[-1] < 5:
        expected, counts = (np.append(a[:-2], a[-2:].sum()) for a in (expected, counts))
    if counts.size == 1:
        return 1.0
    return stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue


@pytest.mark.parametrize("v, beta", [(2, 0.0), (3, 1.0), (32, 2.0), (64, 8.0), (5, 200.0)])
def test_rules_are_distributions_of_pairs(v, beta):
    source = RLM(v=v, beta=beta)
    assert source.rules.shape == (v, v, v)
    assert np.abs(source.rules.sum((1, 2)) - 1).max() < 1e-12
    assert (source.rules >= 0).all()
    if beta == 0:
        assert (source.rules == 1 / v**2).all()


def test_grammar_is_a_function_of_its_seed():
    random.seed(1)
    np.random.seed(1)
    one = RLM(v=10, seed_rules=5, seed_samples=1).rules.copy()
    random.seed(2)
    np.random.seed(2)
    np.random.rand(7)
    assert (RLM(v=10, seed_rules=5, seed_samples=2, L=3).rules == one).all()
    assert (RLM(v=10, seed_rules=6, seed_samples=1).rules != one).any()


def test_grammars_of_all_beta_are_one_draw_scaled():
    """ln M = beta sqrt(ln V) g + constant: dividing by the factor gives g less a row's constant, standard normal."""
    v, draws = 12, []
    for beta in (0.3, 1.0, 2.5):
        logs = np.log(RLM(v=v, beta=beta, seed_rules=8).rules.reshape(v, -1)) / (beta * math.sqrt(math.log(v)))
        draws.append(logs - logs.mean(1, keepdims=True))
    assert np.abs(draws[0] - draws[1]).max() < 1e-9
    assert np.abs(draws[0] - draws[2]).max() < 1e-9
    scale = math.sqrt(1 - 1 / v**2)  # the mean was taken out
    assert stats.kstest(draws[0].ravel() / scale, "norm").pvalue > 1e-3
    assert abs(draws[0].std() - scale) < 4 * scale / math.sqrt(2 * v**3)


def test_children_follow_the_rules_at_every_level():
    source = RLM(v=4, L=3, beta=1.5, seed_rules=3, seed_samples=3)
    levels = source.trees(0, 30_000)
    for above, below in itertools.pairwise(levels):
        for place in range(above.shape[1]):
            left, right = below[:, 2 * place], below[:, 2 * place + 1]
            for a in range(4):
                here = above[:, place] == a
                counts = np.histogram2d(left[here], right[here], 4, [[-0.5, 3.5]] * 2)[0]
                assert pooled(counts, source.rules[a]) > 1e-4, (place, a)


def test_brothers_are_independent_given_their_parents():
    source = RLM(v=3, L=2, beta=1.0, seed_rules=4, seed_samples=4)
    _, middle, leaves = source.trees(0, 60_000)
    codes = leaves[:, ::2] * 3 + leaves[:, 1::2]
    for b, c in itertools.product(range(3), repeat=2):
        here = (middle[:, 0] == b) & (middle[:, 1] == c)
        counts = np.histogram2d(codes[here, 0], codes[here, 1], 9, [[-0.5, 8.5]] * 2)[0]
        assert pooled(counts, np.outer(source.rules[b].ravel(), source.rules[c].ravel())) > 1e-4


@pytest.mark.parametrize("probs", [None, [0.1, 0.0, 0.6, 0.3], [0.0, 1.0, 0.0, 0.0]])
def test_roots(probs):
    source = RLM(v=4, L=1, probs=probs, seed_samples=5)
    roots = source.trees(0, 20_000)[0]
    assert roots.shape == (20_000, 1)
    counts = np.bincount(roots[:, 0], minlength=4)
    assert pooled(counts, np.full(4, 0.25) if probs is None else np.array(probs)) > 1e-3


def test_tree_structure():
    """With rules that leave no choice, a has the children 2a and 2a + 1: leaves name their own path."""
    v = 16
    rules = np.zeros((v, v, v))
    for a in range(v):
        rules[a, 2 * a % v, (2 * a + 1) % v] = 1
    source = RLM(v=v, L=3, rules=rules, probs=np.eye(v)[1], seed_samples=1)
    levels = source.trees(0, 3)
    for k, level in enumerate(levels):
        assert level.shape == (3, 2**k)
        assert (level == np.arange(2**k, 2 ** (k + 1))).all()
    assert (source.tokens(0, 3) == levels[-1]).all()
    assert source.length == 8


def test_no_impossible_pair_is_drawn():
    rng = np.random.default_rng(0)
    rules = rng.random((6, 6, 6)) * (rng.random((6, 6, 6)) < 0.2)
    rules[:, 0, 0] += 1e-3
    rules /= rules.sum((1, 2), keepdims=True)
    source = RLM(v=6, L=6, rules=rules, seed_samples=2)
    levels = source.trees(0, 5000)
    counts = np.zeros((6, 6, 6))
    for above, below in itertools.pairwise(levels):
        np.add.at(counts, (above, below[:, ::2], below[:, 1::2]), 1)
    assert (counts[rules == 0] == 0).all()
    for a in range(6):
        assert pooled(counts[a], rules[a]) > 1e-4


def test_sharp_rules_have_exact_frequencies():
    """Alias tables hold probabilities of very different size."""
    rules = np.tile(np.array([[0.9, 0.09], [0.0099, 0.0001]]), (2, 1, 1))
    counts = np.zeros(4)
    source = RLM(v=2, L=1, rules=rules, seed_samples=3)
    leaves = source.tokens(0, 400_000)
    counts = np.bincount(2 * leaves[:, 0] + leaves[:, 1], minlength=4)
    assert pooled(counts, rules[0]) > 1e-3


def test_batches():
    source = RLM(v=8, L=3, seed_samples=9)
    tokens = source.tokens(0, 100)
    x, y = source.sample_batch(64)
    assert x.shape == (64, 7)
    assert y.shape == (64,)
    assert x.dtype == y.dtype == np.int64
    assert (np.column_stack([x, y]) == tokens[:64]).all()
    x, y = source.sample_batch(36)
    assert (np.column_stack([x, y]) == tokens[64:]).all()
    x, y = source.sample_batch(5, L=5)
    assert x.shape == (5, 31)
    assert (RLM(v=8, L=3, seed_samples=10).tokens(0, 100) != tokens).any(1).mean() > 0.9


def test_evaluation_set_is_fixed_and_apart():
    source = RLM(v=8, L=2, seed_samples=9, num_data=3)
    x, y = source.sample_eval_set(500)
    source.sample_batch(10)
    again = source.sample_eval_set(500)
    assert (again[0] == x).all()
    assert (again[1] == y).all()
    assert (source.sample_eval_set(20)[0] == x[:20]).all()
    assert (np.column_stack([x, y]) == source.tokens(0, 500, "eval")).all()
    train = RLM(v=8, L=2, seed_samples=9).tokens(0, 500)
    assert (np.column_stack([x, y]) != train).any(1).mean() > 0.9
    assert len(np.unique(x, axis=0)) > 100


def test_num_data_repeats():
    fresh = RLM(v=8, L=2, seed_samples=9).tokens(0, 5)
    source = RLM(v=8, L=2, seed_samples=9, num_data=5)
    for first, count in [(0, 7), (7, 2), (9, 13)]:
        x, y = source.sample_batch(count)
        assert (np.column_stack([x, y]) == fresh[(first + np.arange(count)) % 5]).all()
    assert (source.tokens(4, 12) == fresh[(4 + np.arange(12)) % 5]).all()


def test_transform_sees_the_inputs():
    plain = RLM(v=8, L=2, seed_samples=9)
    source = RLM(v=8, L=2, seed_samples=9, transform=lambda x: np.eye(8)[x])
    x, y = source.sample_batch(6)
    wanted = plain.sample_batch(6)
    assert x.shape == (6, 3, 8)
    assert (x.argmax(2) == wanted[0]).all()
    assert (y == wanted[1]).all()
    assert source.sample_eval_set(4)[0].shape == (4, 3, 8)


def test_marginal():
    prior = np.array([0.2, 0.5, 0.3])
    source = RLM(v=3, L=2, beta=2, seed_rules=6, probs=prior, seed_samples=6)
    exact = np.zeros(3)
    for leaves, p in sequence_probs(source.rules, prior, 2).items():
        exact += p * np.bincount(leaves, minlength=3) / 4
    assert np.abs(source.marginal() - exact).max() < 1e-14
    assert np.abs(source.marginal(0) - prior).max() == 0
    assert np.abs(source.marginal(1) - (source.rules.sum(1) + source.rules.sum(2)).T @ prior / 2).max() < 1e-14
    each = np.stack([(source.tokens(0, 40_000) == a).mean(1) for a in range(3)])  # places of a tree go together
    assert (np.abs(each.mean(1) - exact) < 4 * each.std(1) / 200).all()


@pytest.mark.parametrize("L", [1, 2])
def test_samples_have_the_exact_distribution(L):
    source = RLM(v=3, L=L, beta=1.2, seed_rules=7, seed_samples=7)
    exact = sequence_probs(source.rules, np.full(3, 1 / 3), L)
    codes = source.tokens(0, 50_000) @ 3 ** np.arange(2**L)[::-1]
    probs = np.array([exact[s] for s in itertools.product(range(3), repeat=2**L)])
    assert pooled(np.bincount(codes, minlength=probs.size), probs) > 1e-3


def test_samples_do_not_depend_on_the_batch():
    whole = RLM(v=3, L=2, seed_samples=11).tokens(0, 16_500)
    for first, count in [(8190, 4), (8192, 1), (16_383, 3), (5000, 10_000), (0, 8192), (8191, 8193)]:
        assert (RLM(v=3, L=2, seed_samples=11).tokens(first, count) == whole[first : first + count]).all()
    source = RLM(v=3, L=2, seed_samples=11)
    parts = [np.column_stack(source.sample_batch(size)) for size in (3, 8189, 8000)]
    assert (np.concatenate(parts) == whole[:16_192]).all()
    assert (whole[:8000] != whole[8192:16_192]).any(1).mean() > 0.9


@pytest.mark.parametrize("prior", [None, [0.7, 0.3, 0.0]])
def test_predictor_equals_brute_force_over_all_81_strings(prior):
    source = RLM(v=3, L=2, beta=2.0, seed_rules=1, probs=prior)
    exact = sequence_probs(source.rules, source.prior, 2)
    assert abs(sum(exact.values()) - 1) < 1e-13
    strings = np.array(list(itertools.product(range(3), repeat=4)))
    found = RLMPredictor(source).predictions(strings)
    for string, rows in zip(strings, found):
        for t in range(4):
            wanted = np.zeros(3)
            for other, p in exact.items():
                if other[:t] == tuple(string[:t]):
                    wanted[other[t]] += p
            assert np.abs(rows[t] - wanted / wanted.sum()).max() < 1e-12
    losses = RLMPredictor(source).log_loss(strings).sum(1)
    assert np.abs(np.exp(-losses) - [exact[tuple(s)] for s in strings]).max() < 1e-12


UNEVEN = np.full((3, 3, 3), 1 / 9)
UNEVEN[1, 2, 0] = 0.2
BAD = [
    ({"v": 1}, "v=1"),
    ({"v": 0}, "v=0"),
    ({"v": True}, "v=True"),
    ({"v": 3.0}, "v=3.0"),
    ({"v": 10**6}, "v=1000000"),
    ({"v": np.int64(5 * 10**6)}, "v=5000000"),
    ({"L": 0}, "L=0"),
    ({"L": -1}, "L=-1"),
    ({"L": 60}, "L=60"),
    ({"L": 4096}, "L=4096"),
    ({"L": "3"}, "L='3'"),
    ({"beta": -1}, "beta=-1"),
    ({"beta": math.nan}, "beta=nan"),
    ({"beta": math.inf}, "beta=inf"),
    ({"seed_rules": None}, "seed_rules=None"),
    ({"seed_rules": -1}, "seed_rules=-1"),
    ({"seed_samples": 1.5}, "1.5"),
    ({"num_data": 0}, "num_data=0"),
    ({"probs": [0.5, 0.5]}, r"probs.*\(2,\).*\(3,\)"),
    ({"probs": [0.5, 0.5, 0.5]}, "probs sums to 1.5"),
    ({"probs": [1.5, -0.5, 0.0]}, "probs holds -0.5"),
    ({"probs": [math.nan, 0.5, 0.5]}, "probs holds nan"),
    ({"rules": UNEVEN}, "rules sums to 1.08"),
    ({"rules": np.ones((3, 3))}, "rules has shape"),
    ({"rules": -UNEVEN}, "rules holds -"),
]


@pytest.mark.parametrize("changes, message", BAD, ids=[f"{n}-{next(iter(b[0]))}" for n, b in enumerate(BAD)])
def test_bad_settings(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        RLM(**{"v": 3, "L": 2} | changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda s: s.sample_batch(0), "batch_size=0"),
        (lambda s: s.sample_batch(2.0), "batch_size=2.0"),
        (lambda s: s.sample_batch(3, L=0), "L=0"),
        (lambda s: s.sample_batch(3, L=5000), "L=5000"),
        (lambda s: s.sample_batch(10**13), "batch_size=10000000000000"),
        (lambda s: s.sample_eval_set(10**13), "=10000000000000"),
        (lambda s: s.sample_eval_set(0), "num_data=0"),
        (lambda s: s.sample_eval_set(2.0), "num_data=2.0"),
        (lambda s: s.tokens(0, 3, "test"), "split='test'"),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(ConfigError, match=message) as caught:
        call(RLM(v=3, L=2))
    assert "\n" not in str(caught.value)
