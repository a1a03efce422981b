"""A cache bounded by the bytes it holds, because texts and actions differ in length by orders of magnitude."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

CACHE_BYTES = 16 * 2**20
"""Default bound of one cache."""
_ENTRY_BYTES = 256  # node, key and value objects of an entry
_ID_BYTES = 36  # an integer and the pointer to it


def text_bytes(text: str) -> int:
    return sys.getsizeof(text)


def ids_bytes(count: int) -> int:
    """Memory of a list or tuple of `count` token ids."""
    return _ID_BYTES * count


class BoundedCache(OrderedDict[K, V], Generic[K, V]):
    """Forgets its oldest entries. `get` is a dictionary's own; only `keep` takes a lock.

    Args:
        limit: bytes, as estimated by those who call `keep`.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        super().__init__()
        self.limit = limit
        self.bytes = 0
        """Estimated size of all entries."""
        self._sizes: dict[K, int] = {}
        self._lock = threading.Lock()

    def keep(self, key: K, value: V, size: int) -> V:
        """Store `value`, unless it alone is larger than the limit, and return it."""
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
        """Copies and pickles begin empty: a lock cannot be copied, and what is cached can be made again."""
        return type(self), (self.limit,)
