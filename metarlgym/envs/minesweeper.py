"""Minesweeper: open every cell that is no mine. The mines stay the same over the episodes.

A mine ends the episode, but it is known from then on, and so are the numbers seen: later episodes repeat what was safe.
With `turns` and `first_click="safe"` it is the game of LaMer (ICLR 2026), there 6 x 6 cells with 3 mines and 7
turns: a mine under the first click of an episode moves to another cell, the same in all episodes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any, Literal

from metarlgym.datatypes import JSON, ConfigError, Episode, Optimum, Step
from metarlgym.envs import minesweeper_solver as solver
from metarlgym.envs.boards import MOST_ROWS, CellGame, bounded, draw, exact, horizon, in_words
from metarlgym.whole_numbers import check_whole

LIST_LIMIT = 20_000
"""Maximum number of tasks that `all_tasks` lists."""


class Minesweeper(CellGame):
    """One game. Opening the last safe cell pays 1; opening a mine ends the episode and pays nothing.

    Args:
        rows: 1 to 26.
        columns: at least 1.
        mines: at least 1, with at least one safe cell (two with an opening).
        opening: whether each episode begins with one safe cell open, the same in all episodes, drawn with the task.
        turns: turns of an episode, at least 1; default one for each cell.
        first_click: `any` may be a mine. If `safe`, a mine under the first click of an episode moves to a spare cell,
            which is part of the task.

    Raises:
        ConfigError: an argument is out of range, or an opening is combined with a safe first click.
    """

    uniform_tasks = True

    def __init__(
        self,
        rows: int = 4,
        columns: int = 4,
        mines: int = 2,
        opening: bool = False,
        turns: int | None = None,
        first_click: Literal["any", "safe"] = "any",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rows = check_whole("rows", rows, 1, MOST_ROWS, ", the letters a to z")
        self.columns = check_whole("columns", columns, 1)
        self._size = cells = self.rows * self.columns
        if not isinstance(opening, bool):
            raise ConfigError(f"opening={opening!r} must be true or false.")
        most = cells - 1 - opening
        if most < 1:
            raise ConfigError(f"rows={rows} and columns={columns} leave no room for a mine: make the board larger.")
        self.mines = check_whole("mines", mines, 1, most, f" on {cells} cells{' with an opening' if opening else ''}")
        if first_click not in ("any", "safe"):
            raise ConfigError(f"first_click={first_click!r} is not known: use 'any' or 'safe'.")
        if opening and first_click == "safe":
            raise ConfigError("first_click='safe' has no meaning with opening=True: leave one of them out.")
        self.max_turns = limit = cells if turns is None else check_whole("turns", turns, 1)
        self.opening, self.first_click, self.visible_task = opening, first_click, opening  # type: ignore[misc]
        self._moving = first_click == "safe"
        self._shape = solver.Shape(self.rows, self.columns, self.mines, opening, self._moving, limit)
        self._settings = rows, columns, mines, opening, turns, first_click
        self._lay(self.rows, self.columns)
        self._touching = solver.around(self.rows, self.columns)

    def rules(self) -> str:
        if self.style == "terse":
            return "minesweeper"
        mines = "1 mine is" if self.mines == 1 else f"{self.mines} mines are"
        first = " Each episode begins with the same safe cell open." if self.opening else ""
        if self._moving:
            first = " The first cell you open in an episode is never a mine: a mine there moves to another cell."
        return (
            f"{mines} hidden on a board of {self._size} cells, at the same place in every episode. "
            f"{in_words(self.rows, self.columns)} Open all {self._size - self.mines} cells that are no mine. An open "
            "cell shows how many mines touch it, also at its corners: a1=0 means none, and then all cells around a1 "
            f"open too.{first} Opening a mine ends the episode. Each episode has {self._shape.turns} "
            f"turn{'s' if self._shape.turns > 1 else ''}. Opening the last safe cell pays 1 point. Reply with one "
            f"closed cell in brackets, {self._quoted}."
        )

    def sample_task(self, rng: random.Random) -> JSON:
        *mines, other = rng.sample(range(self._size), self.mines + 1)
        return self._params(sorted(mines), other)

    def all_tasks(self) -> Iterable[JSON] | None:
        extra = self.opening or self._moving
        if self._shape.sets() * (self._size - self.mines if extra else 1) > LIST_LIMIT:
            return None
        sets = combinations(range(self._size), self.mines)
        if not extra:
            return [self._params(mines, 0) for mines in sets]
        return [self._params(mines, other) for mines in sets for other in range(self._size) if other not in mines]

    def on_reset(self, params: JSON, rng: random.Random) -> str:
        self._mines = {self._places[cell] for cell in params["mines"]}
        self._spare = self._places[params["spare"]] if self._moving else solver.NONE
        self._clicked = False
        self._exploded = solver.NONE
        self._open = {}
        if self.opening:
            cell = self._places[params["open"]]
            self._open[cell] = sum([other in self._mines for other in self._touching[cell]])
        told = self._tell(self._open)
        if self.style == "terse":
            return told
        told = f"Open: {told}. " if told else ""
        return f"{told}Which cell do you open, {self._range}?"

    def on_step(self, action: str) -> Step:
        name = self.parse(action, self._places)
        cell = self._places.get(name)
        terse = self.style == "terse"
        if cell is None or cell in self._open:
            if terse:
                text = "invalid"
            elif cell is None:
                text = f"That is not one of the cells: the turn is lost. Reply with one closed cell, {self._quoted}."
            else:
                text = f"{name} is open already: the turn is lost. Reply with a cell that is still closed."
            return Step(text, 0.0, False, False, {"valid": False, "success": False})
        if self._moving and not self._clicked and cell in self._mines:
            self._mines = self._mines - {cell} | {self._spare}
        self._clicked = True
        if cell in self._mines:
            self._exploded = cell
            text = "mine" if terse else f"{name} is a mine! The episode is over: 0 points."
            return Step(text, 0.0, True, False, {"valid": True, "success": False})
        new = solver.opened(self._touching, self._mines, cell)
        told = self._tell({other: new[other] for other in sorted(new) if other not in self._open})
        self._open |= new
        won = len(self._open) == self._size - self.mines
        if terse:
            return Step(f"{told} clear" if won else told, float(won), won, False, {"valid": True, "success": won})
        text = f"{name} is safe. Now open: {told}."
        if won:
            text += " All safe cells are open! 1 point."
        elif not self.turns_left:
            text += " No turns are left: 0 points."
        return Step(text, float(won), won, False, {"valid": True, "success": won})

    def render(self) -> str | None:  # type: ignore[override]
        """The board: numbers are open, `.` is closed, `*` the mine that was opened."""
        if self.render_mode != "ansi":
            return None
        marks = [str(self._open.get(cell, "*" if cell == self._exploded else ".")) for cell in range(self._size)]
        return draw(self.rows, self.columns, marks)

    def oracle(self, history: Sequence[Episode]) -> str:
        """The exact search where affordable; else the least likely mine."""
        told = [solver.recall(episode, self._places, self.parse) for episode in history]
        left = max(self._shape.turns - len(history[-1].turns), 1)
        return self._write(self._shape.decide(told, left, *horizon(self, history)))

    def optimal_returns(self, episodes: int, free_shots: int = 0) -> Optimum:
        """Exact where the search is affordable. Else an upper bound, as the very first click is a mine with probability
        mines / cells unless it is safe; `lower` is what the oracle reaches.
        """
        plan = solver.search(self._shape, episodes, free_shots)
        if plan is not None:
            return exact(plan.curve(self.opening), free_shots)
        first = 1.0 if self.opening or self._moving else 1 - self.mines / self._size
        scored = (type(self), self._settings) if self._shape.sets() <= solver.SCORE_LIMIT else ()
        return bounded((first, *[1.0] * (episodes - 1)), free_shots, *scored)

    def no_memory_bound(self, episodes: int) -> float | None:
        plan = solver.search(self._shape, 1, 0)
        return None if plan is None else episodes * plan.curve(self.opening)[0]

    def _tell(self, numbers: dict[int, int]) -> str:
        if self.style == "terse":
            return " ".join([f"{self._names[cell]} {number}" for cell, number in numbers.items()])
        return ", ".join([f"{self._names[cell]}={number}" for cell, number in numbers.items()])

    def _params(self, mines: Sequence[int], other: int) -> JSON:
        params: dict[str, Any] = {"mines": [self._names[cell] for cell in mines]}
        if self.opening or self._moving:
            params["open" if self.opening else "spare"] = self._names[other]
        return params
