"""The MetaLM filter against Bayes' rule over every sequence of elements."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.predictors import MetaLMFilter
from metarlgym.sequences.sources import MetaLM

V = 5
LANGUAGES = {
    "distinct": [[1, 2], [3, 4, 1]],
    "shared prefix": [[1, 2, 3], [1, 2, 4], [2, 2, 4, 4]],
    "one is the beginning of another": [[1, 2], [1, 2, 3], [1, 2, 3, 3, 4]],
    "single symbols": [[1], [2], [1, 1]],
    "two alike": [[3, 1], [3, 1], [3, 2]],
    "only one": [[4, 4, 1]],
}


def clean_sequences(elements: list[list[int]], length: int) -> dict[tuple[int, ...], float]:
    """Probability of every clean sequence of that length."""
    total: dict[tuple[int, ...], float] = {}

    def grow(sequence: tuple[int, ...], p: float) -> None:
        if len(sequence) >= length:
            total[sequence[:length]] = total.get(sequence[:length], 0.0) + p
            return
        for element in elements:
            grow((*sequence, *element, V + 1), p / len(elements))

    grow((), 1.0)
    return total


def likelihood(seen: int, clean: int, e: float) -> float:
    if V + 1 in (seen, clean):
        return float(seen == clean)
    if seen == 0:
        return 0.3 * e
    return (1 - e) * (seen == clean) + (0.7 * e / (V - 1) if 1 <= seen < V else 0.0)


def bayes(elements: list[list[int]], e: float, x: list[int], noisy: bool) -> np.ndarray:
    """Distribution of what follows `x`: the next clean symbol, or it as it will be seen."""
    out = np.zeros(V + 2)
    for clean, p in clean_sequences(elements, len(x) + 1).items():
        weight = p * math.prod(likelihood(s, c, e) for s, c in zip(x, clean))
        for symbol in range(V + 2) if noisy else ():
            out[symbol] += weight * likelihood(symbol, clean[-1], e)
        if not noisy:
            out[clean[-1]] += weight
    return out / out.sum()


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("e", [0.0, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("name", LANGUAGES)
def test_equals_bayes_over_all_sequences_of_elements(name, e, noisy):
    elements = LANGUAGES[name]
    source = MetaLM(V=V, e=e, L=9, seed=1, elements=elements)
    x, y = source.batch(0, 4)
    predictor = MetaLMFilter(source, noisy=noisy)
    found, online = predictor.predictions(x), MetaLMFilter(source, noisy=noisy)
    losses = predictor.log_loss(x, y)
    for b in range(4):
        online.reset()
        for t in range(10):
            wanted = bayes(elements, e, x[b, :t].tolist(), noisy)
            assert np.abs(online.predict() - wanted).max() < 1e-12
            if t < 9:
                assert np.abs(found[b, t] - wanted).max() < 1e-12
                online.update(int(x[b, t]))
            if t > 0 and not noisy:
                assert abs(losses[b, t - 1] + math.log(wanted[y[b, t - 1]])) < 1e-10
    assert np.abs(found.sum(2) - 1).max() < 1e-12
    if noisy:
        seen = MetaLMFilter(source, noisy=True).log_loss(x)
        assert np.abs(seen + np.log(np.take_along_axis(found, x[..., None], 2)[..., 0])).max() < 1e-12


def test_language_for_each_sequence():
    source = MetaLM(V=9, n=3, l=4, e=0.3, L=60, seed=2)
    x, y = source.batch(5, 6)
    together = MetaLMFilter(source, source.dictionaries(5, 6)).log_loss(x, y)
    for b in range(6):
        alone = MetaLMFilter(source, source.dictionaries(5 + b, 1)).log_loss(x[b], y[b])
        fixed = MetaLM(V=9, e=0.3, elements=source.language(5 + b))
        assert np.abs(together[b] - alone[0]).max() < 1e-12
        assert np.abs(together[b] - MetaLMFilter(fixed).log_loss(x[b], y[b])[0]).max() < 1e-12
    one = MetaLMFilter(source, source.dictionaries(5, 1))  # the same for several
    assert one.predictions(np.repeat(x[:1], 3, 0)).shape == (3, 60, 11)


def test_log_loss_is_the_same_in_parts(monkeypatch):
    source = MetaLM(V=9, n=3, l=4, e=0.3, L=60, seed=2)
    x, y = source.batch(0, 7)
    predictor = MetaLMFilter(source, source.dictionaries(0, 7))
    whole = predictor.log_loss(x, y)
    monkeypatch.setattr("metarlgym.sequences.predictors.base.CHUNK_BYTES", 2 * 8 * 11 * 60)
    assert (predictor.log_loss(x, y) == whole).all()


@pytest.mark.parametrize("n, l, e, figure", [(4, 32, 0.05, 0.043), (9, 32, 0.1, 0.074), (9, 64, 0.1, 0.039)])
def test_mean_loss(n, l, e, figure):  # noqa: E741
    """Computed apart, before this code: about ln(n) / (l + 1)."""
    source = MetaLM(n=n, l=l, e=e, L=2048, seed=3)
    losses = MetaLMFilter(source, source.dictionaries(0, 64)).log_loss(*source.batch(0, 64))
    assert np.isfinite(losses).all()
    assert (losses >= 0).all()
    assert abs(losses.mean() - figure) < 0.004


def test_loss_is_calibrated():
    """The mean loss is the mean entropy of what is predicted, if predictions are right."""
    source = MetaLM(V=6, n=4, l=4, e=0.5, L=200, seed=4)
    x, y = source.batch(0, 300)
    book = source.dictionaries(0, 300)
    p = MetaLMFilter(source, book).predictions(x)[:, 1:]
    entropy = -np.where(p > 0, p * np.log(np.maximum(p, 1e-300)), 0).sum(2)
    gap = (MetaLMFilter(source, book).log_loss(x, y)[:, :-1] - entropy).mean(1)
    assert abs(gap.mean()) < 4 * gap.std() / math.sqrt(300)


def test_predict_changes_nothing_and_deepcopy_goes_its_own_way():
    source = MetaLM(V=V, e=0.3, L=9, seed=5, elements=LANGUAGES["shared prefix"])
    predictor = MetaLMFilter(source)
    for symbol in (1, 0):
        predictor.update(symbol)
    first = predictor.predict()
    first[:] = 0
    assert np.abs(predictor.predict() - bayes(LANGUAGES["shared prefix"], 0.3, [1, 0], False)).max() < 1e-12
    twin = copy.deepcopy(predictor)
    predictor.update(4)
    assert np.abs(twin.predict() - bayes(LANGUAGES["shared prefix"], 0.3, [1, 0], False)).max() < 1e-12
    predictor.reset()
    assert np.abs(predictor.predict() - bayes(LANGUAGES["shared prefix"], 0.3, [], False)).max() < 1e-12


@pytest.mark.parametrize("e", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", LANGUAGES)
def test_fill_is_bayes_from_both_sides(name, e):
    """The clean symbol at a hidden place, given the noisy ones before and after it."""
    elements = LANGUAGES[name]
    source = MetaLM(V=V, e=e, L=8, seed=7, elements=elements)
    x = source.tokens(0, 16)
    places = np.arange(16) % 8
    hidden = x.copy()
    hidden[np.arange(16), places] = V  # what stands there does not matter
    found = MetaLMFilter(source).fill(hidden, places)
    assert found.shape == (16, V + 2)
    for b, place in enumerate(places):
        wanted = np.zeros(V + 2)
        for clean, p in clean_sequences(elements, 8).items():
            probs = [likelihood(s, c, e) for s, c in zip(x[b], clean)]
            wanted[clean[place]] += p * math.prod(probs[:place]) * math.prod(probs[place + 1 :])
        assert np.abs(found[b] - wanted / wanted.sum()).max() < 1e-12


@pytest.mark.parametrize("x, places", [([[1, 5]], [0]), ([[6, 1]], [1]), ([[1, 2]], [2]), ([[1]], [-1]), ([[1]], 0)])
def test_fill_of_what_cannot_be(x, places):
    with pytest.raises(ConfigError, match=r"places=|sequences\[0\]") as caught:
        MetaLMFilter(MetaLM(V=V, e=0.2, elements=[[1, 2], [1, 2, 3]])).fill(x, places)
    assert "\n" not in str(caught.value)


IMPOSSIBLE = [
    ([5], 0.2),  # id V
    ([6], 0.2),  # a separator first
    ([1, 6], 0.2),
    ([1, 2, 3, 4], 0.2),  # longer than any element
    ([2], 0.0),  # no noise
    ([0], 0.0),
    ([1, 2, 6, 6], 0.2),
]


@pytest.mark.parametrize("x, e", IMPOSSIBLE)
def test_impossible_symbols(x, e):
    predictor = MetaLMFilter(MetaLM(V=V, e=e, elements=[[1, 2], [1, 2, 3]]))
    with pytest.raises(ConfigError, match=rf"sequences\[1, {len(x) - 1}\]={x[-1]} ") as caught:
        predictor.predictions([[1, 2, 6, 1][: len(x)], x])
    assert "\n" not in str(caught.value)
    for symbol in x[:-1]:
        predictor.update(symbol)
    with pytest.raises(ConfigError, match=f"symbol={x[-1]} ") as caught:
        predictor.update(x[-1])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda s: MetaLMFilter(s), "dictionary=None"),
        (lambda s: MetaLMFilter(s, s.language(0)), "dictionary is a list"),
        (lambda s: MetaLMFilter(s, MetaLM(V=64, n=2, l=9, seed=1).dictionaries(0, 1)), r"dictionary holds .*1\.\.4"),
        (lambda s: MetaLMFilter(s, s.dictionaries(0, 3)).predictions([[1], [1]]), "3 languages for 2"),
        (lambda s: MetaLMFilter(s, s.dictionaries(0, 1)).log_loss([[1]]), "labels=None"),
        (lambda s: MetaLMFilter(s, s.dictionaries(0, 1)).log_loss([[1]], [[1, 1]]), "labels has shape"),
        (lambda s: MetaLMFilter(s, s.dictionaries(0, 1)).log_loss([[1]], [[7]]), "labels holds 7"),
        (lambda s: MetaLMFilter(s, s.dictionaries(0, 1)).predictions([[7]]), "sequences holds 7"),
        (lambda s: MetaLMFilter(s, s.dictionaries(0, 1)).update(7), "symbol=7"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ConfigError, match=message) as caught:
        call(MetaLM(V=V, n=2, l=3, seed=1))
    assert "\n" not in str(caught.value)
