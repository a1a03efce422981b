"""Sokoban: boards, the shortest solution by breadth-first search, and levels that can be solved in time.

A level is text as in the XSB format: `#` wall, ` `, `-` or `_` floor, `.` goal, `$` box, `*` box on a goal, `@` player,
`+` player on a goal. Moves are counted, and a push is a move.
"""

from __future__ import annotations

import math
import random
from collections import deque
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from metarlgym.datatypes import ConfigError

STATE_LIMIT = 300_000
"""Number of positions after which a search gives up; a second or two. Counted, not timed, so that the outcome is the
same everywhere.
"""
MIN_MOVES = 5
"""Moves of the shortest solution that a made level has at least, where the limit allows."""
WALL_CHANCE = 1 / 7
"""Chance of a wall in a cell inside a made level."""
ATTEMPTS = 500
"""Number of maps that are tried for a level."""
MOVES = ("up", "down", "left", "right")

Position = tuple[int, frozenset[int]]
"""The player's cell and those of the boxes."""


class Board(NamedTuple):
    """What does not move. Cells are numbered row by row; a wall surrounds the floor."""

    width: int
    height: int
    floor: frozenset[int]
    goals: frozenset[int]

    @property
    def steps(self) -> dict[str, int]:
        """What each move adds to the number of a cell."""
        return dict(zip(MOVES, (-self.width, self.width, -1, 1), strict=True))

    def move(self, position: Position, way: int) -> Position:
        """The position after a step; unchanged if a wall or a box that cannot be pushed is in the way."""
        player, boxes = position
        cell = player + way
        if cell not in self.floor:
            return position
        if cell in boxes:
            behind = cell + way
            if behind not in self.floor or behind in boxes:
                return position
            return cell, boxes - {cell} | {behind}
        return cell, boxes

    def before(self, position: Position, way: int) -> list[Position]:
        """The positions in which a step `way` leads to this one, other than blocked steps."""
        player, boxes = position
        origin = player - way
        if origin not in self.floor or origin in boxes:
            return []
        box = player + way
        return [(origin, boxes), (origin, boxes - {box} | {player})] if box in boxes else [(origin, boxes)]

    def draw(self, position: Position) -> list[str]:
        """The rows of the map."""
        player, boxes = position
        marks = []
        for cell in range(self.width * self.height):
            if cell not in self.floor:
                marks.append("#")
            elif cell in self.goals:
                marks.append("*" if cell in boxes else "+" if cell == player else ".")
            else:
                marks.append("$" if cell in boxes else "@" if cell == player else "-")
        return ["".join(marks[start : start + self.width]) for start in range(0, len(marks), self.width)]


@lru_cache(maxsize=4096)
def read(level: str) -> tuple[Board, Position]:
    """The board and the first position of a level.

    Raises:
        ConfigError: the text is no level.
    """
    rows = [row.rstrip() for row in level.strip("\n").split("\n")]
    width = max(map(len, rows))
    rows = [row.ljust(width, "#") for row in rows]
    if {*rows[0], *rows[-1], *(row[0] for row in rows), *(row[-1] for row in rows)} != {"#"}:
        width += 2
        rows = ["#" * width, *(f"#{row}#" for row in rows), "#" * width]
    text = "".join(rows)
    if unknown := sorted(set(text) - set("# -_.$*@+")):
        raise ConfigError(
            f"level has {unknown[0]!r}: use # for wall, - for floor, . for goal, $ for box, @ for player."
        )

    def cells(marks: str) -> frozenset[int]:
        return frozenset(cell for cell, mark in enumerate(text) if mark in marks)

    players, boxes, goals = cells("@+"), cells("$*"), cells(".*+")
    if len(players) != 1 or not boxes or len(boxes) != len(goals):
        raise ConfigError(
            f"level has {len(players)} players, {len(boxes)} boxes and {len(goals)} goals: draw one player, and as "
            "many goals as boxes."
        )
    return Board(width, len(rows), cells(" -_.$*@+"), goals), (min(players), boxes)


class TooLong(Exception):
    """The search has exceeded its limit."""


@lru_cache(maxsize=4096)
def solve(board: Board, position: Position) -> tuple[str, ...] | None:
    """The moves of a shortest solution; None if there is none.

    Raises:
        TooLong: there are more than `STATE_LIMIT` positions.
    """
    came: dict[Position, tuple[Position, str] | None] = {position: None}
    queue = deque([position])
    ways = board.steps.items()
    while queue:
        here = queue.popleft()
        if here[1] == board.goals:
            moves = []
            while (last := came[here]) is not None:
                here, name = last
                moves.append(name)
            return tuple(reversed(moves))
        for name, way in ways:
            after = board.move(here, way)
            if after not in came:
                came[after] = here, name
                queue.append(after)
        if len(came) > STATE_LIMIT:
            raise TooLong
    return None


def shortest(level: str) -> int | None:
    """Moves of the shortest solution of a level; None if there is none."""
    moves = solve(*read(level))
    return None if moves is None else len(moves)


def positions(size: int, boxes: int) -> int:
    """Number of positions in an empty room of `size` x `size` cells, walls included."""
    room = (size - 2) ** 2
    return room * math.comb(room, boxes)


def make_level(rng: random.Random, size: int, boxes: int, most: int) -> str:
    """A level of `size` x `size` cells, walls included, whose shortest solution has at most `most` moves.

    Walls and goals are drawn at random; then a search backward from the solved positions finds all those from which the
    level can be solved in time, and one of these is drawn.

    Raises:
        ConfigError: `ATTEMPTS` maps had no such position.
    """
    inside = [row * size + column for row in range(1, size - 1) for column in range(1, size - 1)]
    least = min(MIN_MOVES, most)
    for _ in range(ATTEMPTS):
        floor = [cell for cell in inside if rng.random() >= WALL_CHANCE]
        if len(floor) <= boxes:
            continue
        board = Board(size, size, frozenset(floor), frozenset(rng.sample(floor, boxes)))
        moves = _backward(board, most)
        if found := [position for position, number in moves.items() if number >= least]:
            return "\n".join(board.draw(rng.choice(found)))
    raise ConfigError(
        f"size={size}, boxes={boxes}: no level with a solution of {least} to {most} moves was found; make size larger, "
        "or boxes fewer, or allow more turns."
    )


def _backward(board: Board, most: int) -> dict[Position, int]:
    """The positions that can be solved within `most` moves, with the number of moves."""
    moves = {(cell, board.goals): 0 for cell in sorted(board.floor - board.goals)}
    queue = deque(moves)
    ways = list(board.steps.values())
    while queue:
        here = queue.popleft()
        number = moves[here] + 1
        if number > most:
            break
        for way in ways:
            for earlier in board.before(here, way):
                if earlier not in moves:
                    moves[earlier] = number
                    queue.append(earlier)
    return moves


@lru_cache(maxsize=256)
def check_size(size: int, boxes: int, most: int) -> None:
    """Nothing, if levels of this kind can be made.

    Raises:
        ConfigError: there are too many positions to search, or no such level was found.
    """
    if positions(size, boxes) > STATE_LIMIT:
        raise ConfigError(
            f"size={size}, boxes={boxes}: {positions(size, boxes)} positions are more than {STATE_LIMIT}, the most "
            "that are searched; make one of them smaller."
        )
    make_level(random.Random(0), size, boxes, most)


def onward(board: Board, start: Position, done: tuple[str, ...]) -> tuple[str, ...]:
    """The rest of a shortest solution after the moves `done`; empty if there is none."""
    whole = solve(board, start)
    if whole is not None and whole[: len(done)] == done:
        return whole[len(done) :]
    position = start
    for name in done:
        position = board.move(position, board.steps[name])
    return solve(board, position) or ()


@lru_cache(maxsize=256)
def check_level(level: str, most: int) -> None:
    """Nothing, if the level can be solved within `most` moves.

    Raises:
        ConfigError: it cannot, or the text is no level, or there are too many positions to search.
    """
    try:
        moves = shortest(level)
    except TooLong:
        raise ConfigError(f"level has more than {STATE_LIMIT} positions, the most that are searched.") from None
    if moves is None:
        raise ConfigError("level has no solution: change it.")
    if not 0 < moves <= most:
        raise ConfigError(f"level needs {moves} moves, and an episode has {most}: set turns, or change the level.")


def sequences(longest: int, most: int) -> list[tuple[str, ...]] | None:
    """All sequences of 1 to `longest` moves; None if there are more than `most`."""
    if longest > most or sum(len(MOVES) ** n for n in range(1, longest + 1)) > most:
        return None
    return [moves for n in range(1, longest + 1) for moves in product(MOVES, repeat=n)]
