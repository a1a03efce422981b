"""KT, PTW, LIN and its kin against their definitions, by recursion and by enumeration of all partitions."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from scipy.special import betaln, logsumexp

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.predictors import KT, LIN, PTW, Predictor, Renewal, regret
from metarlgym.sequences.sources import Piecewise

Word = tuple[int, ...]


@cache
def log_kt(word: Word, A: int, alpha: float = 0.5) -> float:
    """Log of the integral of theta^counts over Dirichlet(alpha)."""
    counts = [word.count(a) for a in range(A)]
    logs = sum(math.lgamma(c + alpha) - math.lgamma(alpha) for c in counts)
    return logs + math.lgamma(A * alpha) - math.lgamma(len(word) + A * alpha)


def log_ptw(word: Word, depth: int, A: int, alpha: float = 0.5) -> float:
    if not word or depth == 0:
        return log_kt(word, A, alpha)
    half = 2 ** (depth - 1)
    cut = log_ptw(word[:half], depth - 1, A, alpha) + log_ptw(word[half:], depth - 1, A, alpha)
    return math.log(0.5) + float(np.logaddexp(log_kt(word, A, alpha), cut))


def log_partitions(word: Word, hazard: Callable[[int], float], A: int, alpha: float = 0.5) -> float:
    """Sum over all ways to cut `word`; the last segment has not ended."""
    total = 0.0
    for cuts in itertools.product((False, True), repeat=max(0, len(word) - 1)):
        ends = [i + 1 for i, cut in enumerate(cuts) if cut]
        p = 1.0
        for first, last in itertools.pairwise([0, *ends, len(word)]):
            p *= math.prod(1 - hazard(m) for m in range(1, last - first))
            p *= hazard(last - first) if last < len(word) else 1.0
            if p == 0:
                break
            p *= math.exp(log_kt(word[first:last], A, alpha))
        total += p
    return math.log(total)


def conditionals(log_p: Callable[[Word], float], word: Word, A: int) -> np.ndarray:
    """Next-symbol distributions along `word`, from the probabilities of its beginnings."""
    rows = [[log_p((*word[:t], a)) - log_p(word[:t]) for a in range(A)] for t in range(len(word))]
    return np.exp(rows)


def words(A: int, T: int, count: int, seed: int = 0) -> list[Word]:
    """Random ones, with runs."""
    rng = np.random.default_rng(seed)
    return [tuple(rng.choice(A, T, p=rng.dirichlet(np.full(A, 0.4))).tolist()) for _ in range(count)]


@pytest.mark.parametrize("A, alpha", [(2, 0.5), (3, 0.5), (5, 1.0), (2, 0.01)])
def test_kt_is_the_beta_mixture(A, alpha):
    for word in words(A, 30, 5):
        found = KT(A, alpha).predictions(word)[0]
        assert np.abs(found - conditionals(lambda w: log_kt(w, A, alpha), word, A)).max() < 1e-12
        assert abs(KT(A, alpha).log_loss(word).sum() + log_kt(word, A, alpha)) < 1e-10
    assert KT().predictions([0, 0, 1])[0, :, 0].tolist() == [0.5, 0.75, 2.5 / 3]


def test_kt_window_and_known_switches():
    rng = np.random.default_rng(1)
    x, marks = rng.integers(3, size=(4, 50)), rng.random((4, 50)) < 0.1
    windowed, told = KT(3, window=7).predictions(x), KT(3).predictions(x, switches=marks)
    both = KT(3, window=7).predictions(x, switches=marks)
    for b, t in itertools.product(range(4), range(50)):
        start = max([s for s in range(t + 1) if marks[b, s]], default=0)
        for found, first in [(windowed, max(0, t - 7)), (told, start), (both, max(start, t - 7))]:
            counts = np.bincount(x[b, first:t], minlength=3)
            assert np.abs(found[b, t] - (counts + 0.5) / (t - first + 1.5)).max() < 1e-14


@pytest.mark.parametrize("A", [2, 3])
@pytest.mark.parametrize("depth", range(6))
def test_ptw_is_its_recursive_definition(depth, A):
    for T in {2**depth, max(1, 2**depth - 3), 2**depth * 3 // 5 + 1}:
        for word in words(A, T, 4, seed=T):
            found = PTW(depth, A).predictions(word)[0]
            assert np.abs(found - conditionals(lambda w: log_ptw(w, depth, A), word, A)).max() < 1e-12


def test_ptw_with_another_alpha():
    for word in words(3, 13, 3):
        found = PTW(4, 3, alpha=1.3).predictions(word)[0]
        assert np.abs(found - conditionals(lambda w: log_ptw(w, 4, 3, 1.3), word, 3)).max() < 1e-12


@pytest.mark.parametrize("predictor", [KT(), PTW(3), LIN(), Renewal([0, 0.3, 0.2, 0.9, 1, 1, 1, 1, 1])])
def test_sums_to_1_over_all_strings(predictor):
    strings = np.array(list(itertools.product((0, 1), repeat=8)))
    assert abs(np.exp(-predictor.log_loss(strings).sum(1)).sum() - 1) < 1e-12


@pytest.mark.parametrize("A, T", [(2, 9), (3, 8)])
def test_lin_is_the_mixture_over_all_partitions(A, T):
    for word in words(A, T, 6, seed=T):
        wanted = conditionals(lambda w: log_partitions(w, lambda m: 1 / (2 * m), A), word, A)
        assert np.abs(LIN(A).predictions(word)[0] - wanted).max() < 1e-12


HAZARDS = {
    "static": np.zeros(9),
    "regular": np.array([0, 0, 0, 1, 0, 0, 1, 0, 0.0]),
    "always": np.array([0, 1, 1, 1, 1, 1, 1, 1, 1.0]),
    "gap 2..4": np.array([0, 0, 1 / 3, 1 / 2, 1, 0, 0, 0, 0]),
    "constant": np.full(9, 0.1),
    "uneven": np.array([0.7, 0.9, 0.01, 0.5, 0, 1, 0.3, 0.2, 0.1]),
}


@pytest.mark.parametrize("name", HAZARDS)
@pytest.mark.parametrize("A, alpha", [(2, 0.5), (3, 0.8)])
def test_renewal_is_the_mixture_over_all_partitions(name, A, alpha):
    hazard = HAZARDS[name]
    for word in words(A, 8, 4, seed=3):
        wanted = conditionals(lambda w: log_partitions(w, lambda m: hazard[m], A, alpha), word, A)
        assert np.abs(Renewal(hazard, A, alpha).predictions(word)[0] - wanted).max() < 1e-12


def test_renewals_that_are_something_else():
    x = np.random.default_rng(2).integers(3, size=(3, 200))
    assert np.abs(Renewal(np.zeros(201), 3).predictions(x) - KT(3).predictions(x)).max() < 1e-12
    assert np.abs(Renewal(0.5 / np.maximum(1, np.arange(201)), 3).predictions(x) - LIN(3).predictions(x)).max() < 1e-12
    told = KT(3).predictions(x, switches=np.tile((np.arange(200) % 7 == 0) & (np.arange(200) > 0), (3, 1)))
    assert np.abs(Renewal(np.where(np.arange(201) % 7, 0.0, 1.0), 3).predictions(x) - told).max() < 1e-12


ONLINE = {
    "kt": (KT(3), 300),
    "kt window": (KT(3, window=64), 300),
    "ptw": (PTW(9, 3), 512),
    "ptw short": (PTW(12, 3), 300),
    "lin": (LIN(3), 1100),
    "gap": (Renewal(Piecewise("random", T=1100, low=5, high=30).hazard(), 3), 1100),
    "regular": (Renewal(Piecewise("regular", T=1100, period=64).hazard(), 3), 1100),
}


def symbols(T: int, A: int = 3) -> np.ndarray:
    return Piecewise("ptw", T=T, alphabet=A, seed=3).tokens(0, 1)[0]


@pytest.mark.parametrize("name", ONLINE)
def test_online_is_batched_and_predict_changes_nothing(name):
    predictor, T = ONLINE[name]
    x = symbols(T)
    wanted = predictor.predictions(np.stack([x[::-1], x]))[1]
    for turn in range(2):  # the second time after reset
        predictor.reset()
        twin = None
        for t in range(T):
            for _ in range(1 + (t % 5 == 0)):
                found = predictor.predict()
                assert np.abs(found - wanted[t]).max() < 1e-12, t
            found[:] = 7  # the caller's own
            predictor.update(int(x[t]) if turn else x[t])
            if t == T // 2:
                twin = copy.deepcopy(predictor)
                twin.predict()
                twin.update(0)
        assert twin is not None
        again = predictor.predictions(x)[0]  # whatever the state
        assert np.abs(again - wanted).max() < 1e-12


@pytest.mark.parametrize("name", ONLINE)
def test_deepcopy_goes_its_own_way(name):
    predictor, _ = ONLINE[name]
    x = symbols(200)
    wanted = predictor.predictions(x)[0]
    predictor.reset()
    for t in range(100):
        predictor.update(int(x[t]))
    twin = copy.deepcopy(predictor)
    for _ in range(50):
        predictor.update(2)
    for t in range(100, 200):
        assert np.abs(twin.predict() - wanted[t]).max() < 1e-12
        twin.update(int(x[t]))


@pytest.mark.parametrize("make, T", [(KT, 65_536), (lambda: PTW(16), 65_536), (LIN, 8192)])
def test_long_sequences(make, T):
    """Constant, random and alternating: finite, normalized, and sure of itself where it should be."""
    rng = np.random.default_rng(5)
    x = np.stack([np.zeros(T, int), rng.integers(2, size=T), np.arange(T) % 2, np.arange(T) >= T // 2]).astype(int)
    found = make().predictions(x)
    assert np.isfinite(found).all()
    assert (found > 0).all()
    assert np.abs(found.sum(2) - 1).max() < 1e-9
    assert found[0, -1, 0] > 1 - 2 / T**0.5  # the 255 repeats after which 8-bit counts begin anew are long over
    assert (np.diff(found[0, :, 0])[T // 2 :] > -1e-3).all()
    assert abs(-np.log(np.take_along_axis(found[1], x[1, :, None], 1)).mean() - math.log(2)) < 0.005
    if make is KT:
        assert abs(found[0, -1, 0] - (T - 0.5) / T) < 1e-12
    else:  # a switch in the middle is found at once
        assert found[3, T // 2 + 20, 1] > 0.9


def test_ptw_of_65536_symbols_is_its_recursive_definition():
    """From the smallest blocks up, all blocks of a size at once."""
    x = Piecewise("ptw", T=65_536, seed=4).tokens(0, 1)
    cut = np.full(65_536, math.log(0.5))
    for depth in range(1, 17):
        ones = x.reshape(-1, 2**depth).sum(1)
        kt = betaln(ones + 0.5, 2**depth - ones + 0.5) - betaln(0.5, 0.5)
        cut = math.log(0.5) + np.logaddexp(kt, cut.reshape(-1, 2).sum(1))
    assert abs(PTW(16).log_loss(x).sum() + cut[0]) < 1e-7 * abs(cut[0])


def test_lin_of_2000_symbols_is_its_recursion_over_segment_starts():
    """State: when the segment began. It goes on after its m-th symbol with 1 - 1/(2m); in logarithms, never scaled."""
    x = Piecewise("lin", T=2000, seed=4).tokens(0, 1)
    ones = np.concatenate([[0], np.cumsum(x[0])])
    start, total, logs = np.arange(2000), 0.0, np.array([0.0])
    for t, symbol in enumerate(x[0]):
        m = t - start[: t + 1]  # symbols of the segment so far
        count = ones[t] - ones[: t + 1]
        logs = logs + np.log(((count if symbol else m - count) + 0.5) / (m + 1))
        ended = logsumexp(logs - np.log(2 * (m + 1)))
        total = logsumexp(logs)
        logs = np.append(logs + np.log1p(-1 / (2 * (m + 1))), ended)
    assert abs(LIN().log_loss(x).sum() + total) < 1e-9 * abs(total)


def test_counts_beyond_255():
    x = np.zeros((1, 600), int)
    assert np.abs(KT().predictions(x)[0, :, 0] - (np.arange(600) + 0.5) / (np.arange(600) + 1)).max() < 1e-12
    static = Renewal(np.zeros(601)).predictions(x)[0, :, 0]
    assert np.abs(static - (np.arange(600) + 0.5) / (np.arange(600) + 1)).max() < 1e-12
    wanted = conditionals(lambda w: log_ptw(w, 10, 2), (0,) * 400, 2)
    assert np.abs(PTW(10).predictions(x[:, :400])[0] - wanted).max() < 1e-10


def test_regret_where_theta_is_certain():
    theta = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [1.0, 0.0], [1.0, 0.0]])
    q = np.array([[0.25, 0.75], [0.5, 0.5], [0.5, 0.5], [1.0, 0.0], [0.0, 1.0]])
    assert np.abs(regret(theta, q)[:4] - [math.log(4), math.log(2), 0, 0]).max() < 1e-15
    assert regret(theta, q)[4] == math.inf
    batch = Piecewise("ptw", T=64, concentration=1e-3, seed=1).batch(0, 100)
    for predictor in (KT(), PTW(6), LIN()):
        found = regret(batch.theta, predictor.predictions(batch.tokens))
        assert found.shape == (100, 64)
        assert np.isfinite(found).all()
        assert found.min() > -1e-12


def test_each_source_is_predicted_best_by_its_own_law():
    predictors = {
        "ptw": PTW(6),
        "lin": LIN(),
        "regular": Renewal(Piecewise("regular", T=64, period=16).hazard()),
        "random": Renewal(Piecewise("random", T=64, low=4, high=20).hazard()),
        "static": KT(),
    }
    for law, own in predictors.items():
        batch = Piecewise(law, T=64, period=16, low=4, high=20, seed=9).batch(0, 3000)
        mine = regret(batch.theta, own.predictions(batch.tokens)).sum(1)
        for name, other in predictors.items():
            if name != law:
                gap = regret(batch.theta, other.predictions(batch.tokens)).sum(1) - mine
                assert gap.mean() > 3 * gap.std() / math.sqrt(3000), (law, name)


@pytest.mark.parametrize("T, fix", [(9, 4), (16, 4), (17, 5), (300, 9)])
def test_beyond_the_depth_of_ptw(T, fix):
    with pytest.raises(ConfigError, match=f"T={T} .*depth=3.*depth={fix}") as caught:
        PTW(3).predictions(np.zeros((2, T), int))
    assert "\n" not in str(caught.value)
    predictor = PTW(3)
    for _ in range(8):
        predictor.update(1)
    for call in (predictor.predict, lambda: predictor.update(0)):
        with pytest.raises(ConfigError, match=r"T=9 .*depth=3.*depth=4"):
            call()


def test_beyond_the_hazard():
    predictor = Renewal(np.full(6, 0.1))
    for _ in range(5):
        predictor.predict()
        predictor.update(0)
    for call in (predictor.predict, lambda: predictor.update(0), lambda: predictor.predictions([0] * 6)):
        with pytest.raises(ConfigError, match=r"T=6 .*hazard.*5"):
            call()


@pytest.mark.parametrize("predictor", [KT(3), PTW(4, 3), LIN(3), Renewal(np.zeros(9), 3)])
def test_symbols_out_of_range(predictor: Predictor):
    for symbol in (3, -1, 1.5, True):
        predictor.reset()
        before = predictor.predict()
        with pytest.raises(ConfigError, match=f"symbol={symbol}"):
            predictor.update(symbol)
        assert (predictor.predict() == before).all()
    for bad, message in [([[0, 3]], "holds 3.*0..2"), ([0, -1], "holds -1"), ([[0.5]], "float64"), ([[]], "shape")]:
        with pytest.raises(ConfigError, match=message) as caught:
            predictor.predictions(bad)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: KT(1), "alphabet=1"),
        (lambda: KT(2, 0), "alpha=0"),
        (lambda: KT(2, window=0), "window=0"),
        (lambda: PTW(-1), "depth=-1"),
        (lambda: PTW(2.0), "depth=2.0"),
        (lambda: LIN(2, -1), "alpha=-1"),
        (lambda: Renewal([0.5]), "hazard has shape"),
        (lambda: Renewal([0, 1.5]), "hazard.*1.5"),
        (lambda: Renewal([0, math.nan]), "hazard.*nan"),
        (lambda: Renewal(np.full(40, 2.0)), "hazard.*2.0"),
        (lambda: Renewal(np.zeros((3, 3))), "hazard has shape"),
        (lambda: Renewal(None), "hazard"),
        (lambda: KT().predictions([[0, 1]], switches=[[False]]), r"switches has shape \(1, 1\)"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
