"""Donor assignment for the shuffled control, in which a trial is shown another trial's history instead of its own."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence


def derangement(keys: Sequence[str], seed: int) -> list[int] | None:
    """A seeded permutation p with `keys[p(i)] != keys[i]` for every i; None if none exists.

    One exists if and only if no key occurs in more than half of the positions. To construct it, group the positions by
    key, in random order, and shift by the size of the largest group: no group is longer than the shift, so no position
    is mapped to its own key.
    """
    count = Counter(keys)
    largest = max(count.values(), default=0)
    if not keys or 2 * largest > len(keys):
        return None
    rng = random.Random(seed)
    place = {key: rng.random() for key in sorted(count)}
    order = list(range(len(keys)))
    rng.shuffle(order)
    order.sort(key=lambda i: (place[keys[i]], keys[i]))
    donors = [0] * len(keys)
    for position, i in enumerate(order):
        donors[i] = order[(position + largest) % len(keys)]
    return donors


def donors_of(keys: Sequence[str], seed: int) -> list[int] | None:
    """A donor with another key for every position: `derangement`, or where none exists, donors that serve repeatedly.

    Where one key fills more than half of the positions, its positions share the others among them, each as often as the
    next, and the others get donors of their own. None only if all keys are the same.
    """
    donors = derangement(keys, seed)
    if donors is not None or len(set(keys)) < 2:
        return donors
    rng = random.Random(seed)
    most = Counter(keys).most_common(1)[0][0]
    many = [i for i, key in enumerate(keys) if key == most]
    few = [i for i, key in enumerate(keys) if key != most]
    rng.shuffle(many)
    rng.shuffle(few)
    donors = [0] * len(keys)
    for k, i in enumerate(many):
        donors[i] = few[k % len(few)]
    for i, donor in zip(few, many):
        donors[i] = donor
    return donors
