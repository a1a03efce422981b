"""The shuffled control: whose history a trial is shown instead of its own."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence


def derangement(keys: Sequence[str], seed: int) -> list[int] | None:
    """A seeded permutation p with `keys[p(i)] != keys[i]` for every i; None where there is none.

    One exists if and only if no key is held by more than half of the places. It is found by laying the places out by
    key, in random order, and shifting by the size of the largest class: no class is longer than the shift, so no place
    meets its own key.
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
