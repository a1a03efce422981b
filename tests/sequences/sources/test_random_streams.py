"""The random streams and alias tables: each draw has its distribution, and streams know nothing of one another."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from metarlgym.sequences.sources.alias import alias_draw, alias_tables
from metarlgym.sequences.sources.compiled import compiled
from metarlgym.sequences.sources.random_streams import (
    below,
    dirichlet,
    log_gamma_variate,
    normal,
    open_stream,
    stream_key,
    uniform,
)

KEY = stream_key(2026, "test")


@compiled()
def _uniforms(key, first, out):
    state = np.empty(2, np.uint64)
    for b in range(out.shape[0]):
        open_stream(key, first + b, state)
        for t in range(out.shape[1]):
            out[b, t] = uniform(state)


@compiled()
def _draws(key, kind, parameter, out):
    """A stream for each 10 draws, so that what is tested is the draws of many streams."""
    state = np.empty(2, np.uint64)
    for t in range(out.size):
        if t % 10 == 0:
            open_stream(key, t, state)
        if kind == 0:
            out[t] = below(state, int(parameter))
        elif kind == 1:
            out[t] = normal(state)
        else:
            out[t] = log_gamma_variate(state, parameter)


@compiled()
def _alias_draws(key, table, out):
    state = np.empty(2, np.uint64)
    open_stream(key, 0, state)
    for t in range(out.size):
        out[t] = alias_draw(table, uniform(state))


@compiled()
def _dirichlets(key, concentration, out):
    state = np.empty(2, np.uint64)
    for b in range(out.shape[0]):
        open_stream(key, b, state)
        dirichlet(state, concentration, out[b])


def uniforms(streams_: int, draws: int, first: int = 0, key: np.uint64 = KEY) -> np.ndarray:
    out = np.empty((streams_, draws))
    _uniforms(key, first, out)
    return out


def draws(kind: int, parameter: float, count: int) -> np.ndarray:
    out = np.empty(count)
    _draws(KEY, kind, parameter, out)
    return out


def test_one_stream_is_uniform():
    u = uniforms(1, 200_000)[0]
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert ((u >= 0) & (u < 1)).all()
    assert len(np.unique(u)) == u.size


@pytest.mark.parametrize("place", [0, 1, 9])
def test_the_same_draw_of_neighboring_streams_is_uniform(place):
    u = uniforms(200_000, 10)[:, place]
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4 / math.sqrt(u.size)
    counts = np.histogram2d(u[:-1], u[1:], 20, [[0, 1]] * 2)[0]
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_low_bits_are_uniform_too():
    u = uniforms(50, 4000).ravel()
    low = (u * 2.0**53).astype(np.int64) % 64
    assert stats.chisquare(np.bincount(low, minlength=64)).pvalue > 1e-3


@pytest.mark.parametrize("distance", [1, 2, 7, 2**32])
def test_streams_do_not_go_together(distance):
    """Pairs of draws of two streams at the same place, and one place apart, fall evenly over the square."""
    one, other = uniforms(400, 500), uniforms(400, 500, distance)
    for a, b in [(one, other), (one[:, 1:], other[:, :-1]), (one[:, :-1], one[:, 1:])]:
        counts = np.histogram2d(a.ravel(), b.ravel(), 16, [[0, 1]] * 2)[0]
        assert stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_every_stream_is_uniform_and_without_memory():
    """p-values of many streams' own tests are uniform: a few weak increments would show."""
    u = uniforms(2000, 512)
    z = ((u[:, :-1] - 0.5) * (u[:, 1:] - 0.5)).sum(1) * 12 / math.sqrt(511)
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert np.abs(z).max() < 5
    z = (u.mean(1) - 0.5) * math.sqrt(12 * 512)
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert np.abs(z).max() < 5


def test_streams_share_no_numbers():
    u = uniforms(5000, 40)
    assert len(np.unique(u)) == u.size
    assert len(np.unique(uniforms(100_000, 1))) == 100_000


def test_keys_tell_purposes_and_seeds_apart():
    keys = {
        int(stream_key(seed, *parts))
        for seed in [*range(50), 2**64 - 1, 2**40]
        for parts in [("a",), ("b",), ("a", "b")]
    }
    assert len(keys) == 52 * 3
    assert stream_key(5, "a") == stream_key(5, "a")
    one, other = uniforms(2000, 20, key=stream_key(1, "a")), uniforms(2000, 20, key=stream_key(2, "a"))
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4 / 200


@pytest.mark.parametrize("n", [1, 2, 3, 7, 63, 1000])
def test_below(n):
    found = draws(0, n, 100_000)
    assert found.min() >= 0
    assert found.max() < n
    if n > 1:
        assert stats.chisquare(np.bincount(found.astype(int), minlength=n)).pvalue > 1e-3


ROWS = {
    "one": [1.0],
    "certain": [0, 0, 1.0, 0],
    "even": [0.125] * 8,
    "uneven": [0.5, 0.3, 0.15, 0.049, 0.001],
    "with zeros": [0.0, 0.7, 0.0, 0.2, 0.1, 0.0, 0.0],
    "geometric": [*(0.9 ** np.arange(63) * 0.1), 0.9**63],
    "many": (np.random.default_rng(1).dirichlet(np.full(900, 0.1))).tolist(),
}


@pytest.mark.parametrize("name", ROWS)
def test_alias_draws(name):
    row = np.array(ROWS[name])
    n = row.size
    tables = alias_tables(np.stack([np.full(n, 1 / n), row]))
    assert tables.shape == (2, n)
    found = np.empty(200_000, np.int64)
    _alias_draws(KEY, tables[1], found)
    counts = np.bincount(found, minlength=n)
    assert counts.size == n
    assert (counts[row == 0] == 0).all()
    expected = row * found.size
    rare = expected < 8
    expected, counts = (np.append(a[~rare], a[rare].sum()) for a in (expected, counts.astype(float)))
    if expected[-1] < 5:
        expected, counts = (np.append(a[:-2], a[-2:].sum()) for a in (expected, counts))
    if counts.size > 1:
        assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-3


def test_alias_at_the_ends_of_the_unit_interval():
    for row in ROWS.values():
        table = alias_tables(np.array([row], dtype=float))[0]
        for u in (0.0, 2.0**-53, 1 - 2.0**-53):
            assert row[alias_draw(table, u)] > 0


def test_normal():
    found = draws(1, 0.0, 200_000)
    assert stats.kstest(found, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 4 / math.sqrt(found.size)
    assert abs((found**4).mean() - 3) < 4 * math.sqrt(96 / found.size)


@pytest.mark.parametrize("shape", [0.01, 0.3, 0.5, 1.0, 1.7, 30.0, 1e4])
def test_gamma(shape):
    found = draws(2, shape, 40_000)
    assert np.isfinite(found).all()
    assert stats.kstest(found, stats.loggamma(shape).cdf).pvalue > 1e-3


def test_gamma_of_tiny_shape():
    """For small shapes, -shape log(G) is an exponential number."""
    assert stats.kstest(-1e-6 * draws(2, 1e-6, 40_000), "expon").pvalue > 1e-3


@pytest.mark.parametrize("concentration", [(0.5, 0.5), (1.0, 1.0, 1.0), (0.1, 0.5, 1.0, 2.0, 8.0), (0.05, 3.0)])
def test_dirichlet(concentration):
    alpha = np.array(concentration)
    out = np.empty((20_000, alpha.size))
    _dirichlets(KEY, alpha, out)
    assert np.abs(out.sum(1) - 1).max() < 1e-12
    for a in range(alpha.size):  # exact: each entry is a Beta number, and so is each sum of entries
        if alpha.sum() - alpha[a] > 0.1:  # else most numbers are so close to 1 that floats tie there
            assert stats.kstest(out[:, a], stats.beta(alpha[a], alpha.sum() - alpha[a]).cdf).pvalue > 1e-3
    if alpha.size > 2:
        cut = stats.beta(alpha[:2].sum(), alpha[2:].sum()).cdf
        assert stats.kstest(out[:, :2].sum(1), cut).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [1e-3, 1e-8, 1e-300])
def test_dirichlet_of_tiny_concentration(alpha):
    """Nearly all mass on one symbol; which one is uniform."""
    out = np.empty((9_000, 3))
    _dirichlets(KEY, np.full(3, alpha), out)
    assert np.isfinite(out).all()
    assert np.abs(out.sum(1) - 1).max() < 1e-12
    assert (out.max(1) > 0.5).mean() > 0.99
    assert (out == 0).any()
    assert (out == 1).any()
    assert stats.chisquare(np.bincount(out.argmax(1), minlength=3)).pvalue > 1e-3


def test_dirichlet_of_tiny_concentration_keeps_its_proportions():
    out = np.empty((20_000, 2))
    _dirichlets(KEY, np.array([1e-3, 3e-3]), out)
    assert abs(out[:, 0].mean() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 20_000)
