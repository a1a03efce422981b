"""The pseudo-language against the published formula, in plain numpy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.sources import PseudoLanguage


def published(context: list[int], V: int, n_gram: int, n_emb: int, n_hidden: int, scale: float, language: int):
    """h = mean_i w_i tanh(E[x_i] W_i + b_i), w = 0..n-1; z = h W_o + b_o; softmax(scale (z - mean z) / std z).

    The parameters are drawn in this order: a change would change every language.
    """
    rng = np.random.default_rng([language, V, n_gram, n_emb, n_hidden])
    E = rng.standard_normal((V, n_emb))
    W, b = rng.standard_normal((n_gram, n_emb, n_hidden)), rng.standard_normal((n_gram, n_hidden))
    W_o, b_o = rng.standard_normal((n_hidden, V)), rng.standard_normal(V)
    h = np.mean([w * np.tanh(E[x] @ W[w] + b[w]) for w, x in enumerate(context)], axis=0)
    z = h @ W_o + b_o
    o = scale * (z - z.mean()) / z.std()
    return np.exp(o - o.max()) / np.exp(o - o.max()).sum()


@pytest.mark.parametrize(
    "settings",
    [
        {"V": 11, "n_gram": 3, "n_emb": 4, "n_hidden": 6, "scale": 5.0, "language": 0},
        {"V": 256, "n_gram": 3, "n_emb": 16, "n_hidden": 64, "scale": 5.0, "language": 7},
        {"V": 5, "n_gram": 6, "n_emb": 1, "n_hidden": 1, "scale": 1.0, "language": 1},
        {"V": 3, "n_gram": 1, "n_emb": 2, "n_hidden": 3, "scale": 2.0, "language": 2},
        {"V": 2, "n_gram": 2, "n_emb": 2, "n_hidden": 2, "scale": 0.0, "language": 3},
    ],
)
def test_distribution_is_the_published_formula(settings):
    source, rng = PseudoLanguage(**settings), np.random.default_rng(0)
    for _ in range(20):
        context = rng.integers(settings["V"], size=settings["n_gram"])
        found = source.distribution(context)
        assert np.abs(found - published(context.tolist(), **settings)).max() < 1e-12
        assert abs(found.sum() - 1) < 1e-12


def test_defaults_are_the_published_ones():
    source = PseudoLanguage()
    assert np.abs(source.distribution(np.array([3, 1, 4])) - published([3, 1, 4], 256, 3, 16, 64, 5.0, 0)).max() < 1e-12
    assert source.length == 4096


def test_oldest_token_has_no_influence_and_the_others_have():
    source = PseudoLanguage(V=9, n_gram=4, seed=1)
    base = source.distribution(np.array([1, 2, 3, 4]))
    for place in range(4):
        context = np.array([1, 2, 3, 4])
        context[place] = 8
        assert (source.distribution(context) == base).all() == (place == 0)


def test_logits_have_the_scale():
    p = PseudoLanguage(V=40, scale=3.5).distribution(np.array([1, 2, 3]))
    assert abs(np.log(p).std() - 3.5) < 1e-9


@pytest.mark.parametrize("n_gram", [1, 3])
def test_samples_follow_the_distribution(n_gram):
    """Tokens after each context of two, by chi-square; and the probability given with each token is exact."""
    source = PseudoLanguage(V=4, n_gram=n_gram, scale=0.6, L=40, seed=2)
    tokens, probs = source.batch(0, 4000)
    assert tokens.shape == probs.shape == (4000, 40)
    before = np.zeros((4000, n_gram), np.int64)
    counts = np.zeros((4,) * n_gram + (4,))
    for t in range(40):
        np.add.at(counts, (*before.T, tokens[:, t]), 1)
        if t in (0, 1, 17):
            exact = np.array([source.distribution(c)[a] for c, a in zip(before[:300], tokens[:300, t])])
            assert (exact == probs[:300, t]).all()
        before = np.column_stack([before[:, 1:], tokens[:, t]])
    pvalues = []
    for context in itertools.product(range(4), repeat=n_gram):
        seen = counts[context]
        expected = source.distribution(np.array(context)) * seen.sum()
        if expected.min() > 5:
            pvalues.append(stats.chisquare(seen, expected * seen.sum() / expected.sum()).pvalue)
    assert len(pvalues) == 4**n_gram
    assert min(pvalues) > 1e-3 / len(pvalues)
    if len(pvalues) > 1:
        assert stats.kstest(pvalues, "uniform").pvalue > 1e-3


def test_mean_loss_is_the_mean_entropy():
    """Of a sharp language: what was drawn is as probable as it should be."""
    source = PseudoLanguage(V=64, L=200, seed=3)
    tokens, probs = source.batch(0, 50)
    gain = []
    for row, p in zip(tokens[:25], probs):
        padded = np.append([0, 0, 0], row)
        for t in range(200):
            q = source.distribution(padded[t : t + 3])
            gain.append(math.log(p[t]) - (q * np.log(q)).sum())
    gain = np.array(gain)
    assert abs(gain.mean()) < 4 * gain.std() / math.sqrt(gain.size)


def test_samples_do_not_depend_on_the_batch():
    def source(**changes) -> PseudoLanguage:
        return PseudoLanguage(**{"V": 12, "L": 50, "language": 4, "seed": 5} | changes)

    tokens, probs = source().batch(0, 40)
    for first, count in [(0, 1), (39, 1), (10, 25)]:
        found = source().batch(first, count)
        assert (found[0] == tokens[first : first + count]).all()
        assert (found[1] == probs[first : first + count]).all()
    assert (source().tokens(5, 3) == tokens[5:8]).all()
    assert (source(L=20).tokens(0, 40) == tokens[:, :20]).all()
    for other in [source(seed=6).tokens(0, 40), source().tokens(0, 40, "eval")]:
        assert (other != tokens).any(1).all()
    context = np.array([0, 1, 2])
    assert (source(seed=6).distribution(context) == source().distribution(context)).all()
    assert (source(language=5).distribution(context) != source().distribution(context)).all()


BAD = [
    ({"V": 1}, "V=1"),
    ({"V": "a"}, "V='a'"),
    ({"n_gram": 0}, "n_gram=0"),
    ({"n_emb": 0}, "n_emb=0"),
    ({"n_hidden": 0}, "n_hidden=0"),
    ({"scale": -1}, "scale=-1"),
    ({"scale": math.nan}, "scale=nan"),
    ({"L": 0}, "L=0"),
    ({"L": 10**13}, "L=10000000000000"),
    ({"V": 10**10}, "10000000000|GiB"),
    ({"language": None}, "language=None"),
    ({"language": -1}, "language=-1"),
    ({"seed": "x"}, "seed='x'"),
]


@pytest.mark.parametrize("changes, message", BAD, ids=[str(b[0]) for b in BAD])
def test_bad_settings(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        PseudoLanguage(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("context", [[0, 1], [0, 1, 2, 3], [0, 1, 7], [-1, 0, 0], [[0, 1, 2]], [0.5, 1, 2]])
def test_bad_context(context):
    """Compiled code would read beyond its tables."""
    with pytest.raises(ConfigError, match="context") as caught:
        PseudoLanguage(V=7, n_gram=3, seed=1).distribution(np.array(context))
    assert "\n" not in str(caught.value)


def test_bad_calls():
    source = PseudoLanguage(V=7, L=8, seed=1)
    with pytest.raises(ConfigError, match="batch_size=1000000000000"):
        source.batch(0, 10**12)
    with pytest.raises(ConfigError, match="split='valid'"):
        source.batch(0, 1, "valid")
