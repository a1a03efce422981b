"""Values that predictors cannot be exact for are refused; at the bounds they still are."""

import math
from fractions import Fraction

import numpy as np
import pytest

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.predictors import KT, LIN, PTW, LempelZiv, MetaLMFilter, NGram, Renewal, exact_predictor
from metarlgym.sequences.sources import MetaLM, Piecewise
from metarlgym.sequences.sources.base import CONCENTRATIONS

MAKERS = {
    "KT": lambda alpha: KT(2, alpha),
    "PTW": lambda alpha: PTW(4, 2, alpha),
    "LIN": lambda alpha: LIN(2, alpha),
    "Renewal": lambda alpha: Renewal([0, 0.5, 0.5], 2, alpha),
}
WORDS = [(0,) * 15 + (1,), (0, 0, 0, 1) * 4, (0,) * 6 + (1,) + (0,) * 9, (0, 1) * 8, (0,) * 7 + (1, 1) + (0,) * 7]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("alpha", [5e-324, 1e-281, 0, -1, 1e101, math.inf, math.nan, "a"])
def test_useless_pseudo_counts(name, alpha):
    with pytest.raises(ConfigError, match=r"^alpha=") as caught:
        MAKERS[name](alpha)
    assert "at least 1e-280 and at most 1e+100" in str(caught.value) and "\n" not in str(caught.value)


def kt(word, alpha):
    counts, p = [0, 0], Fraction(1)
    for symbol in word:
        p *= (counts[symbol] + alpha) / (sum(counts) + 2 * alpha)
        counts[symbol] += 1
    return p


def ptw(word, depth, alpha):
    half = 2 ** (depth - 1) if depth else 0
    if not word or not depth:
        return kt(word, alpha)
    return (kt(word, alpha) + ptw(word[:half], depth - 1, alpha) * ptw(word[half:], depth - 1, alpha)) / 2


def lin(word, alpha):
    hypotheses = {0: Fraction(1)}
    for t, symbol in enumerate(word):
        born, kept = Fraction(0), {}
        for start, weight in hypotheses.items():
            segment = word[start:t]
            weight *= (segment.count(symbol) + alpha) / (len(segment) + 2 * alpha)
            hazard = Fraction(1, 2 * (len(segment) + 1))
            born += weight * hazard
            kept[start] = weight * (1 - hazard)
        hypotheses = {**kept, t + 1: born}
    return sum(hypotheses.values())


@pytest.mark.parametrize("alpha", [*CONCENTRATIONS, 1e-20])
def test_exact_at_the_bounds(alpha):
    exact = {"KT": lambda w: kt(w, Fraction(alpha)), "PTW": lambda w: ptw(w, 4, Fraction(alpha))}
    exact["LIN"] = lambda w: lin(w, Fraction(alpha))
    for word in WORDS:
        for name, probability in exact.items():
            wanted = probability(word)
            nats = math.log(wanted.denominator) - math.log(wanted.numerator)
            assert MAKERS[name](alpha).log_loss(word).sum() == pytest.approx(nats, rel=1e-12), name


def test_predictors_go_with_every_source():
    for concentration in CONCENTRATIONS:
        source = Piecewise("lin", T=40, concentration=concentration, seed=0)
        assert np.isfinite(exact_predictor(source).log_loss(source.tokens(0, 20))).all()


RAGGED = [[0, 1], [0]]


def test_ragged_lists():
    source = MetaLM(V=6, n=2, l=3, L=6, elements=[[1, 2, 3]], seed=0)
    known = MetaLMFilter(source)
    calls = {
        "sequences": [p.log_loss for p in (KT(), PTW(4), LIN(), NGram(), LempelZiv())] + [known.predictions],
        "labels": [lambda rows: known.log_loss([[1, 2], [1, 2]], rows)],
        "switches": [lambda rows: KT().predictions([[0, 1], [0, 1]], rows)],
        "places": [lambda rows: known.fill([[1, 2], [1, 2]], rows)],
        "hazard": [Renewal],
    }
    for name, those in calls.items():
        for call in those:
            with pytest.raises(ConfigError, match=f"^{name} has rows of different lengths") as caught:
                call(RAGGED)
            assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="hazard='often' is not a list of numbers"):
        Renewal("often")
