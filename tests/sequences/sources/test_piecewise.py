"""Piecewise-stationary sources against the laws of their switch points, written down here anew."""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np
import pytest
from scipy import stats

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.sources import Piecewise

LAWS = ("static", "regular", "random", "ptw", "lin")
Pattern = tuple[int, ...]
"""Switch points of a sequence, in order."""


@cache
def ptw_block(start: int, depth: int, T: int) -> dict[Pattern, float]:
    """Probability of each set of segment starts in a block of 2^depth symbols, those at T or later left out."""
    whole = {(start,) if start < T else (): 1.0}
    if depth == 0:
        return whole
    found = {pattern: p / 2 for pattern, p in whole.items()}
    left, right = ptw_block(start, depth - 1, T), ptw_block(start + 2 ** (depth - 1), depth - 1, T)
    for (a, p), (b, q) in itertools.product(left.items(), right.items()):
        found[a + b] = found.get(a + b, 0.0) + p * q / 2
    return found


def by_length(T: int, lengths: dict[int, float]) -> dict[Pattern, float]:
    """Probability of each set of switches where segments have independent lengths."""
    found: dict[Pattern, float] = {}

    def grow(pattern: Pattern, at: int, p: float) -> None:
        for m, q in lengths.items():
            if at + m < T:
                grow((*pattern, at + m), at + m, p * q)
            else:
                found[pattern] = found.get(pattern, 0.0) + p * q

    grow((), 0, 1.0)
    return found


def lin_lengths(T: int) -> dict[int, float]:
    """P(m): the segment went on after 1..m-1 symbols, each time with 1 - 1/(2j), and ended after m with 1/(2m)."""
    goes_on = [math.prod(1 - 1 / (2 * j) for j in range(1, m)) for m in range(1, T + 1)]
    lengths = {m: goes_on[m - 1] / (2 * m) for m in range(1, T)}
    return lengths | {T: goes_on[T - 1]}


def exact(law: str, T: int, period: int = 20, low: int = 1, high: int = 39) -> dict[Pattern, float]:
    if law == "ptw":
        depth = next(d for d in range(20) if 2**d >= T)
        return {pattern[1:]: p for pattern, p in ptw_block(0, depth, T).items()}
    lengths = {
        "static": {T: 1.0},
        "regular": {period: 1.0},
        "random": dict.fromkeys(range(low, high + 1), 1 / (high - low + 1)),
        "lin": lin_lengths(T),
    }
    return by_length(T, lengths[law])


def pooled(counts: np.ndarray, probs: np.ndarray) -> float:
    """p-value of a chi-square test, cells expected below 8 taken together."""
    expected, counts = probs * counts.sum(), np.asarray(counts, float)
    rare = expected < 8
    expected, counts = (np.append(a[~rare], a[rare].sum()) for a in (expected, counts))
    if expected[-1] < 5:
        expected, counts = (np.append(a[:-2], a[-2:].sum()) for a in (expected, counts))
    return stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue if counts.size > 1 else 1.0


@pytest.mark.parametrize(
    "law, T, settings",
    [
        ("static", 8, {}),
        ("regular", 8, {"period": 3}),
        ("regular", 8, {"period": 8}),
        ("regular", 5, {"period": 1}),
        ("random", 8, {"low": 1, "high": 4}),
        ("random", 9, {"low": 3, "high": 3}),
        ("random", 9, {"low": 2, "high": 20}),
        ("ptw", 8, {}),
        ("ptw", 7, {}),
        ("ptw", 5, {}),
        ("ptw", 2, {}),
        ("ptw", 1, {}),
        ("lin", 8, {}),
        ("lin", 3, {}),
    ],
)
def test_whole_switch_pattern(law, T, settings):
    """All switch points of a sequence together, against the probability of each possible set."""
    law_of = exact(law, T, **settings)
    assert abs(sum(law_of.values()) - 1) < 1e-12
    switches = Piecewise(law, T=T, seed=1, **settings).batch(0, 20_000).switches
    assert not switches[:, 0].any()
    patterns = list(law_of)
    place = {pattern: k for k, pattern in enumerate(patterns)}
    found = np.bincount([place[tuple(np.flatnonzero(row))] for row in switches], minlength=len(patterns))
    assert pooled(found, np.array([law_of[p] for p in patterns])) > 1e-3


@pytest.mark.parametrize("low, high", [(1, 39), (5, 12), (1, 1)])
def test_gaps_of_random_are_uniform_and_independent(low, high):
    T = 2 * high + 1
    switches = Piecewise("random", T=T, low=low, high=high, seed=2).batch(0, 20_000).switches
    places = [np.flatnonzero(row)[:2] for row in switches]
    gaps = np.array([(a, b - a) for a, b in places])  # there always are two
    assert gaps.min() >= low
    assert gaps.max() <= high
    n = high - low + 1
    if n > 1:
        for k in (0, 1):
            assert stats.chisquare(np.bincount(gaps[:, k] - low, minlength=n)).pvalue > 1e-3
        assert abs(np.corrcoef(gaps.T)[0, 1]) < 4 / math.sqrt(len(gaps))


@pytest.mark.parametrize("T", [64, 37, 100])
def test_ptw_probability_of_a_switch_at_each_time(T):
    """By recursion over blocks: a block's middle is a switch if it is cut; its halves likewise, given that."""
    probs = np.zeros(T)

    def halve(start: int, size: int, reached: float) -> None:
        if size > 1 and start < T:
            if start + size // 2 < T:
                probs[start + size // 2] += reached / 2
            halve(start, size // 2, reached / 2)
            halve(start + size // 2, size // 2, reached / 2)

    halve(0, 128 if T > 64 else 64, 1.0)
    count = 30_000
    switches = Piecewise("ptw", T=T, seed=3).batch(0, count).switches
    z = (switches.mean(0) - probs)[1:] / np.sqrt(probs * (1 - probs) / count)[1:]
    assert np.abs(z).max() < 4.5
    assert (z**2).mean() < 1.6
    if T == 64:
        assert probs.sum() == 3  # d / 2
    number = switches.sum(1)
    assert abs(number.mean() - probs.sum()) < 4 * number.std() / math.sqrt(count)


def test_lin_hazard_at_every_age():
    batch = Piecewise("lin", T=300, seed=4).batch(0, 3000)
    age, ended, reached = np.ones(3000, int), np.zeros(301), np.zeros(301)
    for t in range(1, 300):
        np.add.at(reached, age, 1)
        np.add.at(ended, age, batch.switches[:, t])
        age = np.where(batch.switches[:, t], 1, age + 1)
    m = np.arange(1, 200)
    hazard = 1 / (2 * m)
    z = (ended[m] - reached[m] * hazard) / np.sqrt(reached[m] * hazard * (1 - hazard))
    assert np.abs(z).max() < 4.5
    assert 0.6 < (z**2).mean() < 1.5


def test_hazard():
    """Probability of ending after m symbols for a segment that reached m, from the law of lengths."""
    for law, settings, lengths in [
        ("regular", {"period": 7}, {7: 1.0}),
        ("random", {"low": 3, "high": 9}, dict.fromkeys(range(3, 10), 1 / 7)),
        ("lin", {}, lin_lengths(30)),
    ]:
        hazard = Piecewise(law, T=29, seed=1, **settings).hazard()
        assert hazard.shape == (30,)
        assert hazard[0] == 0
        for m in range(1, max(lengths) + 1):
            reached = sum(p for k, p in lengths.items() if k >= m)
            if m < 30:
                assert abs(hazard[m] - lengths.get(m, 0.0) / reached) < 1e-12
    assert Piecewise("random", T=50, low=3, high=9).hazard()[9] == 1  # exactly: no segment is longer
    assert (Piecewise("static", T=9).hazard() == 0).all()
    assert Piecewise("ptw", T=9).hazard() is None


@pytest.mark.parametrize("law", ["random", "ptw", "lin"])
def test_each_sequence_has_its_own_switches(law):
    switches = Piecewise(law, T=128, seed=5).batch(0, 200).switches
    assert len(np.unique(switches, axis=0)) > 40


@pytest.mark.parametrize("law", LAWS)
def test_theta_is_constant_within_segments_and_new_at_switches(law):
    batch = Piecewise(law, T=90, alphabet=3, concentration=1, seed=6).batch(0, 200)
    assert (np.abs(batch.theta.sum(2) - 1) < 1e-12).all()
    changed = (batch.theta[:, 1:] != batch.theta[:, :-1]).any(2)
    assert (changed == batch.switches[:, 1:]).all()
    assert batch.tokens.shape == batch.switches.shape == (200, 90)
    assert batch.tokens.dtype == np.int64
    assert batch.switches.dtype == np.bool_


def test_theta_is_drawn_from_the_prior_in_every_segment():
    batch = Piecewise("regular", T=60, period=20, seed=7).batch(0, 20_000)
    segments = batch.theta[:, ::20, 0]
    for k in range(3):
        assert stats.kstest(segments[:, k], stats.beta(0.5, 0.5).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(segments[:, 0], segments[:, 1])[0, 1]) < 4 / math.sqrt(20_000)
    assert abs(np.corrcoef(segments[1:, 0], segments[:-1, 0])[0, 1]) < 4 / math.sqrt(20_000)
    # A token of the segment before says nothing of the new theta.
    assert abs(np.corrcoef(batch.tokens[:, 19], segments[:, 1])[0, 1]) < 4 / math.sqrt(20_000)


def test_vector_concentration():
    alpha = np.array([0.2, 0.5, 1, 2, 5])
    batch = Piecewise("lin", T=3, alphabet=5, concentration=alpha, seed=8).batch(0, 15_000)
    for a in range(5):
        found = batch.theta[:, 0, a]
        assert stats.kstest(found, stats.beta(alpha[a], alpha.sum() - alpha[a]).cdf).pvalue > 1e-3
        assert abs((batch.tokens == a).mean() - alpha[a] / alpha.sum()) < 0.01
    one = Piecewise("ptw", T=9, alphabet=4, concentration=0.7, seed=1).batch(0, 9)
    each = Piecewise("ptw", T=9, alphabet=4, concentration=[0.7] * 4, seed=1).batch(0, 9)
    assert (one.theta == each.theta).all()


@pytest.mark.parametrize("law, A", [("ptw", 2), ("static", 5), ("random", 3)])
def test_tokens_follow_theta(law, A):
    batch = Piecewise(law, T=64, alphabet=A, seed=9).batch(0, 4000)
    for a in range(A):
        p, seen = batch.theta[..., a], batch.tokens == a
        for low, high in itertools.pairwise([0, 0.01, 0.1, 0.3, 0.6, 0.9, 1.0001]):
            here = (p >= low) & (p < high)
            spread = math.sqrt((p * (1 - p))[here].sum())
            assert abs((seen - p)[here].sum()) < 4 * spread + 1e-9, (a, low)
        off = seen - p  # given theta, tokens are independent
        spread = np.sqrt(p * (1 - p))
        together = off[:, 1:] * off[:, :-1]
        assert abs(together.sum()) < 4 * math.sqrt(((spread[:, 1:] * spread[:, :-1]) ** 2).sum())


@pytest.mark.parametrize("concentration", [1e-2, 1e-3, 1e-12, 1e-280])
def test_tiny_concentration(concentration):
    batch = Piecewise("ptw", T=50, alphabet=3, concentration=concentration, seed=10).batch(0, 500)
    assert np.isfinite(batch.theta).all()
    assert (np.take_along_axis(batch.theta, batch.tokens[..., None], 2) > 0).all()
    if concentration < 1e-2:
        assert (batch.theta == 0).any()
        assert (batch.theta == 1).any()
    certain = (batch.theta == 1).any(2)
    assert (batch.tokens == batch.theta.argmax(2))[certain].all()
    assert stats.chisquare(np.bincount(batch.tokens[:, 0], minlength=3)).pvalue > 1e-3


@pytest.mark.parametrize("law", LAWS)
def test_samples_do_not_depend_on_the_batch(law):
    def source(seed: int = 11) -> Piecewise:
        return Piecewise(law, T=37, alphabet=3, seed=seed)

    whole = source().batch(0, 50)
    for first, count in [(0, 1), (49, 1), (7, 30)]:
        for a, b in zip(source().batch(first, count), whole):
            assert (a == b[first : first + count]).all()
    assert (source().tokens(3, 9) == whole.tokens[3:12]).all()
    assert (source().tokens(0, 50, "eval") != whole.tokens).any(1).mean() > 0.9
    assert (source(12).batch(0, 50).theta[:, 0] != whole.theta[:, 0]).any(1).all()


def test_defaults_are_the_published_ones():
    source = Piecewise()
    assert (source.law, source.T, source.alphabet, source.period, source.low, source.high) == ("ptw", 256, 2, 20, 1, 39)
    assert (source.concentration == 0.5).all()
    number = source.batch(0, 4000).switches.sum(1)
    assert abs(number.mean() - 4) < 4 * number.std() / math.sqrt(4000)


BAD = [
    ({"law": "poisson"}, "law='poisson'"),
    ({"law": None}, "law=None"),
    ({"T": 0}, "T=0"),
    ({"T": 2.5}, "T=2.5"),
    ({"T": True}, "T=True"),
    ({"T": 10**13}, "T=10000000000000"),
    ({"alphabet": 1}, "alphabet=1"),
    ({"alphabet": "2"}, "alphabet='2'"),
    ({"concentration": 0}, "concentration=0"),
    ({"concentration": -1}, "concentration=-1"),
    ({"concentration": math.nan}, "concentration=nan"),
    ({"concentration": math.inf}, "concentration=inf"),
    ({"concentration": [0.5, 0.0]}, "concentration.*0.0"),
    ({"concentration": [0.5, 0.5, 0.5]}, "concentration has 3"),
    ({"concentration": "a"}, "concentration='a'"),
    ({"period": 0}, "period=0"),
    ({"low": 0}, "low=0"),
    ({"low": 5, "high": 4}, "high=4"),
    ({"seed": 0.5}, "seed=0.5"),
]


@pytest.mark.parametrize("changes, message", BAD, ids=[str(b[0]) for b in BAD])
def test_bad_settings(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Piecewise(**changes)
    assert "\n" not in str(caught.value)


def test_bad_calls():
    source = Piecewise(T=8, seed=1)
    with pytest.raises(ConfigError, match="batch_size=1000000000000"):
        source.batch(0, 10**12)
    with pytest.raises(ConfigError, match="split='valid'"):
        source.batch(0, 1, "valid")
