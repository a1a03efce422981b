"""TrainedGroups: the numbers of the groups that a run has trained on, which checkpoints keep."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from itertools import islice
from typing import Any


class TrainedGroups:
    """A set of numbers from 0 on, of which all but the latest are there.

    Args:
        below: all numbers below this one are in the set.
        more: those above it.
    """

    def __init__(self, below: int = 0, more: Iterable[int] = ()) -> None:
        self.below = below
        self.more: set[int] = set()
        self.add(more)

    def add(self, numbers: Iterable[int]) -> None:
        self.more.update(numbers)
        while self.below in self.more:
            self.more.remove(self.below)
            self.below += 1

    def next(self, count: int) -> list[int]:
        """The lowest `count` numbers that are not in the set."""
        return list(islice((number for number in itertools.count(self.below) if number not in self.more), count))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-serialisable view; `TrainedGroups(**view)` is the same set."""
        return {"below": self.below, "more": sorted(self.more)}
