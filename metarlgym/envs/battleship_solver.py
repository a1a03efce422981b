"""Battleship: the list of fleets, the best play of several episodes, and an oracle for large boards.

A fleet is the set of cells that its ships fill, one bit per cell; different placements may fill the same cells, so a
fleet has a weight. Known ship cells can be shot at any time and tell nothing: shooting the uncertain cells first is
never worse. A decision is then the uncertain cell to shoot at, until one fleet is left. What matters is the set of
fleets that are still possible (one bit per fleet), the hits of this episode, and the shots and episodes left.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache

import numpy as np

LIST_LIMIT = 40_000
"""Maximum number of placements that are listed."""
SEARCH_LIMIT = 500
"""Maximum number of fleets that are searched."""
WORK_LIMIT = 2_000_000
"""Number of splits after which a search gives up; 5 to 10 seconds. Counted, not timed, so that the outcome is the same
everywhere.
"""

LOST = -1
"""Number of ship cells to hit in an episode that cannot be won any more."""


@lru_cache(maxsize=64)
def ship_places(size: int, length: int) -> tuple[tuple[int, ...], ...]:
    """The cells of each place of one ship, in reading order: across, and down if it is longer than one cell."""
    places = [
        tuple(range(row * size + column, row * size + column + length))
        for row in range(size)
        for column in range(size - length + 1)
    ]
    if length > 1:
        places += [
            tuple(range(row * size + column, (row + length) * size + column, size))
            for row in range(size - length + 1)
            for column in range(size)
        ]
    return tuple(sorted(places))


def placements(size: int, ships: Sequence[int], taken: Collection[int] = frozenset()) -> Iterator[list[Sequence[int]]]:
    """Every placement of the labelled ships without overlap; touching is allowed."""
    if not ships:
        yield []
        return
    for place in ship_places(size, ships[0]):
        if not any(cell in taken for cell in place):
            for rest in placements(size, ships[1:], {*taken, *place}):
                yield [place, *rest]


def random_placement(size: int, ships: Sequence[int], rng: random.Random) -> list[Sequence[int]]:
    """A uniform placement: all ships are drawn anew until none overlap."""
    options = [ship_places(size, length) for length in ships]
    cells = sum(ships)
    while True:
        drawn: list[Sequence[int]] = [rng.choice(places) for places in options]
        if len(drawn) == 1 or len({cell for place in drawn for cell in place}) == cells:
            return drawn


@lru_cache(maxsize=16)
def listed(size: int, ships: tuple[int, ...]) -> tuple[tuple[Sequence[int], ...], ...] | None:
    """Every placement; None if they are too many to list."""
    found = []
    for placement in placements(size, ships):
        found.append(tuple(placement))
        if len(found) > LIST_LIMIT:
            return None
    return tuple(found)


class Fleets:
    """The different sets of ship cells, and their weights."""

    def __init__(self, size: int, placed: Sequence[Sequence[Sequence[int]]]) -> None:
        weights: dict[int, int] = {}
        for placement in placed:
            cells = sum([1 << cell for place in placement for cell in place])
            weights[cells] = weights.get(cells, 0) + 1
        self.cells = list(weights)
        self.weights = np.array(list(weights.values()))
        self.array = np.array([[cells >> cell & 1 for cell in range(size * size)] for cells in self.cells], bool)

    def possible(self, hits: Collection[int], misses: Collection[int]) -> np.ndarray:
        """Which fleets have these hits and misses."""
        found = np.ones(len(self.cells), bool)
        for cell in hits:
            found &= self.array[:, cell]
        for cell in misses:
            found &= ~self.array[:, cell]
        return found

    def likeliest(self, possible: np.ndarray, shot: Collection[int]) -> int:
        """The uncertain cell that is hit with the highest probability; a certain one if no other is left."""
        members = self.array[possible]
        score = self.weights[possible] @ members
        certain = members.all(0)
        order = np.where(certain, 0.5 * (score > 0), score)
        order[list(shot)] = -1
        return int(order.argmax())


@lru_cache(maxsize=16)
def fleets(size: int, ships: tuple[int, ...]) -> Fleets | None:
    """None if the placements are too many to list."""
    placed = listed(size, ships)
    return None if placed is None else Fleets(size, placed)


class TooLong(Exception):
    """The search has exceeded its work limit."""


class Search:
    """The best play of `episodes` episodes with `shots` shots each, the first `free` of which do not count.

    Values are numbers of counted wins, summed over the placements of a set of fleets.
    """

    def __init__(self, size: int, book: Fleets, shots: int, episodes: int, free: int) -> None:
        self.cells = size * size
        self.ship_cells = book.cells[0].bit_count()
        self.shots, self.episodes = shots, episodes
        self.worth = [episodes - max(episode, free) for episode in range(episodes)] + [0]
        """Counted episodes from each one on: a known fleet is shot in every later one."""
        self.weights = [int(weight) for weight in book.weights]
        self.equal = len(set(self.weights)) == 1
        self.by_cell = [
            sum([1 << number for number, cells in enumerate(book.cells) if cells >> cell & 1])
            for cell in range(self.cells)
        ]
        self.everything = (1 << len(book.cells)) - 1
        self.book = book
        self.best: dict[tuple[int, int, int, int], tuple[int, int]] = {}
        """(fleets, ship cells left still to hit in this episode, shots left, episode) -> (value, cell or -1)."""
        self._work = 0

    def weight(self, possible: int) -> int:
        if self.equal:
            return possible.bit_count() * self.weights[0]
        total = 0
        while possible:
            total += self.weights[(possible & -possible).bit_length() - 1]
            possible &= possible - 1
        return total

    def state(self, possible: int, remain: int, left: int, episode: int) -> tuple[int, int, int, int]:
        """The state with what does not matter left out: an episode that cannot be won any more is like any other."""
        if not left and remain:
            remain, left, episode = self.ship_cells, self.shots, episode + 1
        return possible, remain if remain <= left else LOST, left, episode

    def value(self, possible: int, remain: int, left: int, episode: int) -> int:
        """The value under the best play from a `state`.

        Raises:
            TooLong: the work limit is reached.
        """
        if episode >= self.episodes or not possible:
            return 0
        now = self.worth[episode if remain != LOST else episode + 1]
        if not possible & (possible - 1):
            return self.weight(possible) * now
        key = possible, remain, left, episode
        known = self.best.get(key)
        if known is not None:
            return known[0]
        top, choice = -1, -1
        most = self.weight(possible) * now
        parts = []
        for cell, hit in enumerate(self.by_cell):
            inside, outside = possible & hit, possible & ~hit
            if inside and outside:
                parts.append((-inside.bit_count(), cell, inside, outside))
        if episode == 0 and left == self.shots and possible == self.everything:
            parts = [part for part in parts if self._is_first(part[1])]
        self._work += len(parts)
        if self._work > WORK_LIMIT:
            raise TooLong
        parts.sort()
        for _, cell, inside, outside in parts:
            total = self.value(*self.state(inside, remain - (remain != LOST), left - 1, episode))
            if total + self.weight(outside) * now <= top:
                continue
            total += self.value(*self.state(outside, remain, left - 1, episode))
            if total > top:
                top, choice = total, cell
                if top == most:
                    break
        self.best[key] = top, choice
        return top

    def choose(self, possible: np.ndarray, remain: int, left: int, episode: int) -> int | None:
        """The cell to shoot at; None if one fleet is left, or the search takes too long."""
        fleets = sum([1 << int(number) for number in np.flatnonzero(possible)])
        state = self.state(fleets, remain, left, episode)
        try:
            self.value(*state)
        except TooLong:
            return None
        return self.best[state][1] if state in self.best else None

    def _is_first(self, cell: int) -> bool:
        """Whether a cell comes first among those that the board's symmetries make equal."""
        size = round(self.cells**0.5)
        row, column = divmod(cell, size)
        return column <= row <= (size - 1) // 2

    def curve(self) -> tuple[float, ...]:
        """Probability that each episode is won, under the best play from the start."""
        found = [0] * (self.episodes + 1)

        def walk(possible: int, remain: int, left: int, episode: int) -> None:
            if episode >= self.episodes or not possible:
                return
            if not possible & (possible - 1):
                found[episode if remain != LOST else episode + 1] += self.weight(possible)
                return
            self.value(possible, remain, left, episode)
            hit = self.by_cell[self.best[possible, remain, left, episode][1]]
            walk(*self.state(possible & hit, remain - (remain != LOST), left - 1, episode))
            walk(*self.state(possible & ~hit, remain, left - 1, episode))

        walk(*self.state(self.everything, self.ship_cells, self.shots, 0))
        whole = self.weight(self.everything)
        return tuple(sum(found[: n + 1]) / whole for n in range(self.episodes))


@lru_cache(maxsize=16)
def search(size: int, ships: tuple[int, ...], shots: int, episodes: int, free: int) -> Search | None:
    """The finished search for a trial's shape; None if it takes too long."""
    book = fleets(size, ships)
    if book is None or len(book.cells) > SEARCH_LIMIT:
        return None
    found = Search(size, book, shots, episodes, free)
    try:
        found.value(*found.state(found.everything, found.ship_cells, shots, 0))
    except TooLong:
        return None
    return found


def densest(
    size: int, ships: Sequence[int], hits: Collection[int], misses: Collection[int], shot: Collection[int]
) -> int:
    """The cell in the most places of single ships, those through known hits first. For fleets too many to list."""
    score = [0.0] * (size * size)
    for length in ships:
        for place in ship_places(size, length):
            if not any(cell in misses for cell in place):
                weight = 100.0 ** sum([cell in hits for cell in place])
                for cell in place:
                    score[cell] += weight
    fresh = [cell for cell in range(size * size) if cell not in shot]
    unsure = [cell for cell in fresh if cell not in hits]
    return max(unsure if len(hits) < sum(ships) and unsure else fresh, key=lambda cell: (cell in hits, score[cell]))
