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
