"""Minesweeper: what a cell shows, the best play of several episodes, and an oracle for large boards.

The best play is a recursion over the set of boards that are still possible (one bit per board), the open cells, the
turns left and the episode. While turns cannot run out, a cell that is safe on every possible board is opened first: it
costs nothing and may tell something. Sets of cells are integers, one bit per cell.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np

from metarlgym.datatypes import Episode
from metarlgym.envs.maze_solver import neighbors

LIST_LIMIT = 60_000
"""Maximum number of sets of mines that are listed; 5 x 5 with 5 mines has 53,130."""
SEARCH_LIMIT = 2_000
"""Maximum number of boards that are searched."""
WORK_LIMIT = 2_000_000
"""Number of splits after which a search gives up; 5 to 10 seconds. Counted, not timed, so that the outcome is the same
everywhere.
"""
SCORE_LIMIT = 10_000
"""Number of sets of mines up to which the oracle is measured."""
SAMPLE = 12
"""Number of boards on which the oracle of large boards compares cells that are equally safe."""
NUMBER = re.compile(r"\b([a-z]\d+)[= ](\d)\b")
"""A cell with its number, in the texts of both styles."""
NONE = -1
"""No first click yet; no limit of turns."""


@lru_cache(maxsize=64)
def around(rows: int, columns: int) -> tuple[tuple[int, ...], ...]:
    """For each cell the up to eight cells that touch it."""
    grid = neighbors(rows, columns)
    found = []
    for up, down, left, right in grid:
        corners = [grid[row][side] for row in (up, down) if row >= 0 for side in (2, 3)]
        found.append(tuple(sorted(other for other in (up, down, left, right, *corners) if other >= 0)))
    return tuple(found)


def opened(touching: Sequence[Sequence[int]], mines: Collection[int], cell: int) -> dict[int, int]:
    """The safe cells that open with a safe `cell`, each with its number of touching mines; a 0 opens its neighbors."""
    numbers: dict[int, int] = {}
    queue = [cell]
    for here in queue:
        if here not in numbers:
            number = numbers[here] = sum([other in mines for other in touching[here]])
            if not number:
                queue += touching[here]
    return numbers


class Board(NamedTuple):
    """A task: the mines, and the cell that a mine moves to if it is the first click (NONE if none moves)."""

    mines: tuple[int, ...]
    spare: int = NONE

    def after(self, first: int) -> tuple[int, ...]:
        """The mines of an episode with this first click."""
        if self.spare == NONE or first not in self.mines:
            return self.mines
        return tuple(self.spare if cell == first else cell for cell in self.mines)


class Table:
    """What each cell shows on each board, given the first click."""

    def __init__(self, touching: Sequence[Sequence[int]], boards: Sequence[Board], first: int) -> None:
        cells = range(len(touching))
        self.mine = [0 for _ in cells]
        """For each cell the boards on which it is a mine."""
        self.shows: list[dict[int, int]] = [{} for _ in cells]
        """For each cell: its number -> the boards on which it is safe and has that number."""
        split: list[dict[tuple[tuple[int, int], ...], list[int]]] = [{} for _ in cells]
        for place, board in enumerate(boards):
            mines = set(board.after(first))
            for cell in cells:
                if cell in mines:
                    self.mine[cell] |= 1 << place
                    continue
                numbers = opened(touching, mines, cell)
                number = numbers[cell]
                self.shows[cell][number] = self.shows[cell].get(number, 0) | 1 << place
                part = split[cell].setdefault(tuple(sorted(numbers.items())), [0, sum([1 << c for c in numbers])])
                part[0] |= 1 << place
        self.split = [[(boards_, region) for boards_, region in parts.values()] for parts in split]
        """For each cell, by what opens with it: the boards, and the cells that open."""


class TooLong(Exception):
    """The search has exceeded its work limit."""


class Search:
    """The best play of `episodes` episodes on one of the boards, all equally likely; the first `free` do not count.

    Values are numbers of counted wins, summed over the boards of a set.
    """

    def __init__(self, shape: tuple[int, int], mines: int, moving: bool, turns: int, episodes: int, free: int) -> None:
        self.rows, self.columns = shape
        self.touching = around(*shape)
        self.cells = self.rows * self.columns
        self.safe = self.cells - mines
        self.moving = moving
        self.boards = all_boards(self.cells, mines, moving)
        self.everything = (1 << len(self.boards)) - 1
        self.turns, self.episodes = turns, episodes
        self.worth = [episodes - max(episode, free) for episode in range(episodes)] + [0]
        """Counted episodes from each one on: a win is repeated by the same clicks."""
        self.best: dict[tuple[int, ...], tuple[int, int]] = {}
        """State -> (value, cell to open or NONE)."""
        self._tables: dict[int, Table] = {}
        self._work = 0

    def table(self, first: int) -> Table:
        if not self.moving:
            first = NONE
        if first not in self._tables:
            self._tables[first] = Table(self.touching, self.boards, first)
        return self._tables[first]

    def begin(self, boards: int, base: int, episode: int) -> tuple[int, int, int, int, int, int]:
        """The state at the start of an episode in which the cells `base` are open."""
        return self.state(boards, base, base, NONE, self.turns, episode)

    def state(
        self, boards: int, base: int, open_cells: int, first: int, left: int, episode: int
    ) -> tuple[int, int, int, int, int, int]:
        """(boards, cells open at the start, cells open, first click, turns left, episode), what cannot matter left out:
        turns that cannot run out, and a first click that moves no mine.
        """
        if not left:
            return self.begin(boards, base, episode + 1)
        left = NONE if left == NONE or left >= self.safe - open_cells.bit_count() else left
        return boards, base, open_cells, first if self.moving else NONE, left, episode

    def parts(self, state: tuple[int, ...], cell: int) -> tuple[int, list[tuple[int, int]]]:
        """The boards on which a cell is a mine, and the others by what opens, each with the cells open then."""
        boards, _, open_cells, first, _, _ = state
        table = self.table(cell if first == NONE else first)
        return boards & table.mine[cell], [
            (part, open_cells | region) for seen, region in table.split[cell] if (part := boards & seen)
        ]

    def value(self, state: tuple[int, ...]) -> int:
        """The value of a state under the best play.

        Raises:
            TooLong: the work limit is reached.
        """
        boards, base, open_cells, first, left, episode = state
        if episode >= self.episodes or not boards:
            return 0
        known = self.best.get(state)
        if known is not None:
            return known[0]
        now, later = self.worth[episode], self.worth[episode + 1]
        size = boards.bit_count()
        if not self.moving and left == NONE and not boards & (boards - 1):
            return now
        options = []
        closed = [cell for cell in range(self.cells) if not open_cells >> cell & 1]
        if boards == self.everything and episode == 0 and open_cells == 0 and first == NONE:
            closed = self.corner()
        for cell in closed:
            boom, parts = self.parts(state, cell)
            if parts:
                bound = boom.bit_count() * later + (size - boom.bit_count()) * now
                options.append((-bound, -len(parts), cell, boom, parts))
                if not boom and left == NONE and (first != NONE or not self.moving):
                    options = options[-1:]  # free, as nothing is risked
                    break
        self._work += len(options) + len(closed)
        if self._work > WORK_LIMIT:
            raise TooLong
        options.sort()
        top, choice = NONE, NONE
        for bound, _, cell, boom, parts in options:
            if -bound <= top:
                break
            total = -bound
            if boom:
                total += self.value(self.begin(boom, base, episode + 1)) - boom.bit_count() * later
            for part, after in parts:
                if total <= top:
                    break
                if after.bit_count() < self.safe:
                    click = cell if first == NONE else first
                    rest = left if left == NONE else left - 1
                    total += self.value(self.state(part, base, after, click, rest, episode)) - part.bit_count() * now
            if total > top:
                top, choice = total, cell
        if choice == NONE:
            top = self.value(self.begin(boards, base, episode + 1))
        self.best[state] = top, choice
        return top

    def corner(self) -> list[int]:
        """One cell of each set that the board's symmetries make equal."""
        rows, columns = (self.rows + 1) // 2, (self.columns + 1) // 2
        return [
            row * self.columns + column
            for row in range(rows)
            for column in range(columns)
            if self.rows != self.columns or column <= row
        ]

    def openings(self, opening: bool) -> list[tuple[int, int]]:
        """The boards and the open cells with which a trial may begin; one start without an opening."""
        if not opening:
            return [(self.everything, 0)]
        return [(boards, 1 << cell) for cell in range(self.cells) for boards in self.table(NONE).shows[cell].values()]

    def curve(self, opening: bool) -> tuple[float, ...]:
        """Probability that each episode is won, under the best play from the start."""
        found = [0] * (self.episodes + 1)

        def walk(state: tuple[int, ...]) -> None:
            boards, base, _, first, left, episode = state
            if episode >= self.episodes or not boards:
                return
            self.value(state)
            if state not in self.best:
                found[episode] += boards.bit_count()
                return
            cell = self.best[state][1]
            if cell == NONE:
                walk(self.begin(boards, base, episode + 1))
                return
            boom, parts = self.parts(state, cell)
            walk(self.begin(boom, base, episode + 1))
            for part, after in parts:
                if after.bit_count() == self.safe:
                    found[episode] += part.bit_count()
                else:
                    rest = left if left == NONE else left - 1
                    walk(self.state(part, base, after, cell if first == NONE else first, rest, episode))

        whole = 0
        for boards, base in self.openings(opening):
            whole += boards.bit_count()
            walk(self.begin(boards, base, 0))
        return tuple(sum(found[: n + 1]) / whole for n in range(self.episodes))

    def choose(
        self, told: Sequence[Told], base: int, open_cells: int, first: int, left: int, episode: int
    ) -> int | None:
        """The cell to open after what the episodes told; None if no board is like that, or after too long a search."""
        boards = self.everything
        for seen in told:
            if seen.first == NONE and self.moving:
                continue
            table = self.table(seen.first)
            for cell, number in seen.numbers.items():
                boards &= table.shows[cell].get(number, 0)
            for cell in seen.mines:
                boards &= table.mine[cell]
        if not boards:
            return None
        state = self.state(boards, base, open_cells, first, left, episode)
        try:
            self.value(state)
        except TooLong:
            return None
        if state in self.best:
            return self.best[state][1]
        mines = self.boards[boards.bit_length() - 1].mines
        return next(cell for cell in range(self.cells) if cell not in mines and not open_cells >> cell & 1)


class Told(NamedTuple):
    """What an episode told."""

    first: int
    """The first click; NONE before it."""
    numbers: Mapping[int, int]
    """Cells that were open, with their numbers."""
    mines: Collection[int]
    base: int
    """The cells open at the start, a bit set."""


def recall(episode: Episode, places: Mapping[str, int], parse: Callable[[str, Container[str]], str]) -> Told:
    """What an episode told; `parse` finds the cell in an action."""
    first, mines = NONE, set()
    numbers = {places[name]: int(number) for name, number in NUMBER.findall(episode.opening)}
    base = sum([1 << cell for cell in numbers])
    for turn in episode.turns:
        if turn.valid:
            cell = places[parse(turn.action, places)]
            first = cell if first == NONE else first
            new = {places[name]: int(number) for name, number in NUMBER.findall(turn.observation)}
            numbers |= new
            if not new:
                mines.add(cell)
    return Told(first, numbers, mines, base)


def all_boards(cells: int, mines: int, moving: bool) -> list[Board]:
    """Every task without an opening, in order."""
    sets = combinations(range(cells), mines)
    if not moving:
        return [Board(chosen) for chosen in sets]
    return [Board(chosen, spare) for chosen in sets for spare in range(cells) if spare not in chosen]


class Shape(NamedTuple):
    """The settings of a game."""

    rows: int
    columns: int
    mines: int
    opening: bool
    moving: bool
    """Whether a mine under the first click moves."""
    turns: int

    @property
    def cells(self) -> int:
        return self.rows * self.columns

    def sets(self) -> int:
        """Number of sets of mines."""
        return comb(self.cells, self.mines)

    def decide(self, told: Sequence[Told], left: int, now: int, episodes: int, free: int) -> int:
        """The cell to open in episode `now`, where `told` are the episodes so far: by the search, else the least likely
        mine, after one and the same first click.
        """
        current = told[-1]
        plan = search(self, episodes, free)
        open_cells = sum([1 << cell for cell in current.numbers])
        for known in (told, told[-1:]):  # another task's episodes may contradict the current one
            cell = plan.choose(known, current.base, open_cells, current.first, left, now) if plan else None
            if cell is not None and cell != NONE:
                return cell
        if self.moving and current.first == NONE:
            return self.rows // 2 * self.columns + self.columns // 2
        scarce = left < self.cells - self.mines - len(current.numbers)
        for known in (told, told[-1:]):
            same = [seen for seen in known if seen.first == current.first or not self.moving]
            cell = likeliest((self.rows, self.columns), self.mines, same, current.numbers, scarce)
            if cell is not None:
                return cell
        return next(cell for cell in range(self.cells) if cell not in current.numbers)


@lru_cache(maxsize=16)
def search(shape: Shape, episodes: int, free: int) -> Search | None:
    """The finished search for a trial's shape; None if it takes too long."""
    if shape.sets() * (shape.cells - shape.mines if shape.moving else 1) > SEARCH_LIMIT:
        return None
    found = Search((shape.rows, shape.columns), shape.mines, shape.moving, shape.turns, episodes, free)
    try:
        for boards, base in found.openings(shape.opening):
            found.value(found.begin(boards, base, 0))
    except TooLong:
        return None
    return found


@lru_cache(maxsize=4)
def mine_sets(cells: int, mines: int) -> np.ndarray | None:
    """Every set of mines as a row of flags; None if they are too many to list."""
    if comb(cells, mines) > LIST_LIMIT:
        return None
    chosen = np.array(list(combinations(range(cells), mines)))
    flags = np.zeros((len(chosen), cells), bool)
    np.put_along_axis(flags, chosen, True, 1)
    return flags


def likeliest(
    shape: tuple[int, int], mines: int, told: Sequence[Told], open_cells: Collection[int], scarce: bool
) -> int | None:
    """The closed cell that is a mine on the fewest of the possible boards; where turns are `scarce`, of equally safe
    ones the cell that opens most. None if no board is like that.
    """
    touching = around(*shape)
    cells = len(touching)
    flags = mine_sets(cells, mines)
    safe = {cell for seen in told for cell in seen.numbers}
    bombs = {cell for seen in told for cell in seen.mines}
    numbers = {cell: number for seen in told for cell, number in seen.numbers.items()}
    closed = [cell for cell in range(cells) if cell not in open_cells]
    if flags is None:
        return _by_rules(touching, mines, numbers, bombs, closed)
    keep = np.ones(len(flags), bool)
    if safe:
        keep &= ~flags[:, list(safe)].any(1)
    if bombs:
        keep &= flags[:, list(bombs)].all(1)
    flags = flags[keep]
    for cell, number in numbers.items():
        if touching[cell]:
            flags = flags[flags[:, touching[cell]].sum(1) == number]
    if not len(flags):
        return None
    risk = flags.sum(0)
    least = min(risk[cell] for cell in closed)
    equal = [cell for cell in closed if risk[cell] == least]
    if not scarce or len(equal) == 1:
        return equal[0]
    sample = [set(np.flatnonzero(row).tolist()) for row in flags[:: max(1, len(flags) // SAMPLE)]]

    def opens(cell: int) -> int:
        return sum([len(opened(touching, bad, cell).keys() - open_cells) for bad in sample if cell not in bad])

    return max(equal, key=opens)


def _by_rules(
    touching: Sequence[Sequence[int]], mines: int, numbers: Mapping[int, int], bombs: Collection[int], closed: list[int]
) -> int:
    """A closed cell that the numbers prove safe, each alone or two together; else one with the least estimated risk."""
    proved, safe = set(bombs), set(numbers)
    for _ in range(len(touching)):
        before = len(proved), len(safe)
        rules = {}
        for cell, number in numbers.items():
            unsure = frozenset(other for other in touching[cell] if other not in safe and other not in proved)
            rules[unsure] = number - len([other for other in touching[cell] if other in proved])
        more = {b - a: rules[b] - rules[a] for a in rules for b in rules if a < b}
        for unsure, count in (*rules.items(), *more.items()):
            if count == 0:
                safe |= unsure
            elif count == len(unsure):
                proved |= unsure
        if (len(proved), len(safe)) == before:
            break
    risk = dict.fromkeys(closed, (mines - len(proved)) / max(1, len(touching) - len(proved) - len(safe)))
    for unsure, count in rules.items():
        for cell in unsure:
            if cell in risk:
                risk[cell] = max(risk[cell], count / len(unsure))
    return min(closed, key=lambda cell: -1.0 if cell in safe else 2.0 if cell in proved else risk[cell])
