"""n-grams and Lempel-Ziv on examples worked by hand; `fill` and `log_loss` of the interface."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.predictors import KT, LIN, PTW, LempelZiv, NGram, Predictor, RLMPredictor, fill
from metarlgym.sequences.sources import RLM


def p_ngram(context: tuple[int, ...], seen: list[int], A: int, a: int) -> float:
    """Witten and Bell's rule, read off its definition: counts over all earlier places with this context."""
    if context:
        lower = p_ngram(context[1:], seen, A, a)
    else:
        lower = 1 / A
    n = len(context)
    after = [seen[i] for i in range(n, len(seen)) if tuple(seen[i - n : i]) == context]
    d = len(set(after))
    return (after.count(a) + d * lower) / (len(after) + d) if after else lower


@pytest.mark.parametrize("order", [0, 1, 3, 6])
def test_ngram_is_its_definition(order):
    rng = np.random.default_rng(order)
    x = rng.choice(3, 60, p=[0.6, 0.3, 0.1])
    found = NGram(3, order).predictions(x)[0]
    for t in range(60):
        seen = x[:t].tolist()
        context = tuple(seen[t - order :]) if 0 < order <= t else tuple(seen) if order else ()
        assert np.abs(found[t] - [p_ngram(context, seen, 3, a) for a in range(3)]).max() < 1e-12


def test_ngram_by_hand():
    """Order 1 along 0, 0, 1: none seen; {0} once; after a 0 came a 0; a 1 was seen and nothing after it."""
    found = NGram(2, 1).predictions([0, 0, 1, 0])[0, :, 1]
    assert np.abs(found - [1 / 2, 1 / 4, (1 / 6) / 2, 2 / 5]).max() < 1e-14


def test_lempel_ziv_by_hand():
    """0, 1, 0, 0, 0, 1 is cut into 0 | 1 | 00 | 01: what is predicted comes from the root, or from node "0"."""
    found = LempelZiv(2).predictions([0, 1, 0, 0, 0, 1, 0])[0, :, 0]
    by_hand = [
        0.5 / 1,  # root, nothing seen
        1.5 / 2,  # root: 0
        1.5 / 3,  # root: 0 1
        0.5 / 1,  # node 0: nothing
        2.5 / 4,  # root: 0 1 0
        1.5 / 2,  # node 0: 0
        3.5 / 5,  # root: 0 1 0 0
    ]
    assert np.abs(found - by_hand).max() < 1e-14
    assert np.abs(LempelZiv(5).predictions([3, 3])[0, 1] - [0.1, 0.1, 0.1, 0.6, 0.1]).max() < 1e-14


@pytest.mark.parametrize("predictor", [NGram(3, 2), LempelZiv(3), NGram(3, 0)])
def test_normalized(predictor):
    strings = np.array(list(itertools.product(range(3), repeat=6)))
    found = predictor.predictions(strings)
    assert (found > 0).all()
    assert np.abs(found.sum(2) - 1).max() < 1e-12
    assert abs(np.exp(-predictor.log_loss(strings).sum(1)).sum() - 1) < 1e-12


@pytest.mark.parametrize("predictor", [NGram(8, 4), LempelZiv(8)])
def test_adapt_on_repeated_text(predictor):
    x = np.tile(np.random.default_rng(1).integers(8, size=16), 60)
    losses = predictor.log_loss(x)[0]
    late = losses[-96:].mean()
    assert losses[:16].mean() > 0.9 * math.log(8)
    assert late < (0.1 if isinstance(predictor, NGram) else 0.5 * losses[:96].mean())
    noise = predictor.log_loss(np.random.default_rng(2).integers(8, size=960))[0]
    assert noise.mean() > 0.97 * math.log(8)  # nothing to find, nothing gained


@pytest.mark.parametrize("predictor", [NGram(3, 2), LempelZiv(3), NGram(3, 0), NGram(3, 5)])
def test_online_predict_changes_nothing_and_deepcopy_goes_its_own_way(predictor):
    x = np.random.default_rng(3).integers(3, size=80)
    wanted = predictor.predictions(x)[0]
    predictor.reset()
    twin: Predictor = predictor
    for t in range(80):
        if t == 40:
            twin = copy.deepcopy(predictor)
        predictor.predict()[:] = 7
        assert (predictor.predict() == wanted[t]).all()
        predictor.update(x[t] if t % 2 else int(x[t]))
    for t in range(40, 80):
        assert (twin.predict() == wanted[t]).all()
        twin.update(int(x[t]))


def test_symbols_out_of_range():
    for predictor in (NGram(3, 2), LempelZiv(3)):
        for symbol in (3, -1):
            with pytest.raises(ConfigError, match=f"symbol={symbol}"):
                predictor.update(symbol)
        with pytest.raises(ConfigError, match="holds 3"):
            predictor.predictions([0, 3])
    for order in (-1, 1.5):
        with pytest.raises(ConfigError, match=f"order={order}"):
            NGram(2, order)


RLM3 = RLM(v=3, L=2, beta=1.5, seed_rules=4)


@pytest.mark.parametrize("predictor", [KT(3), PTW(3, 3), LIN(3), NGram(3, 2), LempelZiv(3), RLMPredictor(RLM3)])
def test_fill_is_bayes_over_whole_sequences(predictor):
    x = [0, 2, 2, 1]
    total = {}
    for word in itertools.product(range(3), repeat=4):
        predictor.reset()
        p = 1.0
        for symbol in word:
            p *= predictor.predict()[symbol]
            predictor.update(symbol)
        total[word] = p
    for place in range(4):
        wanted = np.array([total[(*x[:place], a, *x[place + 1 :])] for a in range(3)])
        assert np.abs(fill(predictor, x, place) - wanted / wanted.sum()).max() < 1e-12
    assert x == [0, 2, 2, 1]
    for place in (4, -1):
        with pytest.raises(ConfigError, match=f"place={place}"):
            fill(predictor, x, place)


def test_fill_of_the_last_place_is_the_prediction():
    x = np.random.default_rng(4).integers(3, size=30)
    for predictor in (KT(3), PTW(5, 3), NGram(3, 2)):
        assert np.abs(fill(predictor, x, 29) - predictor.predictions(x)[0, -1]).max() < 1e-12


def test_fill_of_kt_in_a_long_sequence():
    """Exchangeable: the place does not matter, only the other counts."""
    x = np.random.default_rng(5).integers(2, size=3000)
    others = np.delete(x, 1234)
    wanted = (np.bincount(others, minlength=2) + 0.5) / 3000
    assert np.abs(fill(KT(), x, 1234) - wanted).max() < 1e-9


@pytest.mark.parametrize("predictor", [KT(3), PTW(5, 3), LIN(3), NGram(3, 2), LempelZiv(3)])
def test_log_loss(predictor, monkeypatch):
    rng = np.random.default_rng(6)
    x, y = rng.integers(3, size=(2, 7, 20))
    plain, labelled = predictor.log_loss(x), predictor.log_loss(x, y)
    assert plain.shape == labelled.shape == (7, 20)
    for b in range(7):
        predictor.reset()
        for t in range(20):
            assert abs(plain[b, t] + math.log(predictor.predict()[x[b, t]])) < 1e-12
            predictor.update(int(x[b, t]))
            assert abs(labelled[b, t] + math.log(predictor.predict()[y[b, t]])) < 1e-12
    shifted = predictor.log_loss(x[:, :-1], x[:, 1:])
    assert np.abs(shifted - plain[:, 1:]).max() < 1e-12
    monkeypatch.setattr("metarlgym.sequences.predictors.base.CHUNK_BYTES", 1)
    assert np.abs(predictor.log_loss(x) - plain).max() < 1e-12
    assert np.abs(predictor.log_loss(x, y) - labelled).max() < 1e-12
    with pytest.raises(ConfigError, match=r"labels has shape \(7, 19\)"):
        predictor.log_loss(x, y[:, 1:])
    with pytest.raises(ConfigError, match="labels holds 3"):
        predictor.log_loss(x, y + 1)


def test_log_loss_with_labels_at_full_length():
    """A predictor of 2^d symbols has nothing to say of the symbol after them."""
    x = np.zeros((1, 8), int)
    with pytest.raises(ConfigError, match=r"depth=3.*depth=4"):
        PTW(3).log_loss(x, x)
    assert PTW(4).log_loss(x, x).shape == (1, 8)
