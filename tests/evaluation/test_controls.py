"""Derangements: every trial is shown the history of a trial on another task, each history once."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from metarlgym.evaluation.controls import derangement, donors_of


def keys_of(counts):
    keys = [key for key, n in counts.items() for _ in range(n)]
    random.Random(0).shuffle(keys)
    return keys


@pytest.mark.parametrize(
    "counts",
    [{"a": 1, "b": 1}, {"a": 2, "b": 2}, {"a": 3, "b": 2, "c": 1}, {"a": 5, "b": 5}, dict.fromkeys("abcdefgh", 3)],
    ids=str,
)
def test_a_permutation_that_never_meets_its_own_task(counts):
    keys = keys_of(counts)
    for seed in range(20):
        donors = derangement(keys, seed)
        assert sorted(donors) == list(range(len(keys)))
        assert all(keys[i] != keys[donor] for i, donor in enumerate(donors))


def test_random_key_sets():
    rng = random.Random(1)
    for _ in range(300):
        keys = [rng.choice("abcdef"[: rng.randint(1, 6)]) for _ in range(rng.randint(1, 30))]
        donors = derangement(keys, rng.randrange(1000))
        possible = 2 * max(Counter(keys).values()) <= len(keys)
        assert (donors is not None) == possible
        if possible:
            assert sorted(donors) == list(range(len(keys)))
            assert all(keys[i] != keys[donor] for i, donor in enumerate(donors))


@pytest.mark.parametrize("keys", [[], ["a"], ["a", "a"], ["a", "a", "b"]], ids=str)
def test_none_where_there_is_none(keys):
    assert derangement(keys, 0) is None


def test_the_seed_decides():
    keys = keys_of(dict.fromkeys("abcdef", 4))
    assert derangement(keys, 3) == derangement(keys, 3)
    assert len({tuple(derangement(keys, seed)) for seed in range(20)}) == 20


def test_every_other_task_is_a_donor():
    """Not always the same one: the donor's task is nearly uniform over the others."""
    keys = keys_of(dict.fromkeys("abcd", 50))
    pairs = Counter()
    for seed in range(60):
        donors = derangement(keys, seed)
        pairs.update((keys[i], keys[donor]) for i, donor in enumerate(donors))
    assert len(pairs) == 12
    total = sum(pairs.values())
    assert all(abs(n / total - 1 / 12) < 0.03 for n in pairs.values())


def test_it_does_not_hang_on_many_trials():
    keys = [str(i % 4) for i in range(8000)]
    donors = derangement(keys, 0)
    assert all(keys[i] != keys[donor] for i, donor in enumerate(donors))


@pytest.mark.parametrize("counts", [{"a": 3, "b": 1}, {"a": 9, "b": 4, "c": 1}, {"a": 133, "b": 123}], ids=str)
def test_where_one_task_fills_more_than_half_donors_serve_repeatedly(counts):
    keys = keys_of(counts)
    for seed in range(20):
        donors = donors_of(keys, seed)
        assert all(keys[i] != keys[donor] for i, donor in enumerate(donors))
        served = Counter(donor for i, donor in enumerate(donors) if keys[i] == "a")
        assert max(served.values()) - min(served.values()) <= 1 and len(served) == len(keys) - counts["a"]
        others = [donor for i, donor in enumerate(donors) if keys[i] != "a"]
        assert len(set(others)) == len(others)
    assert donors_of(keys, 3) == donors_of(keys, 3) != donors_of(keys, 4)


def test_donors_are_the_derangement_where_there_is_one():
    keys = keys_of({"a": 3, "b": 2, "c": 1})
    assert donors_of(keys, 5) == derangement(keys, 5)
    assert donors_of(["a", "a"], 0) is None and donors_of([], 0) is None
