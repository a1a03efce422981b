"""Caches are bounded by the bytes they hold, whatever the number of entries."""

from __future__ import annotations

import copy
import pickle
import sys
import threading

from metarlgym.datatypes import Message
from metarlgym.models.scratch import chat_tokenizer
from metarlgym.rollout.bounded_cache import CACHE_BYTES, BoundedCache
from metarlgym.rollout.render import ChatRenderer


def test_the_oldest_entries_are_forgotten_first():
    cache = BoundedCache(limit=3_000)
    for i in range(10):
        assert cache.keep(i, str(i), 744) == str(i)  # 1,000 with what an entry itself takes
    assert dict(cache) == {7: "7", 8: "8", 9: "9"}
    assert cache.bytes == 3_000


def test_what_is_larger_than_the_cache_is_not_kept():
    cache = BoundedCache(limit=3_000)
    cache.keep("small", 1, 0)
    assert cache.keep("large", 2, 3_000) == 2
    assert dict(cache) == {"small": 1}


def test_a_key_counts_once():
    cache = BoundedCache(limit=3_000)
    for _ in range(9):
        cache.keep("same", 1, 744)
    assert (len(cache), cache.bytes) == (1, 1_000)


def test_a_copy_begins_empty():
    cache = BoundedCache(limit=3_000)
    cache.keep("a", 1, 0)
    for other in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert (len(other), other.bytes, other.limit) == (0, 0, 3_000)
        assert other.keep("b", 2, 0) == other["b"]
    assert dict(cache) == {"a": 1}


def test_threads_share_a_cache():
    cache = BoundedCache(limit=50_000)

    def fill(start):
        for i in range(start, start + 600):
            cache.keep(i % 1_000, i, 744)
            cache.get(i)

    threads = [threading.Thread(target=fill, args=(200 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.bytes == 1_000 * len(cache) == 50_000


def held(cache):
    """Bytes that a cache's keys, values and the integers in them take, each object once."""
    parts = {id(part): part for pair in cache.items() for part in pair}
    for value in list(parts.values()):
        if not isinstance(value, str):
            parts.update((id(part), part) for part in value)
    return sum(map(sys.getsizeof, parts.values()))


def test_a_renderers_caches_hold_at_most_their_bound():
    """Long texts and actions, as many as 55 MiB were kept of."""
    renderer = ChatRenderer(chat_tokenizer())
    for i in range(600):
        text = f"{i:04d} " + "x" * 2_435
        renderer.encode(text)
        renderer.bridge(text, ended=True)
        renderer.prompt([Message("user", text)])
        renderer.decode_action([1000 + i, *range(300, 1323)])
    for cache in (renderer._encoded, renderer._bridges, renderer._prompts, renderer._decoded):
        assert 0 < len(cache) < 600
        assert held(cache) < 1.1 * CACHE_BYTES
        assert 0.9 * CACHE_BYTES < cache.bytes <= CACHE_BYTES
