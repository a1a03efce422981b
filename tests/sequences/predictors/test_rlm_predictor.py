"""The exact predictor of the Random Language Model against enumeration of all trees."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.predictors import RLMPredictor, rule_entropy
from metarlgym.sequences.sources import RLM


def joint(source: RLM) -> np.ndarray:
    """Probability of all sequences, an array with one axis for each leaf: sum over all inner symbols of all rules."""
    V, L = source.v, source.L
    tables = np.eye(V)  # (root, leaves...)
    for _ in range(L):
        n = tables.ndim - 1
        letters = "abcdefghijklmnopqrstuv"
        left, right = letters[:n], letters[n : 2 * n]
        tables = np.einsum(f"xyz,y{left},z{right}->x{left}{right}", source.rules, tables, tables)
    return np.tensordot(source.prior, tables, 1)


def wanted(p: np.ndarray, before: tuple[int, ...]) -> np.ndarray:
    probs = p[before].reshape(p.shape[0], -1).sum(1)
    return probs / probs.sum()


@pytest.mark.parametrize(
    "v, L, beta, probs",
    [(2, 3, 1.5, None), (2, 3, 4.0, [0.9, 0.1]), (4, 2, 2.0, None), (5, 1, 2.0, None), (3, 3, 3.0, [0, 0.5, 0.5])],
)
def test_equals_enumeration(v, L, beta, probs):
    source = RLM(v=v, L=L, beta=beta, seed_rules=4, probs=probs, seed_samples=1)
    p = joint(source)
    assert abs(p.sum() - 1) < 1e-12
    strings = np.array(list(itertools.product(range(v), repeat=2**L)))
    strings = strings[np.linspace(0, len(strings) - 1, 300).astype(int)]
    found = RLMPredictor(source).predictions(strings)
    for string, rows in zip(strings, found):
        for t in range(2**L):
            assert np.abs(rows[t] - wanted(p, tuple(string[:t]))).max() < 1e-12


def test_online_is_batched():
    source = RLM(v=6, L=4, seed_samples=2)
    x = source.tokens(0, 5)
    found, predictor = RLMPredictor(source).predictions(x), RLMPredictor(source)
    for b in range(5):
        predictor.reset()
        for t in range(16):
            first = predictor.predict()
            assert np.abs(first - found[b, t]).max() < 1e-12
            first[:] = 0
            assert np.abs(predictor.predict() - found[b, t]).max() < 1e-12
            predictor.update(int(x[b, t]))
        with pytest.raises(ConfigError, match=r"depth=4.*16 tokens"):
            predictor.predict()
        with pytest.raises(ConfigError, match=r"depth=4.*16 tokens"):
            predictor.update(0)


def test_beginnings_and_blocks(monkeypatch):
    source = RLM(v=6, L=4, seed_samples=2)
    x = source.tokens(0, 10)
    whole = RLMPredictor(source).predictions(x)
    for T in (1, 7, 15):
        assert np.abs(RLMPredictor(source).predictions(x[:, :T]) - whole[:, :T]).max() < 1e-12
    monkeypatch.setattr("metarlgym.sequences.predictors.rlm.BLOCK_BYTES", 3 * 8 * 36)
    assert np.abs(RLMPredictor(source).predictions(x) - whole).max() < 1e-12


def test_another_depth():
    shallow, deep = RLM(v=4, L=1), RLM(v=4, L=3)
    x = deep.tokens(0, 6)
    assert np.abs(RLMPredictor(shallow, depth=3).predictions(x) - RLMPredictor(deep).predictions(x)).max() < 1e-14
    assert np.abs(RLMPredictor(shallow, depth=0).predictions([[1]]) - 0.25).max() < 1e-15


def test_entropy_is_the_floor_of_the_loss():
    source = RLM(v=16, L=4, beta=2.0, seed_samples=3)
    x = source.tokens(0, 6000)
    predictor = RLMPredictor(source)
    entropy, loss = predictor.entropy(x), predictor.log_loss(x)
    assert entropy.shape == loss.shape == (6000, 16)
    gap = loss - entropy
    assert (np.abs(gap.mean(0)) < 4 * gap.std(0) / math.sqrt(6000) + 1e-12).all()
    p = predictor.predictions(x)
    assert np.abs(entropy + (p * np.log(p)).sum(2)).max() < 1e-12


def test_floor_at_depth_1_is_the_entropy_of_a_rule():
    """By expectation over all first symbols: H(second | first) of the mixture over roots."""
    for probs in (None, [0.7, 0.2, 0.1, 0, 0]):
        source = RLM(v=5, L=1, beta=2.0, probs=probs)
        first = np.arange(5)
        x = np.stack([first, np.zeros(5, int)], 1)
        entropy = RLMPredictor(source).entropy(x)[:, 1]
        assert abs(RLMPredictor(source).predictions(x)[0, 0] @ entropy - rule_entropy(source)) < 1e-12
    pairs = np.einsum("a,abc->bc", source.prior, source.rules)
    exact = -sum(q * math.log(q / pairs[b].sum()) for b in range(5) for q in pairs[b])
    assert abs(rule_entropy(source) - exact) < 1e-12


def test_exact_floor_by_enumeration_and_deeper_is_lower():
    """Chain rule: the expected losses of all places sum to the entropy of whole sequences."""
    source = RLM(v=3, L=2, beta=2.5, seed_rules=2)
    p = joint(source).ravel()
    strings = np.array(list(itertools.product(range(3), repeat=4)))
    predictor = RLMPredictor(source)
    entropy = -(p * np.log(p)).sum()
    assert abs(p @ predictor.log_loss(strings).sum(1) - entropy) < 1e-12
    assert abs(p @ predictor.entropy(strings).sum(1) - entropy) < 1e-12
    last = [RLMPredictor(RLM(v=32, L=L)).entropy(RLM(v=32, L=L).tokens(0, 2000))[:, -1].mean() for L in (1, 2, 3)]
    assert last[0] > last[1] > last[2]


@pytest.mark.parametrize("beta, figures", [(2.0, (2.290, 1.763, 1.549)), (1.2, (3.136, 3.089, 3.082))])
def test_floors_of_the_table(beta, figures):
    """Means of four grammars, computed apart: mean of thirty within 3 sd sqrt(1/30 + 1/4)."""
    floors = []
    for seed in range(100, 130):
        sources = [RLM(v=32, L=L, beta=beta, seed_rules=seed, seed_samples=seed) for L in (1, 2, 3)]
        floors.append([RLMPredictor(s).entropy(s.tokens(0, 200))[:, -1].mean() for s in sources])
    floors = np.array(floors)
    assert (np.abs(floors.mean(0) - figures) < 3 * floors.std(0, ddof=1) * math.sqrt(1 / 30 + 1 / 4)).all()


@pytest.mark.parametrize("beta", [0.8, 2.0])
def test_grammars_have_the_entropy_of_the_definition(beta):
    """Against grammars drawn here: softmax over pairs of beta sqrt(ln V) g, with another generator."""
    found, wanted = [], []
    for seed in range(150):
        found.append(rule_entropy(RLM(v=24, beta=beta, seed_rules=seed)))
        weights = np.exp(beta * math.sqrt(math.log(24)) * np.random.RandomState(seed).randn(24, 24, 24))
        pairs = (weights / weights.sum((1, 2), keepdims=True)).mean(0)
        wanted.append(-(pairs * np.log(pairs / pairs.sum(1, keepdims=True))).sum())
    spread = math.sqrt((np.var(found) + np.var(wanted)) / 150)
    assert abs(np.mean(found) - np.mean(wanted)) < 4 * spread


def test_deep_trees_do_not_underflow():
    source = RLM(v=8, L=10, beta=3.0, seed_samples=4)
    x = source.tokens(0, 2)
    found = RLMPredictor(source).predictions(x)
    assert np.isfinite(found).all()
    assert np.abs(found.sum(2) - 1).max() < 1e-12
    assert RLMPredictor(source).log_loss(x).mean() < math.log(8)


def test_uniform_rules():
    source = RLM(v=7, L=3, beta=0.0)
    assert np.abs(RLMPredictor(source).predictions(source.tokens(0, 4)) - 1 / 7).max() < 1e-14
    assert abs(rule_entropy(source) - math.log(7)) < 1e-12


def test_certain_rules():
    """1 -> 2 3, 2 -> 0 1, 3 -> 2 2: one sequence only; whatever else is refused or costs infinitely much."""
    rules = np.zeros((4, 4, 4))
    rules[0, 0, 0] = rules[1, 2, 3] = rules[2, 0, 1] = rules[3, 2, 2] = 1
    source = RLM(v=4, L=2, rules=rules, probs=[0, 1, 0, 0])
    predictor = RLMPredictor(source)
    assert (source.tokens(0, 3) == [0, 1, 2, 2]).all()
    assert (predictor.log_loss([0, 1, 2, 2]) == 0).all()
    assert (predictor.entropy([0, 1, 2, 2]) == 0).all()
    assert predictor.log_loss([0, 1, 2, 3])[0].tolist() == [0, 0, 0, math.inf]
    for x in ([3, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]):
        with pytest.raises(ConfigError, match="probability 0") as caught:
            predictor.predictions(x)
        assert "\n" not in str(caught.value)


def test_an_impossible_symbol_leaves_no_stale_prediction():
    rules = np.zeros((2, 2, 2))
    rules[0, 0, 0] = rules[1, 1, 1] = 1
    predictor = RLMPredictor(RLM(v=2, L=2, rules=rules))
    predictor.update(0)
    with pytest.raises(ConfigError, match="probability 0"):
        predictor.update(1)
        predictor.update(1)
    assert predictor.predict().tolist() == [0.5, 0.5]  # it was reset
    predictor.update(0)
    assert predictor.predict().tolist() == [1, 0]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda s: RLMPredictor(s).predictions(np.zeros((1, 5), int)), "T=5 .*depth=2.*4 tokens"),
        (lambda s: RLMPredictor(s).predictions([[0, 3]]), "holds 3"),
        (lambda s: RLMPredictor(s).update(3), "symbol=3"),
        (lambda s: RLMPredictor(s, depth=-1), "depth=-1"),
        (lambda s: RLMPredictor(s, depth=1.5), "depth=1.5"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ConfigError, match=message) as caught:
        call(RLM(v=3, L=2))
    assert "\n" not in str(caught.value)
