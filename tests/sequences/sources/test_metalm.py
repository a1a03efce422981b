"""MetaLM against its definition: languages, order of elements, separators, noise, labels."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.sources import MetaLM

WORDS = [[1, 2, 3, 4], [1, 3, 2, 4], [1, 4, 4, 4], [1, 1, 2, 2], [1, 5, 6, 6], [1, 6, 5, 2], [1, 2, 2, 2]]
"""All begin with 1 and have 4 symbols, so that cutting the sequence favors none."""


def parse(clean: np.ndarray, elements: list[list[int]], separator: int) -> list[int]:
    """Indices of the complete elements of a clean sequence; fails unless all of it is elements and separators."""
    known = {tuple(e): k for k, e in enumerate(elements)}
    *parts, rest = " ".join(map(str, clean)).split(str(separator))
    found = [known[tuple(map(int, part.split()))] for part in parts]
    tail = tuple(map(int, rest.split()))
    assert any(e[: len(tail)] == tail for e in known)
    return found


def pooled(counts: np.ndarray, probs: np.ndarray) -> float:
    """p-value of a chi-square test, cells expected below 8 taken together."""
    expected = probs * counts.sum()
    rare = expected < 8
    expected, counts = (np.append(a[~rare], a[rare].sum()) for a in (expected, np.asarray(counts, float)))
    if expected[-1] < 1e-9:
        assert counts[-1] == 0
        expected, counts = expected[:-1], counts[:-1]
    return stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue


@pytest.mark.parametrize("mean", [0.5, 4.0, 6.5, 64.0])
def test_element_lengths(mean):
    lengths = np.diff(MetaLM(n=10, l=mean, seed=1).dictionaries(0, 1500).offsets).ravel()
    assert lengths.min() >= 3
    k = np.arange(400)
    probs = stats.poisson.pmf(k, mean)
    probs[3] += probs[:3].sum()
    probs[:3] = 0
    assert pooled(np.bincount(lengths, minlength=400), probs) > 1e-3


def test_element_symbols_are_independent_and_uniform():
    source = MetaLM(V=6, n=3, l=20, seed=2)
    book = source.dictionaries(0, 1000)
    words = [e for b in range(1000) for e in book.elements(b)]
    symbols = np.concatenate(words)
    assert set(symbols) == set(range(1, 6))
    assert stats.chisquare(np.bincount(symbols)[1:]).pvalue > 1e-3
    pairs = np.concatenate([e[:-1] * 6 + e[1:] for e in words])
    assert stats.chisquare(np.bincount(pairs, minlength=36).reshape(6, 6)[1:, 1:].ravel()).pvalue > 1e-3
    firsts = np.array([[e[0] for e in book.elements(b)] for b in range(1000)])
    across = np.histogram2d(firsts[:-1, 0], firsts[1:, 0], 5, [[1, 6]] * 2)[0]  # of neighboring samples
    assert stats.chisquare(across.ravel()).pvalue > 1e-3
    within = np.histogram2d(firsts[:, 0], firsts[:, 2], 5, [[1, 6]] * 2)[0]
    assert stats.chisquare(within.ravel()).pvalue > 1e-3


def test_clean_sequence_is_elements_each_followed_by_a_separator():
    source = MetaLM(V=30, n=4, l=7, e=0, L=500, seed=3)
    x, y = source.batch(0, 100)
    used = np.zeros(4, int)
    for i in range(100):
        found = parse(x[i], source.language(i), 31)
        assert len(found) > 20
        used[found[0]] += 1  # the first is never cut off
    assert stats.chisquare(used).pvalue > 1e-3
    assert (y[:, :-1] == x[:, 1:]).all()
    assert len({tuple(map(tuple, source.language(i))) for i in range(100)}) == 100


def test_noise_changes_neither_elements_nor_labels():
    for settings in ({"V": 30, "n": 4, "l": 7}, {"V": 8, "elements": WORDS}):
        plain, noisy = (MetaLM(e=e, L=300, seed=3, **settings) for e in (0.0, 0.4))
        x, y = plain.batch(0, 300)
        assert (noisy.clean(0, 300) == x).all()
        assert (plain.clean(17, 3) == x[17:20]).all()
        assert (noisy.clean(0, 3, "eval") == plain.tokens(0, 3, "eval")).all()
        assert (noisy.batch(0, 300)[1] == y).all()


def test_last_label_goes_on_with_the_sequence():
    """Label L - 1 is the clean symbol of place L, which no input shows."""
    for size in (1, 2, 3, 50):
        short, long = (MetaLM(V=9, n=3, l=4, e=e, L=size + k, seed=4) for e, k in ((0.5, 0), (0, 1)))
        assert (short.batch(0, 300)[1][:, -1] == long.batch(0, 300)[0][:, size]).all()


def test_choice_is_uniform_over_all_elements():
    source = MetaLM(V=8, e=0, L=1000, seed=5, elements=WORDS)
    rows = [parse(row, WORDS, 9) for row in source.batch(0, 200)[0]]
    picks = np.concatenate(rows)
    assert stats.chisquare(np.bincount(picks, minlength=7)).pvalue > 1e-3  # off by one: the last is never used
    pairs = np.concatenate([np.array(r[:-1]) * 7 + r[1:] for r in rows])
    assert stats.chisquare(np.bincount(pairs, minlength=49)).pvalue > 1e-3
    starts = [parse(row, WORDS, 9)[:2] for row in MetaLM(V=8, e=0, L=10, seed=6, elements=WORDS).batch(0, 5000)[0]]
    table = np.bincount([7 * a + b for a, b in starts], minlength=49)
    assert stats.chisquare(table).pvalue > 1e-3


@pytest.mark.parametrize("e", [0.05, 0.1, 0.5, 1.0])
def test_noise(e):
    V = 8
    x, y = MetaLM(V=V, e=e, L=1000, seed=7, elements=WORDS).batch(0, 150)
    clean, seen = y[:, :-1], x[:, 1:]
    separators = clean == V + 1
    assert ((seen == V + 1) == separators).all()
    c, s = clean[~separators], seen[~separators]
    counts = np.array([(s == 0).sum(), ((s != 0) & (s != c)).sum(), (s == c).sum()])
    probs = np.array([0.3 * e, 0.7 * e * (V - 2) / (V - 1), 1 - e + 0.7 * e / (V - 1)])
    assert pooled(counts, probs) > 1e-3
    for symbol in (1, 4):  # changed to any other symbol alike
        others = np.bincount(s[(c == symbol) & (s != c) & (s != 0)], minlength=V)[1:]
        assert others[symbol - 1] == 0
        assert stats.chisquare(np.delete(others, symbol - 1)).pvalue > 1e-3
    first = x[:, 0]  # place 0 is noised too; its clean symbol is 1
    assert abs((first == 0).mean() - 0.3 * e) < 4 * math.sqrt(0.3 * e / 150) + 1e-9
    if e < 1:  # one corrupted symbol says nothing of the next
        changed = (clean != seen) & ~separators
        both = ~separators[:, :-1] & ~separators[:, 1:]
        rate = changed[~separators].mean()
        pairs = (changed[:, :-1] & changed[:, 1:])[both]
        assert abs(pairs.mean() - rate**2) < 4 * math.sqrt(rate**2 / pairs.size)
        after = changed[:, 1:][separators[:, :-1]]
        assert abs(after.mean() - rate) < 4 * math.sqrt(rate / after.size)


def test_noise_is_uniform_along_the_sequence():
    x, y = MetaLM(V=8, e=0.2, L=200, seed=8, elements=WORDS).batch(0, 4000)
    bad = ((x[:, 1:] != y[:, :-1]).sum(0))[:195].reshape(39, 5).sum(1)  # 5 places: an element and its separator
    assert stats.chisquare(bad).pvalue > 1e-3


@pytest.mark.parametrize("V, e", [(2, 0.3), (3, 1.0), (64, 0.1)])
def test_ids(V, e):
    x, y = MetaLM(V=V, n=5, l=10, e=e, L=400, seed=9).batch(0, 50)
    assert x.shape == y.shape == (50, 400)
    assert x.dtype == y.dtype == np.int64
    assert set(np.unique(x)) == {0, *range(1, V), V + 1}
    assert set(np.unique(y)) == {*range(1, V), V + 1}
    assert MetaLM(V=V).vocab_size == V + 2


def test_smallest():
    source = MetaLM(V=2, n=1, l=0.01, e=0, L=1, seed=1)
    x, y = source.data_generator()
    assert x.tolist() == y.tolist() == [1]
    assert source.language() == [[1, 1, 1]]
    x, y = MetaLM(V=2, n=1, l=0.01, e=0, L=9, seed=1).data_generator()
    assert x.tolist() == [1, 1, 1, 3, 1, 1, 1, 3, 1]
    assert y.tolist() == [1, 1, 3, 1, 1, 1, 3, 1, 1]
    assert MetaLM(V=5, e=0, L=1, seed=1, elements=[[3]]).data_generator()[1].tolist() == [6]


def test_defaults_are_the_published_ones():
    source = MetaLM()
    assert (source.V, source.n, source.l, source.e, source.L) == (64, 10, 64, 0.1, 4096)
    x, y = source.data_generator()
    assert x.shape == y.shape == (4096,)


def test_elements_fix_the_language():
    words = [[1], [2, 2], [3, 1, 2, 3, 1]]
    source = MetaLM(V=4, e=0, L=60, seed=10, elements=words)
    assert source.language(7) == words
    assert source.n == 3
    for row in source.batch(0, 50)[0]:
        parse(row, words, 5)
    drawn = MetaLM(V=12, n=3, l=5, L=40, seed=11)
    again = MetaLM(V=12, L=40, seed=12, elements=drawn.language(3))
    assert again.language(0) == drawn.language(3)


def make(**changes) -> MetaLM:
    return MetaLM(**{"V": 20, "n": 3, "l": 6, "e": 0.2, "L": 33, "seed": 13} | changes)


def test_samples_do_not_depend_on_the_batch():
    x, y = make().batch(0, 600)  # beyond the 256 that are made at once
    for order in [range(599, -1, -150), (255, 256, 257)]:
        for i in order:
            a, b = make().batch(i, 1)
            assert (a == x[i]).all()
            assert (b == y[i]).all()
    for first, count in [(0, 256), (255, 2), (256, 300), (511, 3)]:
        assert (make().tokens(first, count) == x[first : first + count]).all()


def test_generators_go_on_where_the_other_ended():
    x, y = make().batch(0, 12)
    source = make()
    got = [source.data_generator(), source.data_generator()]
    many = [source.batch_generator(4), source.batch_generator(1), source.batch_generator(4)]
    got.append(source.data_generator())
    assert (np.concatenate([[a for a, _ in got[:2]], *(a for a, _ in many), [got[2][0]]]) == x).all()
    assert (np.concatenate([[b for _, b in got[:2]], *(b for _, b in many), [got[2][1]]]) == y).all()
    assert many[0][0].shape == many[0][1].shape == (4, 33)


def test_seeds_and_splits():
    x = make().tokens(0, 20)
    assert (make(seed=np.int64(13)).tokens(0, 20) == x).all()
    for other in [make(seed=14).tokens(0, 20), make(seed=2**64 - 13).tokens(0, 20), make().tokens(0, 20, "eval")]:
        assert (other != x).any(1).all()
    assert make().language(0) != make().language(0, "eval")
    assert (make(seed=None).tokens(0, 1) != make(seed=None).tokens(0, 1)).any()
    again = [make(seed=np.random.default_rng(3)).tokens(0, 2) for _ in range(2)]
    assert (again[0] == again[1]).all()
    np.random.seed(1)
    one = make().tokens(0, 2)
    np.random.seed(2)
    assert (make().tokens(0, 2) == one).all()
    with pytest.raises(ConfigError, match="split='test'"):
        make().batch(0, 1, "test")


DIGEST = """
import hashlib
import numpy as np
from metarlgym.sequences.sources import RLM, MetaLM, Piecewise, PseudoLanguage

arrays = [*MetaLM(V=20, n=3, l=6, e=.2, L=33, seed=13).batch(3, 9), *RLM(v=5, L=3).trees(1, 20)]
arrays += PseudoLanguage(V=7, L=9, seed=1).batch(0, 3)
for law in ("static", "regular", "random", "ptw", "lin"):
    arrays += Piecewise(law, T=40, alphabet=3, seed=5).batch(2, 9)
digest = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()
"""
"""Hashes samples of every source."""


def test_other_processes_draw_the_same():
    environment = os.environ | {"PYTHONHASHSEED": "4711", "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", DIGEST + "print(digest)"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    here: dict[str, str] = {}
    exec(DIGEST, here)
    assert run.stdout.strip() == here["digest"]


BAD = [
    ({"V": 1}, "V=1"),
    ({"V": 0}, "V=0"),
    ({"V": 2.5}, "V=2.5"),
    ({"V": True}, "V=True"),
    ({"V": "64"}, "V='64'"),
    ({"n": 0}, "n=0"),
    ({"n": -3}, "n=-3"),
    ({"n": None}, "n=None"),
    ({"l": -2}, "l=-2"),
    ({"l": 0}, "l=0"),
    ({"l": math.nan}, "l=nan"),
    ({"l": math.inf}, "l=inf"),
    ({"l": "64"}, "l='64'"),
    ({"l": 1e13}, "l=10000000000000.0 needs"),
    ({"e": -0.1}, "e=-0.1"),
    ({"e": 1.1}, "e=1.1"),
    ({"e": math.nan}, "e=nan"),
    ({"e": True}, "e=True"),
    ({"L": 0}, "L=0"),
    ({"L": False}, "L=False"),
    ({"L": 10**13}, "L=10000000000000"),
    ({"seed": 1.5}, "seed=1.5"),
    ({"seed": True}, "seed=True"),
    ({"seed": "1"}, "seed='1'"),
    ({"elements": []}, r"elements=\[\]"),
    ({"elements": [[1, 2], []]}, r"elements\[1\] is empty"),
    ({"elements": [[1, 2], [20]]}, r"elements\[1\].*=20"),
    ({"elements": [[0]]}, r"elements\[0\].*=0"),
    ({"elements": [[1, True]]}, r"elements\[0\].*=True"),
    ({"elements": ["ab"]}, r"elements\[0\].*='a'"),
    ({"elements": 5}, "elements=5"),
    ({"elements": [5]}, r"elements\[0\]=5"),
]


@pytest.mark.parametrize("changes, message", BAD, ids=[str(b[0]) for b in BAD])
def test_bad_settings(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, -1, 1.0, True, "3", 10**13])
def test_bad_batch_size(size):
    source = make()
    with pytest.raises(ConfigError, match=f"batch_size={size!r}"):
        source.batch_generator(size)
    if size != 10**13:  # nothing was skipped
        assert (source.data_generator()[0] == make().data_generator()[0]).all()
