"""GroupQueue: which groups to train on next, so that none becomes too old and none is thrown away.

A group that was begun by weights `v` may be trained on at the steps `v` to `v + staleness`, and each step takes `batch`
groups. All deadlines can be met if and only if, for every `v`, no more groups begun by `v` or earlier are left than the
steps until `v + staleness` can take. A group begins, and a batch is taken, only where this remains true.
"""

from __future__ import annotations


class GroupQueue:
    """The groups of one process that were begun and not yet trained on.

    Args:
        batch: number of groups that each step trains on.
        staleness: maximum number of updates between the weights that begin a group and those that train on it.
        step: the first step that takes a batch.
    """

    def __init__(self, batch: int, staleness: int, step: int) -> None:
        self.batch = batch
        self.staleness = staleness
        self.next_step = step
        """The step that takes the next batch."""
        self.begun: dict[int, int] = {}
        """Version of the weights that began each group, by the group's number, in the order in which they began."""
        self.finished: list[int] = []
        """Numbers of the groups that have ended, in the order in which they ended."""

    def may_begin(self, version: int) -> bool:
        """Whether another group, begun by these weights, can be trained on in time."""
        return len(self.begun) < self._room(version)

    def begin(self, group: int, version: int) -> None:
        self.begun[group] = version

    def finish(self, group: int) -> None:
        self.finished.append(group)

    def take(self) -> list[int] | None:
        """The groups that the next step trains on, in the order in which they ended; None: wait for more to end.

        A group that ended later goes before others only where its deadline demands it.
        """
        picked: set[int] = set()
        for version in sorted(set(self.begun.values())):
            old = {group for group, begun in self.begun.items() if begun <= version}
            # What the steps after this one cannot take before these weights are too old.
            needed = len(old) - (self._room(version) - self.batch)
            ready = [group for group in self.finished if group in old and group not in picked]
            missing = needed - len(picked & old)
            if missing > len(ready):
                return None
            picked.update(ready[: max(0, missing)])
        rest = [group for group in self.finished if group not in picked]
        picked.update(rest[: self.batch - len(picked)])
        if len(picked) < self.batch:
            return None
        taken = [group for group in self.finished if group in picked]
        self.finished = [group for group in self.finished if group not in picked]
        for group in taken:
            del self.begun[group]
        self.next_step += 1
        return taken

    def _room(self, version: int) -> int:
        """How many groups the steps from the next one to the deadline of `version` can take."""
        return self.batch * (version + self.staleness - self.next_step + 1)
