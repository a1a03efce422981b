"""TrainedGroups: the numbers of the groups that a run has trained on, which checkpoints keep."""

from __future__ import annotations

from collections.abc import Iterable
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

    def left(self, total: int) -> list[int]:
        """The numbers below `total` that are not in the set, sorted."""
        return [number for number in range(self.below, total) if number not in self.more]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-serialisable view; `TrainedGroups(**view)` is the same set."""
        return {"below": self.below, "more": sorted(self.more)}
