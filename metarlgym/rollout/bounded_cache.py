"""A cache bounded by its size in bytes, because texts and actions differ in length by orders of magnitude."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

CACHE_BYTES = 16 * 2**20
"""Default size limit of one cache."""
_ENTRY_BYTES = 256  # node, key and value objects of an entry
_ID_BYTES = 36  # an integer and the pointer to it


def text_bytes(text: str) -> int:
    return sys.getsizeof(text)


def ids_bytes(count: int) -> int:
    """Memory of a list or tuple of `count` token ids."""
    return _ID_BYTES * count


class BoundedCache(OrderedDict[K, V], Generic[K, V]):
    """Evicts the oldest entries first. `get` is the plain dictionary method; only `keep` takes a lock.

    Args:
        limit: bytes, as estimated by the callers of `keep`.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        super().__init__()
        self.limit = limit
        self.bytes = 0
        """Estimated size of all entries."""
        self._sizes: dict[K, int] = {}
        self._lock = threading.Lock()

    def keep(self, key: K, value: V, size: int) -> V:
        """Store `value`, unless it alone exceeds the limit, and return it."""
        size += _ENTRY_BYTES
        with self._lock:
            if key in self or size > self.limit:
                return value
            self[key] = value
            self._sizes[key] = size
            self.bytes += size
            while self.bytes > self.limit:
                oldest, _ = self.popitem(last=False)
                self.bytes -= self._sizes.pop(oldest)
        return value

    def __reduce__(self) -> tuple[type[BoundedCache[K, V]], tuple[int]]:
        """Copies and pickles start empty: a lock cannot be copied, and cached values can be recomputed."""
        return type(self), (self.limit,)
