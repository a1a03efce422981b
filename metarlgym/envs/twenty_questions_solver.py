"""Exact and strong play of TwentyQuestions over several episodes: the search of `guess_search` on a table."""

from __future__ import annotations

from functools import lru_cache

from metarlgym.datatypes import Optimum
from metarlgym.envs.guess_search import Move, Search, TooLong, bound

Rows = tuple[tuple[bool, ...], ...]
"""`[thing][attribute]`."""


@lru_cache(maxsize=16)
def moves(rows: Rows) -> list[Move]:
    """The questions in the order of the attributes, then the guesses in the order of the things."""
    everything = (1 << len(rows)) - 1
    found = []
    for column in zip(*rows):
        yes = sum(1 << thing for thing, holds in enumerate(column) if holds)
        found.append(Move(0, tuple(filter(None, (yes, everything & ~yes)))))
    return found + [Move(1 << thing, (everything & ~(1 << thing),)) for thing in range(len(rows))]


@lru_cache(maxsize=64)
def plan(rows: Rows, turns: int, episodes: int, free: int) -> tuple[Search, bool]:
    """The search for a trial's shape, and whether it was finished."""
    found = Search(moves(rows), len(rows), turns, episodes, free)
    try:
        found.value(found.everything, 0)
    except TooLong:
        return found, False
    return found, True


@lru_cache(maxsize=64)
def optimum(rows: Rows, turns: int, episodes: int, free: int) -> Optimum:
    """The exact optimum where it is in reach; else an upper bound, and what the most promising moves reach."""
    search, finished = plan(rows, turns, episodes, free)
    reached = search.curve(search.choose if finished else search.promising)
    lower = sum(reached[free:])
    most = [] if finished else bound(len(rows), 1, 2, turns, episodes)
    if finished or lower > sum(most[free:]) - 1e-9:
        return Optimum(lower, tuple(reached), "exact")
    return Optimum(sum(most[free:]), tuple(most), "upper_bound", lower=lower)
