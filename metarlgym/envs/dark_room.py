"""Dark room: a grid with an invisible goal cell that is only found by stepping on it.

Every step that ends on the goal pays, so the first episodes are a search and the later ones a direct walk to the goal
(Laskin et al. 2022, Algorithm Distillation, arXiv:2210.14215; there 9 x 9 with 20 steps).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from metarlgym.datatypes import JSON, Episode, Optimum, Step
from metarlgym.env import Env
from metarlgym.envs.wording import choices
from metarlgym.whole_numbers import check_whole

MOVES = {"up": (0, 1), "down": (0, -1), "left": (-1, 0), "right": (1, 0), "stay": (0, 0)}
EXACT_SIZE = 3
"""Largest side length whose optimum is computed; the recursion runs over all sets of visited cells."""
BLIND_EPISODES = 3
"""Number of remaining episodes the oracle assumes if unknown, including the current one."""

Cell = tuple[int, int]


class DarkRoom(Env):
    """One walk of `steps` steps from the center of a `size` x `size` grid. The goal is any other cell.

    Args:
        size: side of the grid, at least 2. With an even side the start is up and right of the center.
        steps: turns of an episode, at least 1; default twice the side, so that every cell can be reached (a corner is
            at most `size` away) and a 3 x 3 room takes more than one episode to search. Classical: 9 with 20.
    """

    action_words = 1
    uniform_tasks = True

    def __init__(self, size: int = 3, steps: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size = check_whole("size", size, 2)
        self.steps = self.max_turns = 2 * size if steps is None else check_whole("steps", steps, 1)
        self._start = (size // 2, size // 2)

    def rules(self) -> str:
        if self.style == "terse":
            return "room"
        start = self._start[0] + 1
        return (
            f"You walk in a dark room of {self.size} by {self.size} cells, with x and y from 1 to {self.size}. One "
            "cell is the goal. You cannot see it, and it is the same cell in every episode. Each episode begins at "
            f"x={start}, y={start}, which is not the goal, and has {self.steps} step{'s' if self.steps > 1 else ''}: "
            "right makes x larger, left makes x smaller, up makes y larger, down makes y smaller; a wall stops you. "
            "Every step that ends on the goal pays 1 point, even if you just stay there. "
            f"Reply {choices(0, *MOVES, quoted=True)}."
        )

    def sample_task(self, rng: random.Random) -> JSON:
        return {"goal": rng.choice(self._goals())}

    def all_tasks(self) -> Iterable[JSON]:
        return [{"goal": goal} for goal in self._goals()]

    def on_reset(self, params: JSON, rng: random.Random) -> str:
        x, y = params["goal"]
        self._goal = (x, y)
        self._cell = self._start
        self._reached = False
        place = self._describe()
        return place if self.style == "terse" else f"You are at {place}. Which move: {choices(0, *MOVES)}?"

    def on_step(self, action: str) -> Step:
        move = self.parse(action, MOVES)
        if move not in MOVES:
            replies = choices(0, *MOVES, quoted=True)
            text = (
                "invalid"
                if self.style == "terse"
                else f"That is not one of the moves: the step is lost. Reply {replies}."
            )
            return Step(text, 0.0, False, False, {"valid": False, "success": self._reached})
        self._cell = self._after(self._cell, move)
        on_goal = self._cell == self._goal
        self._reached = self._reached or on_goal
        text = self._describe()
        if self.style == "terse":
            text += " goal" if on_goal else ""
        else:
            found = "This is the goal: 1 point." if on_goal else "Nothing here: 0 points."
            text = f"Move {move}: you are at {text}. {found}"
        return Step(text, float(on_goal), False, False, {"valid": True, "success": self._reached})

    def random_action(self, rng: random.Random) -> str:
        return self._write(rng.choice(list(MOVES)))

    def legal_actions(self) -> Sequence[str]:
        return [self._write(move) for move in MOVES]

    def oracle(self, history: Sequence[Episode]) -> str:
        """Goes to the goal once it has been seen. Before that, up to 3 x 3, the optimal search; in larger rooms a sweep
        that always goes to the nearest unvisited cell.
        """
        goal, visited = None, {self._start}
        cell = self._start
        for episode in history:
            cell = self._start
            for turn in episode.turns:
                if turn.valid:
                    cell = self._after(cell, self.parse(turn.action, MOVES))
                    visited.add(cell)
                    if turn.reward > 0:
                        goal = cell
                    elif cell == goal:  # revealed by another task's episodes
                        goal = None
        if goal is not None:
            return self._toward(cell, goal)
        if self.size <= EXACT_SIZE:
            episode_now = len(history) - 1
            known = self.horizon > episode_now
            plan = _search(
                self.size, self.steps, *((self.horizon, self.horizon_free) if known else (BLIND_EPISODES, 0))
            )
            step = (episode_now if known else 0) * self.steps + len(history[-1].turns)
            if step < len(plan.moves):
                mask = sum(1 << self._place(c) for c in visited)
                return self._write(list(MOVES)[plan.moves[step][self._place(cell), mask]])
        cells = ((x, y) for x in range(self.size) for y in range(self.size))
        fresh = [c for c in cells if c not in visited]
        if not fresh:
            return self._write("stay")

        def cost(target: Cell) -> tuple[int, int, Cell]:
            # Among equally near cells, take the one with the fewest open neighbors, so that no isolated cell is left
            # behind.
            neighbors = {self._after(target, move) for move in MOVES} - visited - {target}
            return _distance(cell, target), len(neighbors), target

        return self._toward(cell, min(fresh, key=cost))

    def optimal_returns(self, episodes: int, free_shots: int = 0) -> Optimum:
        """Exact up to 3 x 3, else an upper bound: before episode n at most (n - 1) steps cells have been searched, each
        step finds at most one more, and the nearest cells are assumed to be searched first.
        """
        if self.size <= EXACT_SIZE:
            curve = _search(self.size, self.steps, episodes, free_shots).curve
            return Optimum(sum(curve[free_shots:]), curve, "exact")
        curve = _bound(self.size, self.steps, episodes)
        return Optimum(sum(curve[free_shots:]), curve, "upper_bound")

    def no_memory_bound(self, episodes: int) -> float | None:
        return episodes * _search(self.size, self.steps, 1, 0).curve[0] if self.size <= EXACT_SIZE else None

    def _goals(self) -> list[list[int]]:
        return [[x, y] for x in range(self.size) for y in range(self.size) if (x, y) != self._start]

    def _after(self, cell: Cell, move: str) -> Cell:
        return _step(self.size, cell, move)

    def _place(self, cell: Cell) -> int:
        return cell[0] * self.size + cell[1]

    def _toward(self, cell: Cell, target: Cell) -> str:
        (x, y), (to_x, to_y) = cell, target
        if x != to_x:
            return self._write("right" if to_x > x else "left")
        return self._write("stay" if y == to_y else "up" if to_y > y else "down")

    def _describe(self) -> str:
        x, y = self._cell[0] + 1, self._cell[1] + 1
        return f"x{x}y{y}" if self.style == "terse" else f"x={x}, y={y}"

    def _write(self, move: str) -> str:
        return move if self.style == "terse" else f"[{move}]"


def _step(size: int, cell: Cell, move: str) -> Cell:
    dx, dy = MOVES[move]
    x, y = cell[0] + dx, cell[1] + dy
    return (x, y) if 0 <= x < size and 0 <= y < size else cell


def _distance(a: Cell, b: Cell) -> int:
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def _walks(size: int, steps: int) -> list[int]:
    """Return of an episode for each known goal, best first: it pays from the step of arrival."""
    start = (size // 2, size // 2)
    cells = [(x, y) for x in range(size) for y in range(size) if (x, y) != start]
    return sorted((max(0, steps - _distance(start, c) + 1) for c in cells), reverse=True)


def _bound(size: int, steps: int, episodes: int) -> tuple[float, ...]:
    """Upper bound on any learner's return in each episode."""
    walks = _walks(size, steps)
    known = [0]  # return with the best `a` goals known, 0 for the others
    for walk in walks:
        known.append(known[-1] + walk)
    finds = [0]  # maximum gain from `b` goals found in this very episode
    for step in range(min(steps, len(walks))):
        finds.append(finds[-1] + steps - step)
    curve = []
    for episode in range(episodes):
        most = min(episode * steps, len(walks))
        best = max(known[a] + finds[min(steps, len(walks) - a)] for a in range(most + 1))
        curve.append(min(best, known[-1]) / len(walks))
    return tuple(curve)


class _Search(NamedTuple):
    curve: tuple[float, ...]
    moves: list[np.ndarray]
    """For each step of the trial, `[cell, visited]`: the best move while the goal has not been found."""


@cache
def _search(size: int, steps: int, episodes: int, free: int) -> _Search:
    """The best search path: nothing is random until the goal is found, so a policy is a path over all episodes.

    If a cell first visited at step k of episode e is the goal, its value is the rest of this episode and a direct walk
    in every later one. The recursion over (step, cell, visited cells) maximizes the sum of these values over all cells;
    they are integers, so ties are exact.
    """
    cells = [(x, y) for x in range(size) for y in range(size)]
    place = {cell: i for i, cell in enumerate(cells)}
    start = (size // 2, size // 2)
    masks = np.arange(1 << len(cells))
    walk = [max(0, steps - _distance(start, cell) + 1) for cell in cells]
    to = [[place[_step(size, cell, move)] for move in MOVES] for cell in cells]

    def worth(step: int, cell: int) -> int:
        episode, k = divmod(step, steps)
        return (steps - k) * (episode >= free) + walk[cell] * (episodes - max(episode + 1, free))

    value = np.zeros((len(cells), len(masks)), np.int64)
    moves: list[np.ndarray] = []
    for step in reversed(range(episodes * steps)):
        if (step + 1) % steps == 0:
            value = np.broadcast_to(value[place[start]], value.shape)  # the next episode begins at the start
        arrive = np.stack(
            [value[c, masks | 1 << c] + worth(step, c) * (masks >> c & 1 == 0) for c in range(len(cells))]
        )
        choices = np.stack([arrive[to[c]] for c in range(len(cells))])  # (cell, move, visited)
        moves.append(choices.argmax(1).astype(np.int8))
        value = choices.max(1)
    moves.reverse()

    total = [0] * episodes
    mask = 1 << place[start]
    for step in range(episodes * steps):
        episode, k = divmod(step, steps)
        if k == 0:
            here = place[start]
        here = to[here][moves[step][here, mask]]
        if not mask >> here & 1:
            total[episode] += steps - k
            for later in range(episode + 1, episodes):
                total[later] += walk[here]
            mask |= 1 << here
    return _Search(tuple(t / (len(cells) - 1) for t in total), moves)
