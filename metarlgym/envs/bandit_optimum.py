"""Optimal value and optimal play of a Bernoulli bandit with uniform priors.

Short trials: the exact Bayes optimum. The knowledge about an arm is its kind, (successes, failures); arms of one kind
are interchangeable, so a state is the multiset of the kinds of the arms pulled so far, and the recursion runs over
those (K = 5, n = 20: 238,000 states).

Long trials: the finite-horizon Gittins index, the price per pull at which an arm is just worth pulling with `left`
pulls remaining (Lattimore 2016, arXiv:1511.06014). It is not exactly optimal with a finite horizon, but close: 14.2854
of 14.2873 for K = 5, n = 20. Its value is simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import comb
from typing import NamedTuple

import numpy as np

from metarlgym.datatypes import Optimum
from metarlgym.seeding import derive

STATE_LIMIT = 500_000
"""Maximum number of states of an exact recursion; takes 2 to 4 seconds."""
INDEX_LIMIT = 200
"""Maximum number of pulls of an index table; takes about 2 seconds and 30 MB."""
SIMULATED_PULLS = 100_000_000
"""Trials x arms x pulls of a simulation; takes about 1 second."""
PRICES = 201

State = tuple[int, ...]
"""Sorted kind numbers of the arms pulled so far. The kind (s, f) with m = s + f has number m (m + 1) / 2 + s."""


def kind_number(successes: int, failures: int) -> int:
    pulls = successes + failures
    return pulls * (pulls + 1) // 2 + successes


@cache
def state_count(arms: int, pulls: int) -> int:
    """Number of states of a trial of `pulls` before its last pull, or some number above the limit."""
    ways = {(0, 0): 1}  # (arms pulled, pulls) -> multisets
    for m in range(1, pulls):  # the m + 1 kinds of m pulls
        for (size, total), count in list(ways.items()):
            for more in range(1, min(arms - size, (pulls - 1 - total) // m) + 1):
                key = (size + more, total + more * m)
                ways[key] = ways.get(key, 0) + count * comb(m + more, more)
        if sum(ways.values()) > STATE_LIMIT:
            break
    return sum(ways.values())


class Plan(NamedTuple):
    """The exact solution of a trial shape."""

    value: float
    curve: tuple[float, ...]
    choice: dict[State, int]
    """The kind of arm to pull next; 0 is an untried arm."""


@cache
def solve(arms: int, pulls: int, free: int = 0) -> Plan:
    """Bayes optimum of `pulls` pulls, the first `free` of which have weight 0."""
    kinds = [(s, m - s) for m in range(pulls + 1) for s in range(m + 1)]
    mean = [(s + 1) / (s + f + 2) for s, f in kinds]
    won = [kind_number(s + 1, f) for s, f in kinds]
    lost = [kind_number(s, f + 1) for s, f in kinds]
    value: dict[State, float] = {}
    choice: dict[State, int] = {}

    def options(state: State) -> list[tuple[int, State]]:
        """Kinds that can be pulled, each with the kinds of the other arms pulled so far."""
        found = [(0, state)] if len(state) < arms else []
        last = 0
        for place, kind in enumerate(state):
            if kind != last:
                found.append((kind, state[:place] + state[place + 1 :]))
                last = kind
        return found

    def best(state: State, done: int) -> float:
        top, top_kind = -1.0, 0
        last_pull, weight = done == pulls - 1, float(done >= free)
        for kind, rest in options(state):
            p = mean[kind]
            worth = weight * p
            if not last_pull:
                after = tuple(sorted((*rest, won[kind])))
                hit = value.get(after)
                worth += p * (best(after, done + 1) if hit is None else hit)
                after = tuple(sorted((*rest, lost[kind])))
                hit = value.get(after)
                worth += (1 - p) * (best(after, done + 1) if hit is None else hit)
            if worth > top:
                top, top_kind = worth, kind
        value[state], choice[state] = top, top_kind
        return top

    total = best((), 0)
    curve = []
    reached: dict[State, float] = {(): 1.0}
    for _ in range(pulls):
        expected = 0.0
        following: dict[State, float] = {}
        for state, probability in reached.items():
            kind = choice[state]
            rest = list(state)
            if kind:
                rest.remove(kind)
            p = mean[kind]
            expected += probability * p
            for after_kind, outcome_prob in ((won[kind], p), (lost[kind], 1 - p)):
                after = tuple(sorted((*rest, after_kind)))
                following[after] = following.get(after, 0.0) + probability * outcome_prob
        reached = following
        curve.append(expected)
    return Plan(total, tuple(curve), choice)


@cache
def index_table(pulls: int) -> np.ndarray:
    """Gittins indices `[left, s, f]` of all arms with s + f + left <= pulls, by recursion on a grid of prices.

    At price c the arm has value `W = max(0, p - c + p W(s + 1, f) + (1 - p) W(s, f + 1))`, with one pull fewer left on
    the right-hand side; the index is the price at which the second term crosses 0, interpolated between grid points
    (error about 1e-5).
    """
    prices = np.linspace(0.0, 1.0, PRICES, dtype=np.float32)
    table = np.zeros((pulls + 1, pulls, pulls), np.float32)
    worth = np.zeros((pulls + 1, pulls + 1, PRICES), np.float32)
    for left in range(1, pulls + 1):
        size = pulls - left + 1
        s, f = np.ogrid[:size, :size]
        p = ((s + 1) / (s + f + 2)).astype(np.float32)[..., None]
        up, down = worth[1 : size + 1, :size], worth[:size, 1 : size + 1]
        worth = p * (up - down) + (down + p - prices)
        place = (worth > 0).sum(-1, keepdims=True)
        above = np.take_along_axis(worth, place - 1, -1)[..., 0]
        below = np.take_along_axis(worth, place, -1)[..., 0]
        table[left, :size, :size] = prices[place[..., 0] - 1] + above / (above - below) / (PRICES - 1)
        np.maximum(worth, 0, out=worth)
    return table


def index_choice(record: Sequence[tuple[int, int]], left: int, pulls: int) -> int:
    """Position of the arm with the highest index; arms and horizons beyond the table are clipped to its edge."""
    size = min(pulls, INDEX_LIMIT)
    table = index_table(size)
    top, choice = -1.0, 0
    for place, (s, f) in enumerate(record):
        room = size - s - f
        index = float(table[min(left, room), s, f]) if room > 0 else (s + 1) / (s + f + 2)
        if index > top:
            top, choice = index, place
    return choice


def simulate(arms: int, pulls: int) -> Optimum:
    """Value of the index policy. The best arm's probability, whose mean is known, serves as control variate."""
    trials = min(200_000, max(2_000, SIMULATED_PULLS // (pulls * arms)))
    rng = np.random.default_rng(derive("bandit", "optimum", arms, pulls))
    table = index_table(pulls)
    p = rng.random((trials, arms))
    s, f = np.zeros((2, trials, arms), np.int64)
    rows = np.arange(trials)
    surplus = p.max(1) - arms / (arms + 1)
    centered = (surplus - surplus.mean()) / surplus.var()
    total = np.zeros(trials)
    curve = []
    for left in range(pulls, 0, -1):
        arm = table[left][s, f].argmax(1)
        win_prob = p[rows, arm]
        won = rng.random(trials) < win_prob
        s[rows, arm] += won
        f[rows, arm] += ~won
        total += win_prob
        curve.append(float(win_prob.mean() - (win_prob * centered).mean() * surplus.mean()))
    residual = total - (total * centered).mean() * surplus
    return Optimum(sum(curve), tuple(curve), "simulated", float(residual.std() / trials**0.5))


@cache
def optimum(arms: int, pulls: int, free: int = 0) -> Optimum:
    """Exact while the recursion is affordable, then simulated, then the value with known arms as an upper bound."""
    arms = min(arms, pulls)
    if state_count(arms, pulls) <= STATE_LIMIT:
        plan = solve(arms, pulls, free)
        return Optimum(plan.value, plan.curve, "exact")
    if free == 0 and pulls <= INDEX_LIMIT:
        return simulate(arms, pulls)
    # Before its first pull, an arm's expected reward is the prior mean.
    curve = (0.5,) + (arms / (arms + 1),) * (pulls - 1)
    return Optimum(sum(curve[free:]), curve, "upper_bound")
