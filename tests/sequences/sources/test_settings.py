"""Sources from the settings of a run: the seed is given apart, and every setting has an effect."""

import math

import numpy as np
import pytest

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.sources import RLM, MetaLM, Piecewise, PseudoLanguage
from metarlgym.sequences.sources.settings import make_source

MAKE = {
    "metalm": lambda seed: MetaLM(V=8, n=2, l=4, L=20, seed=seed),
    "rlm": lambda seed: RLM(4, 3, seed_samples=seed),
    "piecewise": lambda seed: Piecewise(T=20, seed=seed),
    "pseudo": lambda seed: PseudoLanguage(V=8, n_hidden=4, L=20, seed=seed),
}


@pytest.mark.parametrize("name", MAKE)
def test_seeds_have_64_bits(name):
    field = "seed_samples" if name == "rlm" else "seed"
    last = MAKE[name](2**64 - 1).tokens(0, 20)
    assert (last != MAKE[name](0).tokens(0, 20)).any() and (last != MAKE[name](2**63 - 1).tokens(0, 20)).any()
    for seed, bound in ((2**64, "at most 18446744073709551615"), (-1, "at least 0"), (2**200, "at most")):
        with pytest.raises(ConfigError, match=f"^{field}={seed} must be {bound}"):
            MAKE[name](seed)


def test_what_is_made():
    made = make_source(Piecewise, {"law": "regular", "T": 16, "period": 4}, 7, "source_args", "source_seed")
    assert np.array_equal(made.tokens(0, 5), Piecewise("regular", 16, period=4, seed=7).tokens(0, 5))
    made = make_source(RLM, {"v": 4, "L": 2}, 7, "source_args", "source_seed")
    assert np.array_equal(made.tokens(0, 5), RLM(4, 2, seed_samples=7).tokens(0, 5))


@pytest.mark.parametrize(
    ("kind", "settings", "seed", "told"),
    [
        (Piecewise, {"T": 16, "seed": 7}, 1, "source_args: seed=7 would draw other sequences than source_seed=1 says"),
        (RLM, {"seed_samples": 7}, 1, "source_args: seed_samples=7 would draw"),
        (RLM, {"seed": 7}, 1, "source_args: seed=7 would draw"),
        (Piecewise, {}, 2**64, "source_seed=18446744073709551616 must be at most"),
        (Piecewise, {}, -1, "source_seed=-1 must be at least 0"),
        (Piecewise, {"speed": 1}, 0, "source_args: 'speed' is not a setting of Piecewise: it has law, T, alphabet"),
        (RLM, {"transform": 1}, 0, "'transform' is not a setting of RLM"),
        (Piecewise, {"period": 3}, 0, "source_args: period=3 has no effect, as it is for law 'regular': leave it out"),
        (Piecewise, {"law": "regular", "low": 3}, 0, "low=3 has no effect, as it is for law 'random'"),
        (MetaLM, {"elements": [[1]], "l": 3}, 0, "l=3 has no effect, as elements are given"),
        (RLM, {"v": 2, "rules": [[[0.25] * 2] * 2] * 2, "beta": 1}, 0, "beta=1 has no effect, as rules are given"),
        (Piecewise, {"T": 0}, 0, "T=0 must be at least 1"),
    ],
)
def test_what_is_refused(kind, settings, seed, told):
    with pytest.raises(ConfigError) as caught:
        make_source(kind, settings, seed, "source_args", "source_seed")
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [5e-324, 1e-281, 1e101, math.inf])
def test_concentrations_that_would_overflow(value):
    with pytest.raises(ConfigError, match=r"concentration=.* must be a number at least 1e-280 and at most 1e"):
        Piecewise(concentration=value)
