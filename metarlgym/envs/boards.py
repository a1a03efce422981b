"""What the board games share: names of cells, drawings, and the score of their own oracle.

In all of them a cell is a letter and a number, such as a1: the letter is the row, from the top, and the number is the
column, from the left. Inside the programs a cell is its place in reading order, from 0.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from statistics import fmean, stdev
from string import ascii_lowercase
from typing import Any, cast

from metarlgym.datatypes import Episode, Optimum
from metarlgym.env import MOST_LISTED, Env
from metarlgym.trial import Trial

MOST_ROWS = 26
"""A row is one letter."""
BLIND_EPISODES = 3
"""Number of remaining episodes an oracle assumes if unknown, including the current one."""
SCORED = 100
"""Number of trials that measure an oracle where the optimum is out of reach."""


@lru_cache(maxsize=64)
def cell_names(rows: int, columns: int) -> tuple[str, ...]:
    """The names of all cells in reading order.

    >>> cell_names(2, 2)
    ('a1', 'a2', 'b1', 'b2')
    """
    return tuple([f"{row}{column + 1}" for row in ascii_lowercase[:rows] for column in range(columns)])


@lru_cache(maxsize=64)
def cell_places(rows: int, columns: int) -> Mapping[str, int]:
    """The place of each name in reading order."""
    return {name: place for place, name in enumerate(cell_names(rows, columns))}


def in_words(rows: int, columns: int) -> str:
    """The part of the rules that explains the names.

    >>> in_words(3, 4)
    'Rows are a to c from top to bottom, columns are 1 to 4 from left to right.'
    """
    row = f"Rows are a to {ascii_lowercase[rows - 1]} from top to bottom" if rows > 1 else "The row is a"
    column = f"columns are 1 to {columns} from left to right" if columns > 1 else "the column is 1"
    return f"{row}, {column}."


def draw(rows: int, columns: int, marks: Sequence[str]) -> str:
    """A board with one mark for each cell, and the names of rows and columns.

    >>> print(draw(2, 2, "x..x"))
      1 2
    a x .
    b . x
    """
    width = len(str(columns))
    lines = [" ".join([" ", *(str(column + 1).rjust(width) for column in range(columns))])]
    for row in range(rows):
        cells = marks[row * columns : (row + 1) * columns]
        lines.append(" ".join([ascii_lowercase[row], *(mark.rjust(width) for mark in cells)]))
    return "\n".join(lines)


class CellGame(Env):
    """A game whose actions are the cells of a board that are still closed."""

    action_words = 1

    def _lay(self, rows: int, columns: int) -> None:
        """Name the cells; for the constructor."""
        self._names, self._places = cell_names(rows, columns), cell_places(rows, columns)
        self._range = f"[{self._names[0]}] to [{self._names[-1]}]"
        self._quoted = f'"[{self._names[0]}]" to "[{self._names[-1]}]"'
        self._open: dict[int, int] = {}
        """The open cells of this episode, with what they show."""

    def random_action(self, rng: random.Random) -> str:
        while True:
            cell = rng.randrange(len(self._names))
            if cell not in self._open or len(self._open) == len(self._names):
                return self._write(cell)

    def legal_actions(self) -> Sequence[str] | None:
        if len(self._names) > MOST_LISTED:
            return None
        return [self._write(cell) for cell in range(len(self._names)) if cell not in self._open]

    def _write(self, cell: int) -> str:
        name = self._names[cell]
        return name if self.style == "terse" else f"[{name}]"


def horizon(env: Env, history: Sequence[Episode]) -> tuple[int, int, int]:
    """The number of the current episode, and the numbers of episodes and of free shots for which an oracle plans."""
    now = len(history) - 1
    return (now, env.horizon, env.horizon_free) if env.horizon > now else (0, BLIND_EPISODES, 0)


def oracle_score(game: type[Env], settings: tuple[Any, ...], episodes: int, free_shots: int) -> tuple[float, float]:
    """Mean and standard error of the counted return of the game's own oracle, over `SCORED` fixed tasks.

    `settings` are the game's arguments in order.
    """
    return _score(cast(Hashable, game), settings, episodes, free_shots)


@lru_cache(maxsize=64)
def _score(game: Hashable, settings: tuple[Any, ...], episodes: int, free_shots: int) -> tuple[float, float]:
    trial = Trial(cast(type[Env], game)(*settings, style="terse"), episodes, free_shots=free_shots)
    totals = []
    for number in range(SCORED):
        trial.reset(options={"task": trial.env.new_task("oracle score", number), "episode_seed": number})
        while trial.live:
            trial.step(trial.oracle(trial.history))
        totals.append(sum(trial.result()["returns"][free_shots:]))
    return fmean(totals), stdev(totals) / SCORED**0.5


def exact(curve: Sequence[float], free_shots: int) -> Optimum:
    """The optimum of which every episode is known."""
    return Optimum(sum(curve[free_shots:]), tuple(curve), "exact")


def bounded(
    curve: Sequence[float], free_shots: int, game: type[Env] | None = None, settings: tuple[Any, ...] = ()
) -> Optimum:
    """An upper bound for each episode. With a `game`, what its oracle scores is the lower bound of their sum."""
    total = sum(curve[free_shots:])
    if game is None:
        return Optimum(total, tuple(curve), "upper_bound")
    lower, se = oracle_score(game, settings, len(curve), free_shots)
    return Optimum(total, tuple(curve), "upper_bound", lower=min(lower, total), lower_se=se)
