"""Mazes: how they are drawn by lot, the best play of several episodes, and a bound.

The best play is a recursion over the set of mazes that are still possible, one bit per maze, the cell, the turns left
and the episode. Between two discoveries nothing is random, so a decision is the next cell to discover; the way there
runs through cells whose sides are known already.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations, repeat
from string import ascii_lowercase
from typing import NamedTuple

import numpy as np

from metarlgym.datatypes import ConfigError, Episode

TREES_LISTED = 1000
"""Maximum number of spanning trees that are listed; 3 x 3 has 192, 3 x 4 has 2,415."""
WORK_LIMIT = 300_000
"""Number of states after which a search gives up; 5 to 10 seconds. Counted, not timed, so that the outcome is the same
everywhere.
"""
PATHS_LIMIT = 20_000
"""Number of paths up to which the bound is computed; above, it is 1 an episode."""
WALL_SHARE = 0.35
"""Probability that a cell of a block maze is a wall."""

SIDES = re.compile(r"\b([a-z]\d+)(?:\. Open sides:)?((?:,? (?:up|down|left|right)\b)+)")
GOAL = re.compile(r"\bgoal (?:is )?([a-z]\d+)|\b([a-z]\d+)(?:\. This is the)? goal\b")
"""A cell with its open sides, and the goal, in the texts of both styles."""

Edge = tuple[int, int]


class World(NamedTuple):
    """A maze with its start and goal."""

    sides: tuple[int, ...]
    """For each cell the open sides, a bit set in the order up, down, left, right."""
    start: int
    goal: int


@lru_cache(maxsize=64)
def neighbors(rows: int, columns: int) -> tuple[tuple[int, int, int, int], ...]:
    """For each cell the cells up, down, left and right of it; -1 is outside."""
    return tuple(
        [
            (
                cell - columns if cell >= columns else -1,
                cell + columns if cell < (rows - 1) * columns else -1,
                cell - 1 if cell % columns else -1,
                cell + 1 if (cell + 1) % columns else -1,
            )
            for cell in range(rows * columns)
        ]
    )


def open_sides(rows: int, columns: int, passages: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """The open sides of each cell."""
    sides = [0] * (rows * columns)
    for a, b in passages:  # a before b in reading order
        down = b - a == columns
        sides[a] |= 2 if down else 8
        sides[b] |= 1 if down else 4
    return tuple(sides)


def passages_of(grid: Sequence[Sequence[int]], sides: Sequence[int]) -> list[Edge]:
    """The passages that make these open sides, in order."""
    found = [(a, grid[a][side]) for a, bits in enumerate(sides) for side in (1, 3) if bits >> side & 1]
    return sorted(found)


def random_tree(rows: int, columns: int, rng: random.Random) -> list[Edge]:
    """A uniform spanning tree of the grid (Wilson 1996, "Generating random spanning trees more quickly than the cover
    time").
    """
    around = [[other for other in others if other >= 0] for others in neighbors(rows, columns)]
    inside = [False] * len(around)
    inside[0] = True
    after = [0] * len(around)
    tree = []
    for first in range(1, len(around)):
        cell = first
        while not inside[cell]:
            after[cell] = cell = rng.choice(around[cell])
        cell = first
        while not inside[cell]:
            inside[cell] = True
            tree.append((cell, after[cell]) if cell < after[cell] else (after[cell], cell))
            cell = after[cell]
    return sorted(tree)


def random_blocks(rows: int, columns: int, rng: random.Random, start: int | None) -> tuple[list[Edge], int, int, int]:
    """Passages, start, farthest cell and the way to it in a maze whose cells are walls or free, loops allowed.

    Each cell is a wall by chance. The start is a random free cell, or the cell given; passages lead through the cells
    that can be reached from it.
    """
    grid = neighbors(rows, columns)
    free = [cell == start or rng.random() >= WALL_SHARE for cell in range(len(grid))]
    if start is None:
        start = rng.choice([cell for cell in range(len(grid)) if free[cell]] or [0])
    away = {start: 0}
    queue = [start]
    for cell in queue:
        for other in grid[cell]:
            if other >= 0 and free[other] and other not in away:
                away[other] = away[cell] + 1
                queue.append(other)
    most = max(away.values())
    goal = rng.choice([cell for cell in queue if away[cell] == most])
    passages = [(a, b) for a in sorted(away) for b in grid[a] if b > a and b in away]
    return passages, start, goal, most


def far_blocks(
    rows: int, columns: int, start: str, turns: int, rng: random.Random, tries: int | None = None
) -> tuple[list[Edge], int, int]:
    """Passages, start and goal of the first block maze whose way to the goal takes `turns` - 2 or `turns` - 1 moves.

    Raises:
        ConfigError: it is not among the first `tries` draws.
    """
    for _ in range(tries) if tries else repeat(None):
        passages, first, goal, way = random_blocks(rows, columns, rng, 0 if start == "first" else None)
        if way and way in (turns - 2, turns - 1):
            return passages, first, goal
    raise ConfigError(
        f"turns={turns} does not fit layout='blocks' with rows={rows} and columns={columns}: no maze whose way has "
        f"{turns - 2} or {turns - 1} moves was found. Change turns, or the size."
    )


def _laplacian(rows: int, columns: int) -> np.ndarray:
    grid = neighbors(rows, columns)
    matrix = np.zeros((len(grid), len(grid)))
    for cell, others in enumerate(grid):
        for other in others:
            if other >= 0:
                matrix[cell, cell] += 1
                matrix[cell, other] -= 1
    return matrix


def tree_count(rows: int, columns: int) -> float:
    """Number of spanning trees of the grid (matrix-tree theorem)."""
    return float(np.linalg.det(_laplacian(rows, columns)[1:, 1:]))


@lru_cache(maxsize=16)
def all_trees(rows: int, columns: int) -> tuple[tuple[Edge, ...], ...] | None:
    """Every spanning tree of the grid; None if they are too many to list."""
    cells = rows * columns
    if cells > 2 * 26 or tree_count(rows, columns) > TREES_LISTED + 0.5:
        return None
    edges = [(a, b) for a, others in enumerate(neighbors(rows, columns)) for b in others if b > a]
    found = []
    for tree in combinations(sorted(edges), cells - 1):
        part = list(range(cells))
        for a, b in tree:
            if part[a] == part[b]:
                break
            old, new = part[a], part[b]
            part = [new if label == old else label for label in part]
        else:
            found.append(tree)
    return tuple(found)


@lru_cache(maxsize=64)
def known_map_bound(rows: int, columns: int, turns: int, episodes: int) -> float:
    """Upper bound on the return of `episodes` episodes in a spanning tree, from the first cell to the last: what a
    player with a map wins, the probability that the way takes at most `turns` turns.

    A path is part of a uniform spanning tree with probability det(L without the path) / det(L without the goal), where
    L is the grid's Laplacian.
    """
    grid, matrix = neighbors(rows, columns), _laplacian(rows, columns)
    goal = rows * columns - 1
    away = [(rows - 1 - cell // columns) + (columns - 1 - cell % columns) for cell in range(goal + 1)]
    paths: list[tuple[int, ...]] = []
    stack: list[tuple[int, ...]] = [(0,)]
    work = 0
    while stack:
        path = stack.pop()
        work += 1
        if work > PATHS_LIMIT:
            return float(episodes)
        if path[-1] == goal:
            paths.append(path)
            continue
        stack += [(*path, b) for b in grid[path[-1]] if b >= 0 and b not in path and len(path) + away[b] <= turns]
    whole = np.linalg.det(matrix[:goal, :goal])
    probability = 0.0
    for path in paths:
        rest = [cell for cell in range(goal) if cell not in path]
        probability += float(np.linalg.det(matrix[np.ix_(rest, rest)]) / whole)
    return episodes * min(probability, 1.0)


class TooLong(Exception):
    """The search has exceeded its work limit."""


class Search:
    """The best play of `episodes` episodes in one of the `worlds`, all equally likely; the first `free` do not count.

    Values are numbers of counted wins, summed over the worlds of a set.
    """

    def __init__(
        self, rows: int, columns: int, worlds: list[World], goal_known: bool, turns: int, episodes: int, free: int
    ) -> None:
        self.grid = neighbors(rows, columns)
        self.worlds = worlds
        self.turns, self.episodes = turns, episodes
        self.worth = [episodes - max(episode, free) for episode in range(episodes)] + [0]
        """Counted episodes from each one on: a tree has one way to the goal, so a win is repeated."""
        self.by_sides: list[dict[int, int]] = [{} for _ in self.grid]
        """For each cell: open sides -> the worlds that have them."""
        self.by_goal = [0] * len(self.grid)
        self.by_start = [0] * len(self.grid)
        self.first: dict[tuple[int, int | None, int], int] = {}
        """(start, goal if known, sides of the start) -> the worlds in which an episode begins like this."""
        for number, world in enumerate(worlds):
            for cell, sides in enumerate(world.sides):
                self.by_sides[cell][sides] = self.by_sides[cell].get(sides, 0) | 1 << number
            self.by_goal[world.goal] |= 1 << number
            self.by_start[world.start] |= 1 << number
            key = world.start, world.goal if goal_known else None, world.sides[world.start]
            self.first[key] = self.first.get(key, 0) | 1 << number
        self.best: dict[tuple[int, int, int, int], tuple[int, int]] = {}
        """(worlds, cell, turns left, episode) -> (value, cell to discover next, or -1)."""
        self._targets: dict[tuple[int, int], dict[int, tuple[int, int]]] = {}

    def targets(self, worlds: int, cell: int) -> dict[int, tuple[int, int]]:
        """The cells that can be discovered next, each with the number of moves and the first cell on the way."""
        found = self._targets.get((worlds, cell))
        if found is None:
            found = {}
            sample = self.worlds[worlds.bit_length() - 1].sides
            ways = {cell: (0, cell)}
            queue = [cell]
            for here in queue:
                away, first = ways[here]
                for side, other in enumerate(self.grid[here]):
                    if sample[here] >> side & 1 and other not in ways:
                        ways[other] = away + 1, other if here == cell else first
                        if worlds & ~self.by_sides[other][sample[other]] or worlds & self.by_goal[other]:
                            found[other] = ways[other]
                        else:
                            queue.append(other)
            self._targets[worlds, cell] = found
        return found

    def arrivals(self, worlds: int, cell: int) -> tuple[int, list[int]]:
        """The worlds that are won by entering a cell, and the others split by what is seen there."""
        rest = worlds & ~self.by_goal[cell]
        return worlds & self.by_goal[cell], [part for seen in self.by_sides[cell].values() if (part := rest & seen)]

    def next_episode(self, worlds: int, episode: int) -> int:
        start = self.worlds[worlds.bit_length() - 1].start
        return self.value(worlds, start, self.turns, episode + 1)

    def value(self, worlds: int, cell: int, left: int, episode: int) -> int:
        """The value of a set of worlds with `left` turns left, under the best play from here.

        Raises:
            TooLong: the work limit is reached.
        """
        if episode >= self.episodes:
            return 0
        key = worlds, cell, left, episode
        known = self.best.get(key)
        if known is not None:
            return known[0]
        if len(self.best) > WORK_LIMIT:
            raise TooLong
        top, choice = -1, -1
        most = worlds.bit_count() * self.worth[episode]
        for target, (away, _) in self.targets(worlds, cell).items():
            if away > left or top == most:
                continue
            won, parts = self.arrivals(worlds, target)
            total = won.bit_count() * self.worth[episode]
            for part in parts:
                total += self.after(part, target, left - away, episode)
            if total > top:
                top, choice = total, target
        if choice < 0:
            top = self.next_episode(worlds, episode)
        self.best[key] = top, choice
        return top

    def after(self, worlds: int, cell: int, left: int, episode: int) -> int:
        """The value after a discovery."""
        return self.value(worlds, cell, left, episode) if left else self.next_episode(worlds, episode)

    def step(self, seen: Seen, left: int, episode: int) -> int | None:
        """The next cell of the best play, from what has been seen; None if no world is like that, or after too long."""
        worlds, cell = self.by_start[seen.start], seen.cell
        for here, sides in seen.sides.items():
            worlds &= self.by_sides[here].get(sides, 0) & ~self.by_goal[here]
        if seen.goal is not None:
            worlds &= self.by_goal[seen.goal]
        if not worlds:
            return None
        try:
            self.value(worlds, cell, left, episode)
        except TooLong:
            return None
        target = self.best[worlds, cell, left, episode][1]
        if target < 0:  # nothing can be gained in this episode any more
            return next(other for side, other in enumerate(self.grid[cell]) if seen.sides[cell] >> side & 1)
        return self.targets(worlds, cell)[target][1]

    def curve(self) -> tuple[float, ...]:
        """Probability that each episode is won, under the best play from the start."""
        found = [0] * self.episodes

        def walk(worlds: int, cell: int, left: int, episode: int) -> None:
            if not left:
                cell, left, episode = self.worlds[worlds.bit_length() - 1].start, self.turns, episode + 1
            if episode >= self.episodes:
                return
            self.value(worlds, cell, left, episode)
            target = self.best[worlds, cell, left, episode][1]
            if target < 0:
                walk(worlds, cell, 0, episode)
                return
            won, parts = self.arrivals(worlds, target)
            found[episode] += won.bit_count()
            for part in parts:
                walk(part, target, left - self.targets(worlds, cell)[target][0], episode)

        for (start, _, _), worlds in self.first.items():
            walk(worlds, start, self.turns, 0)
        return tuple(sum(found[: n + 1]) / len(self.worlds) for n in range(self.episodes))


@lru_cache(maxsize=16)
def search(
    rows: int, columns: int, goal_known: bool, start: str, turns: int, episodes: int, free: int
) -> Search | None:
    """The finished search for a trial's shape in a spanning tree; None if it takes too long."""
    worlds = tree_worlds(rows, columns, goal_known, start)
    if worlds is None:
        return None
    found = Search(rows, columns, worlds, goal_known, turns, episodes, free)
    try:
        for (first, _, _), possible in found.first.items():
            found.value(possible, first, turns, 0)
    except TooLong:
        return None
    return found


@lru_cache(maxsize=16)
def tree_worlds(rows: int, columns: int, goal_known: bool, start: str) -> list[World] | None:
    """Every maze of the `tree` layout with its starts and goals; None if they are too many to list."""
    trees = all_trees(rows, columns)
    if trees is None:
        return None
    last = rows * columns - 1
    ends = [
        (first, goal)
        for first in (range(last + 1) if start == "random" else [0])
        for goal in ([last] if goal_known else range(last + 1))
        if first != goal
    ]
    return [World(open_sides(rows, columns, tree), first, goal) for tree in trees for first, goal in ends]


class Seen(NamedTuple):
    """What episodes have told."""

    start: int
    cell: int
    """Where the player is."""
    sides: Mapping[int, int]
    """The open sides of the cells entered."""
    goal: int | None
    """The goal, if known."""
    agree: bool
    """Whether the episodes can be of one maze."""


def recall(episodes: Sequence[Episode], places: Mapping[str, int], moves: Sequence[str], goal: int | None) -> Seen:
    """What the episodes have told; `goal` is the one that the rules name."""
    start = cell = 0
    seen: dict[int, int] = {}
    agree = True
    for episode in episodes:
        for text in (episode.opening, *[turn.observation for turn in episode.turns if turn.valid]):
            if told := GOAL.search(text):
                place = places[told[1] or told[2]]
                agree &= goal in (None, place) and place not in seen
                goal = place
            if found := SIDES.search(text):
                cell = places[found[1]]
                sides = sum([1 << side for side, move in enumerate(moves) if move in found[2]])
                agree &= seen.get(cell, sides) == sides and cell != goal
                seen[cell] = sides
                start = cell if text is episode.opening else start
    return Seen(start, cell, seen, goal, agree)


def decide(rows: int, columns: int, plan: Search | None, recalled: Sequence[Seen], left: int, episode: int) -> int:
    """The next cell, by what all episodes told or, if another task's episodes contradict it, by the current one; along
    the shortest way that may be open where there is no plan.
    """
    for seen in recalled:
        if not seen.agree:
            continue
        if plan is None:
            break
        step = plan.step(seen, left, episode)
        if step is not None:
            return step
    return route(rows, columns, seen.sides, seen.cell, seen.goal, left)


def route(rows: int, columns: int, seen: Mapping[int, int], cell: int, goal: int | None, left: int) -> int:
    """The next cell on a way that takes unseen sides for open: to the goal if it can still be reached within `left`
    turns, else to the nearest cell not seen. For mazes too large to search.
    """
    grid = neighbors(rows, columns)
    before = {cell: cell}
    away = {cell: 0}
    queue = [cell]
    nearest = None
    for here in queue:
        if nearest is None and here not in seen and here != goal:
            nearest = here
        for side, other in enumerate(grid[here]):
            if other < 0 or other in away or not seen.get(here, 15) >> side & 1:
                continue
            if other in seen and not seen[other] >> (side ^ 1) & 1:
                continue
            before[other], away[other] = here, away[here] + 1
            queue.append(other)
    target = goal if goal in away and (away[goal] <= left or nearest is None) else nearest
    if target is None:
        return queue[1] if len(queue) > 1 else cell
    while before[target] != cell:
        target = before[target]
    return target


def draw_maze(rows: int, columns: int, sides: Sequence[int], seen: Collection[int], cell: int, goal: int) -> str:
    """A drawing of the cells seen, their open and closed sides and a known goal."""

    def wall(a: int, side: int, mark: str) -> str:
        b = grid[a][side]
        if b < 0:
            return mark
        if a not in seen and b not in seen:
            return "?"
        return " " if sides[a] >> side & 1 else mark

    grid = neighbors(rows, columns)
    lines = ["   " + "".join([f" {column + 1}".ljust(4) for column in range(columns)]).rstrip()]
    for row in range(rows):
        cells = range(row * columns, (row + 1) * columns)
        lines.append("  +" + "".join([wall(a, 0, "-") * 3 + "+" for a in cells]))
        marks = ["@" if a == cell else "G" if a == goal else " " if a in seen else "?" for a in cells]
        line = "".join([f" {mark} {wall(a, 3, '|')}" for a, mark in zip(cells, marks, strict=True)])
        lines.append(f"{ascii_lowercase[row]} |{line}")
    return "\n".join([*lines, "  +" + "---+" * columns])
