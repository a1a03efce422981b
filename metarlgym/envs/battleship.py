"""Battleship: shoot at hidden ships; every shot is a hit or a miss. The fleet stays the same over the episodes.

There are too few shots to find all ships at once, so the search has to go on where the last episode stopped; a known
fleet is then shot without a miss. PAPRIKA (Tajwar et al. 2025, arXiv:2502.17543) trains on it with 5 x 5 or 6 x 6
cells, ships of 5, 4 and 2 and 20 shots.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from metarlgym.datatypes import JSON, ConfigError, Episode, Optimum, Step
from metarlgym.envs import battleship_solver as solver
from metarlgym.envs.boards import MOST_ROWS, CellGame, bounded, draw, exact, horizon, in_words
from metarlgym.whole_numbers import check_whole

MOST_SHIPS = 6
"""More ships are too many to be drawn quickly."""


class Battleship(CellGame):
    """One game. Hitting every cell of every ship in one episode pays 1 and ends it; ships may touch.

    Args:
        size: side of the board, 2 to 26.
        ships: lengths of the ships, 1 to 6 of them. All placements without overlap are equally likely.
        shots: turns of an episode, at least as many as ship cells.

    Raises:
        ConfigError: an argument is out of range, or the ships do not fit on the board.
    """

    uniform_tasks = True

    def __init__(self, size: int = 3, ships: Sequence[int] = (2,), shots: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = check_whole("size", size, 2, MOST_ROWS, ", the letters a to z")
        if not isinstance(ships, list | tuple) or not 1 <= len(ships) <= MOST_SHIPS:
            raise ConfigError(f"ships={ships!r} must be a list of 1 to {MOST_SHIPS} lengths, such as [3, 2].")
        self.ships = tuple([check_whole("a length in ships", length, 1, self.size) for length in ships])
        self.ship_cells = sum(self.ships)
        if next(solver.placements(self.size, self.ships), None) is None:
            raise ConfigError(f"ships={list(ships)} do not fit on a board of size={size}: make the board larger.")
        self.shots = self.max_turns = check_whole("shots", shots, self.ship_cells, why=", the number of ship cells")
        self._lay(self.size, self.size)

    def rules(self) -> str:
        if self.style == "terse":
            return "battleship"
        lengths = ", ".join(map(str, self.ships))
        ships = (
            f"{len(self.ships)} ships of {lengths} cells are"
            if len(self.ships) > 1
            else f"A ship of {lengths} cell{'s' if self.ship_cells > 1 else ''} is"
        )
        return (
            f"{ships} hidden on a board of {self.size} by {self.size} cells, at the same place in every episode. "
            f"{in_words(self.size, self.size)} A ship lies in one row or one column. In each episode you have "
            f"{self.shots} shot{'s' if self.shots > 1 else ''}. After each shot you are told whether it is a hit or a "
            "miss. Hitting all ship cells in one episode pays 1 point and ends the episode. Reply with one cell in "
            f"brackets, {self._quoted}."
        )

    def sample_task(self, rng: random.Random) -> JSON:
        return self._params(solver.random_placement(self.size, self.ships, rng))

    def all_tasks(self) -> Iterable[JSON] | None:
        placed = solver.listed(self.size, self.ships)
        return None if placed is None else [self._params(placement) for placement in placed]

    def on_reset(self, params: JSON, rng: random.Random) -> str:
        self._fleet = {self._places[cell] for ship in params["ships"] for cell in ship.split("-")}
        self._open = {}
        self._hits = 0
        return "" if self.style == "terse" else f"Which cell do you shoot at, {self._range}?"

    def on_step(self, action: str) -> Step:
        name = self.parse(action, self._places)
        cell = self._places.get(name)
        terse = self.style == "terse"
        if cell is None or cell in self._open:
            if terse:
                text = "invalid"
            elif cell is None:
                text = f"That is not one of the cells: the shot is lost. Reply with one cell, {self._quoted}."
            else:
                text = f"You have shot at {name} before in this episode: the shot is lost. Reply with another cell."
            return Step(text, 0.0, False, False, {"valid": False, "success": False})
        hit = self._open[cell] = cell in self._fleet
        self._hits += hit
        if self._hits == self.ship_cells:
            text = "hit won" if terse else f"{name} is a hit. All ship cells are hit! 1 point."
            return Step(text, 1.0, True, False, {"valid": True, "success": True})
        text = "hit" if hit else "miss"
        if not terse:
            text = f"{name} is a {text}." if self.turns_left else f"{name} is a {text}. No shots are left: 0 points."
        return Step(text, 0.0, False, False, {"valid": True, "success": False})

    def render(self) -> str | None:  # type: ignore[override]
        """The board: `x` is a hit, `o` a miss, `.` not shot at in this episode."""
        if self.render_mode != "ansi":
            return None
        marks = ["." if cell not in self._open else "x" if self._open[cell] else "o" for cell in range(self.size**2)]
        return draw(self.size, self.size, marks)

    def oracle(self, history: Sequence[Episode]) -> str:
        """The exact search where affordable; else the cell that most fleets fill."""
        for known in (history, history[-1:], ()):  # another task's episodes may contradict the current one
            hits, misses = self._recall(known)
            book = solver.fleets(self.size, self.ships)
            if not hits & misses and (book is None or book.possible(hits, misses).any()):
                break
        now, lost = self._recall(history[-1:])
        shot = now | lost
        if book is None:
            return self._write(solver.densest(self.size, self.ships, hits, misses, shot))
        possible = book.possible(hits, misses)
        left = self.shots - len(history[-1].turns)
        episode, *trial = horizon(self, history)
        plan = solver.search(self.size, self.ships, self.shots, *trial)
        cell = plan.choose(possible, self.ship_cells - len(now), left, episode) if plan else None
        return self._write(book.likeliest(possible, shot) if cell is None else cell)

    def optimal_returns(self, episodes: int, free_shots: int = 0) -> Optimum:
        """Exact where the search is affordable. Else every episode might be won; `lower` is what the oracle reaches."""
        plan = solver.search(self.size, self.ships, self.shots, episodes, free_shots)
        if plan is not None:
            return exact(plan.curve(), free_shots)
        if solver.fleets(self.size, self.ships) is None:
            return bounded((1.0,) * episodes, free_shots)
        return bounded((1.0,) * episodes, free_shots, type(self), (self.size, self.ships, self.shots))

    def no_memory_bound(self, episodes: int) -> float | None:
        plan = solver.search(self.size, self.ships, self.shots, 1, 0)
        return None if plan is None else episodes * plan.curve()[0]

    def _recall(self, episodes: Sequence[Episode]) -> tuple[set[int], set[int]]:
        """The hits and the misses in episodes."""
        hits: set[int] = set()
        misses: set[int] = set()
        for episode in episodes:
            for turn in episode.turns:
                if turn.valid:
                    cell = self._places[self.parse(turn.action, self._places)]
                    (hits if "hit" in turn.observation else misses).add(cell)
        return hits, misses

    def _params(self, placement: Sequence[Sequence[int]]) -> JSON:
        return {"ships": ["-".join([self._names[cell] for cell in ship]) for ship in placement]}
