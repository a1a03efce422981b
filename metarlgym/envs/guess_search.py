"""Exact play of a guessing game over several episodes, by search.

One of n secrets is hidden. A move may be a guess, which wins if it is right; every other answer to a move leaves a cell
of the secrets. A secret that is guessed with move d of the trial (t moves in each episode) wins its episode and every
later one by repetition: its value (`worth`) is the number of counted episodes from there on. The search maximizes the
sum of the values over all secrets, one criterion for all episodes together.

Sets of secrets are integers, one bit per secret. Moves are pruned by the value of an ideal game, in which every move
has as many answers as any move of the real one, and cells of the sizes that suit best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

WORK_LIMIT = 2_000_000
"""Number of moves tried after which a search gives up; some seconds. Counted, not timed, so that the outcome is the
same everywhere.
"""


class Move(NamedTuple):
    """A move and what its answers tell."""

    wins: int
    """The secret it guesses, as a set of one; 0 for a question."""
    cells: tuple[int, ...]
    """The sets of secrets consistent with each answer that does not win."""


class TooLong(Exception):
    """The search has exceeded its work limit."""


def worths(turns: int, episodes: int, free: int) -> list[int]:
    """Counted episodes won by a secret that is guessed with move d of the trial, from d = 1; 0 past the end."""
    return [0, *(episodes - max((d - 1) // turns, free) for d in range(1, turns * episodes + 1)), 0]


def ideal_values(worth: Sequence[int], secrets: int, guessing: int, asking: int) -> list[np.ndarray]:
    """Upper bounds on the value of a set: `[moves made][size]`.

    Args:
        worth: see `worths`.
        secrets: maximum size.
        guessing: maximum number of answers to a wrong guess.
        asking: maximum number of answers to a question; 0 if there are none.
    """
    value = np.zeros(secrets + 1)
    found = [value]
    sizes = np.arange(secrets + 1)
    for now in reversed(worth[1:-1]):

        def shared(size: np.ndarray, cells: int, after: np.ndarray = value) -> np.ndarray:
            # The value is concave in the size, so that cells of equal size are best.
            small, larger = np.divmod(size, cells)
            return larger * after[np.minimum(small + 1, secrets)] + (cells - larger) * after[small]

        best = np.zeros(secrets + 1)
        best[1:] = now + (shared(sizes[:-1], guessing) if guessing else 0)
        if asking:
            best = _concave(np.maximum(best, shared(sizes, asking)))
        value = best
        found.append(value)
    return found[::-1]


def _concave(values: np.ndarray) -> np.ndarray:
    """The least concave sequence that is nowhere below `values`."""
    hull: list[int] = []
    for i, v in enumerate(values):
        while len(hull) > 1:
            a, b = hull[-2:]
            if (values[b] - values[a]) * (i - a) > (v - values[a]) * (b - a):
                break
            hull.pop()
        hull.append(i)
    return np.interp(np.arange(len(values)), hull, values[hull])


def bound(secrets: int, guessing: int, asking: int, turns: int, episodes: int) -> list[float]:
    """For each episode, an upper bound on the probability that it is won."""
    curve = []
    for episode in range(episodes):
        worth = [int(0 < d <= turns * (episode + 1)) for d in range(turns * (episode + 1) + 2)]
        curve.append(min(1.0, float(ideal_values(worth, secrets, guessing, asking)[0][secrets]) / secrets))
    return curve


class Search:
    """The best play of `episodes` episodes of `turns` moves each, the first `free` of which do not count.

    Args:
        moves: the moves of the game; each secret can be guessed.
        secrets: number of secrets.
        turns: moves of an episode; the guess of a known secret takes one.
        episodes: of the trial.
        free: number of free shots.
    """

    def __init__(self, moves: Sequence[Move], secrets: int, turns: int, episodes: int, free: int = 0) -> None:
        self.moves = moves
        self.secrets = secrets
        self.everything = (1 << secrets) - 1
        self.turns = turns
        self.episodes = episodes
        self.depth = turns * episodes
        self.worth = worths(turns, episodes, free)
        self.best: dict[tuple[int, int], tuple[int, int]] = {}
        """(set, moves made) -> (sum of values, move)."""
        guessing = max(len(move.cells) for move in moves if move.wins)
        asking = max((len(move.cells) for move in moves if not move.wins), default=0)
        ideal = ideal_values(self.worth, secrets, guessing, asking)
        # True values are whole numbers, so a bound may be rounded down.
        self._ideal = [np.floor(values + 1e-6).astype(int).tolist() for values in ideal]
        self._guess = {move.wins: place for place, move in enumerate(moves) if move.wins}
        self._work = 0

    def value(self, left: int, done: int) -> int:
        """The value of the set `left` after `done` moves, under the best play from here.

        Raises:
            TooLong: the work limit is reached.
        """
        if done >= self.depth:
            return 0
        known = self.best.get((left, done))
        if known is not None:
            return known[0]
        size = left.bit_count()
        now, then = self.worth[done + 1 : done + 3]
        if size == 1 or not then:  # one secret, or one move that counts: any guess inside the set is optimal
            self.best[left, done] = now, self._guess[left & -left]
            return now
        self._work += len(self.moves)
        if self._work > WORK_LIMIT:
            raise TooLong
        top, choice = -1, -1
        for most, _, place, cells in self._options(left, done):
            if -most <= top:
                break
            total = -most
            for cell in cells:
                total += self.value(cell, done + 1) - self._ideal[done + 1][cell.bit_count()]
                if total <= top:
                    break
            if total > top:
                top, choice = total, place
                if top == self._ideal[done][size]:
                    break
        self.best[left, done] = top, choice
        return top

    def _options(self, left: int, done: int) -> list[tuple[int, int, int, list[int]]]:
        """The moves that tell something, most promising first: (-bound, -number of cells, move, cells)."""
        ideal, now = self._ideal[done + 1], self.worth[done + 1]
        options = []
        for place, (wins, masks) in enumerate(self.moves):
            cells = [cell for mask in masks if (cell := left & mask)]
            inside = wins & left != 0
            if inside or len(cells) > 1:
                most = sum([ideal[cell.bit_count()] for cell in cells]) + inside * now
                options.append((-most, -len(cells) - inside, place, cells))
        options.sort()
        return options

    def choose(self, left: int, done: int) -> int:
        """The best move where the search is affordable, else the most promising one."""
        if done < self.depth:
            try:
                self.value(left, done)
                return self.best[left, done][1]
            except TooLong:
                pass
        return self.promising(left, done)

    def promising(self, left: int, done: int) -> int:
        """The move with the best bound, without a search."""
        size = left.bit_count()
        if size == 1 or done + 1 >= self.depth:
            return self._guess[left & -left]
        return self._options(left, done)[0][2]

    def curve(self, policy: Callable[[int, int], int]) -> list[float]:
        """Probability that each episode is won, if `policy` chooses the moves by (set, moves made)."""
        found = [0] * self.episodes
        todo = [(self.everything, 0)]
        while todo:
            left, done = todo.pop()
            if done < self.depth:
                wins, masks = self.moves[policy(left, done)]
                found[done // self.turns] += wins & left != 0
                todo += [(cell, done + 1) for mask in masks if (cell := left & mask)]
        return [sum(found[: n + 1]) / self.secrets for n in range(self.episodes)]
