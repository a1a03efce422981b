"""Which groups a batch is made of: none too old, none thrown away, in the order in which they end where possible."""

from __future__ import annotations

import random

import pytest

from metarlgym.training.group_queue import GroupQueue
from metarlgym.training.trained_groups import TrainedGroups


def simulate(rng, batch, staleness, steps, places, order=lambda rng, group: rng.lognormvariate(0, 1)):
    """(step, group, version) of all groups trained on; whichever group has the earliest end ends next."""
    queue, taken = GroupQueue(batch, staleness, 0), []
    running, number, now, version = {}, 0, 0.0, 0
    total = batch * steps
    while version < steps:
        while number < total and len(running) < places and queue.may_begin(version):
            queue.begin(number, version)
            running[number] = now + order(rng, number)
            number += 1
        if rng.random() < 0.5 or not running:  # the trainer asks
            found = queue.take()
            if found is not None:
                taken += [(version, group) for group in found]
                version += 1
                continue
            assert running, "the trainer waits and nothing plays"
        group = min(running, key=running.get)
        now = running.pop(group)
        queue.finish(group)
    return taken


@pytest.mark.parametrize("seed", range(60))
def test_every_group_is_trained_once_and_none_too_late(seed):
    rng = random.Random(seed)
    batch, staleness, places = rng.randint(1, 5), rng.randint(1, 5), rng.randint(1, 20)
    begun = {}
    queue_begin = GroupQueue.begin

    def begin(queue, group, version):
        begun[group] = version
        queue_begin(queue, group, version)

    GroupQueue.begin = begin
    try:
        slow = rng.random() < 0.5
        taken = simulate(
            rng, batch, staleness, 40, places, lambda r, g: 100.0 if slow and g % 7 == 3 else r.lognormvariate(0, 1)
        )
    finally:
        GroupQueue.begin = queue_begin
    assert sorted(group for _, group in taken) == list(range(batch * 40))
    ages = [step - begun[group] for step, group in taken]
    assert min(ages) >= 0 and max(ages) <= staleness


def test_groups_come_in_the_order_in_which_they_end():
    queue = GroupQueue(2, 3, 0)
    for group in range(6):
        queue.begin(group, 0)
    for group in (5, 1, 4):
        queue.finish(group)
    assert queue.take() == [5, 1]
    assert queue.take() is None, "one is not enough"
    queue.finish(0)
    assert queue.take() == [4, 0]


def test_a_batch_waits_for_a_group_that_would_become_too_old():
    queue = GroupQueue(1, 1, 0)
    queue.begin(0, 0)
    queue.begin(1, 0)
    assert not queue.may_begin(0), "two steps until its deadline, and two groups for them"
    queue.finish(1)
    assert queue.take() == [1]
    queue.begin(2, 1)
    queue.finish(2)
    assert queue.take() is None
    queue.finish(0)
    assert queue.take() == [0], "before the one that ended earlier"
    assert queue.take() == [2]


def test_the_numbers_that_are_left():
    trained = TrainedGroups()
    trained.add([0, 1, 3])
    assert trained.to_dict() == {"below": 2, "more": [3]}
    assert TrainedGroups(**trained.to_dict()).next(3) == [2, 4, 5]
    trained.add([2])
    assert trained.to_dict() == {"below": 4, "more": []}
