"""Derived streams: named, independent of order, private."""

from __future__ import annotations

import copy
import pickle
import random

from metarlgym.seeding import LazyRandom, derive, stream


def test_derive_is_pinned():
    """A change of these numbers changes every task and every episode ever recorded.

    Computed apart: `printf "('Doors-v0', 'task', 0)" | b2sum -l 64`, shifted right by one bit.
    """
    assert derive("Doors-v0", "task", 0) == 503161416827064340
    assert derive(7, 3) == 9064247264756056079


def test_derive_tells_parts_apart():
    parts = [(), (1,), ("1",), (1, 2), (2, 1), (12,), ("1", "2"), ("12",), ("1, 2",), (-1,), ("",)]
    values = [derive(*p) for p in parts]
    assert len(set(values)) == len(parts)
    assert all(0 <= value < 2**63 for value in values)


def test_derive_is_spread_evenly():
    high = sum(derive("spread", i) >= 2**62 for i in range(4000))
    assert abs(high - 2000) < 200


def test_stream_is_the_named_generator():
    rng, plain = stream("a", 1), random.Random(derive("a", 1))
    assert [rng.random() for _ in range(3)] == [plain.random() for _ in range(3)]
    assert rng.choice("abc") == plain.choice("abc")
    assert rng.sample(range(100), 5) == plain.sample(range(100), 5)
    assert stream("a", 1).random() == stream("a", 1).random() != stream("a", 2).random()


def test_stream_is_made_at_its_first_use():
    rng = LazyRandom("a")
    assert rng._rng is None
    rng.random()
    assert rng._rng is not None


def test_stream_is_copied_with_its_place():
    for used in (False, True):
        rng = stream("a")
        if used:
            rng.random()
        twins = [copy.deepcopy(rng), pickle.loads(pickle.dumps(rng))]
        expected = [rng.random() for _ in range(3)]
        assert [[twin.random() for _ in range(3)] for twin in twins] == [expected] * 2


def test_no_global_generator_is_touched():
    random.seed(1)
    before = random.getstate()
    derive("a")
    stream("a").random()
    assert random.getstate() == before
