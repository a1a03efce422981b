"""SlotCache: what is written to a slot is read from it, whatever else lies beside it."""

from __future__ import annotations

import torch

from metarlgym.policies.kv_cache import SlotCache


def write(cache, slots, positions, values, limit, start=None):
    """Write the same values as keys and values of layer 0; returns the keys read."""
    rows = None if slots is None else torch.tensor(slots)
    positions = torch.tensor(positions)
    cache.aim(rows, len(positions), positions, start, limit)
    new = torch.tensor(values, dtype=torch.float32)[:, None, :, None]  # (n, 1 head, t, 1)
    keys, same = cache.update(new, new, 0)
    assert torch.equal(keys, same)
    return keys[:, 0, :, 0].tolist()


def test_slots_are_apart():
    cache = SlotCache()
    cache.reserve(3, 4)
    assert write(cache, [0, 2], [[0, 1], [0, 1]], [[1, 2], [5, 6]], 2) == [[1, 2], [5, 6]]
    assert write(cache, [1], [[0]], [[9]], 1) == [[9]]
    assert write(cache, [2, 0], [[2], [2]], [[7], [3]], 3) == [[5, 6, 7], [1, 2, 3]]


def test_slots_in_order_are_written_as_one_block():
    cache = SlotCache()
    cache.reserve(2, 4)
    assert write(cache, None, [[0, 1], [0, 1]], [[1, 2], [5, 6]], 2, start=0) == [[1, 2], [5, 6]]
    assert write(cache, None, [[2], [2]], [[3], [7]], 3, start=2) == [[1, 2, 3], [5, 6, 7]]


def test_contexts_of_different_lengths_share_a_batch():
    cache = SlotCache()
    cache.reserve(2, 4)
    write(cache, [0], [[0, 1]], [[1, 2]], 2)
    keys = write(cache, [0, 1], [[2], [0]], [[3], [8]], 3)
    assert keys[0] == [1, 2, 3]
    assert keys[1][0] == 8


def test_padding_goes_where_nobody_reads():
    cache = SlotCache()
    cache.reserve(2, 4)
    keys = write(cache, [0, 1], [[0, 1], [cache.length, 0]], [[1, 2], [99, 5]], 2)
    assert keys[0] == [1, 2]
    assert keys[1][0] == 5
    assert 99 not in keys[0] + keys[1]


def test_growing_keeps_what_is_there():
    cache = SlotCache()
    cache.reserve(1, 2)
    write(cache, [0], [[0, 1]], [[1, 2]], 2)
    cache.reserve(5, 9)
    assert cache.slots >= 5 and cache.length >= 9
    assert write(cache, [0, 4], [[2], [0]], [[3], [7]], 3)[0] == [1, 2, 3]
    write(cache, [4], [[8]], [[1]], 9)


def test_reserving_less_changes_nothing():
    cache = SlotCache()
    cache.reserve(4, 8)
    cache.reserve(1, 1)
    assert (cache.slots, cache.length) == (4, 8)


def test_copied_prompts():
    cache = SlotCache()
    cache.reserve(3, 4)
    write(cache, [0], [[0, 1]], [[1, 2]], 2)
    cache.copy_slot(0, torch.tensor([1, 2]), 2)
    assert write(cache, [1, 2], [[2], [2]], [[3], [4]], 3) == [[1, 2, 3], [1, 2, 4]]
