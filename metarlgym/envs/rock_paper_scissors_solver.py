"""The best play against an opponent that throws independently, with hidden probabilities that favor one throw.

What is learned of such an opponent does not depend on the player's throws. So the best play of each episode is the best
for that episode alone, and the counts of the opponent's throws are all there is to know.
"""

from __future__ import annotations

from functools import lru_cache
from math import comb

import numpy as np

MOST_ROUNDS = 45
"""Maximum number of rounds of a trial whose optimum is computed."""
NODES = 24
"""Nodes of Gauss's quadrature in each of two dimensions: exact up to degree 47, which is 45 throws and the density."""

Counts = tuple[int, int, int]
"""The opponent's throws so far: rock, paper, scissors."""


@lru_cache(maxsize=4)
def _prior(noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes `(N, 3)` and weights `(N,)` of the prior over the probabilities of the three throws."""
    points, weights = np.polynomial.legendre.leggauss(NODES)
    points, weights = (points + 1) / 2, weights / 2
    favorite = (0.4 + 0.6 * points)[:, None]
    density = (weights * 6 * points * (1 - points))[:, None] * weights
    first = (1 - favorite) * points
    shape = np.stack([favorite + 0 * first, first, (1 - favorite) * (1 - points)], -1).reshape(-1, 3)
    shape = (1 - noise) * shape + noise / 3
    return np.concatenate([np.roll(shape, place, 1) for place in range(3)]), np.tile(density.ravel() / 3, 3)


@lru_cache(maxsize=100_000)
def chances(counts: Counts, noise: float) -> tuple[float, float, float]:
    """Probability of each next throw."""
    shape, weights = _prior(noise)
    weights = weights * (shape ** np.array(counts)).prod(1)
    rock, paper, scissors = (weights / weights.sum()) @ shape
    return float(rock), float(paper), float(scissors)


def after(counts: Counts, throw: int) -> Counts:
    rock, paper, scissors = counts
    return rock + (throw == 0), paper + (throw == 1), scissors + (throw == 2)


@lru_cache(maxsize=200_000)
def best(counts: Counts, left: int, needed: int, majority: bool, noise: float) -> tuple[float, int]:
    """The best expected return of the `left` last rounds of an episode, and the throw that begins it.

    Args:
        needed: wins still needed if `majority`, else without effect.
    """
    if left == 0:
        return float(majority and needed <= 0), 0
    likely = chances(counts, noise)
    top, choice = float("-inf"), 0
    for throw in range(3):
        beaten, better = (throw - 1) % 3, (throw + 1) % 3
        value = 0.0 if majority else likely[beaten] - likely[better]
        for reply in range(3):
            rest = max(0, needed - (reply == beaten)) if majority else 0
            value += likely[reply] * best(after(counts, reply), left - 1, rest, majority, noise)[0]
        if value > top + 1e-12:
            top, choice = value, throw
    return top, choice


@lru_cache(maxsize=32)
def curve(rounds: int, episodes: int, needed: int, noise: float) -> tuple[float, ...] | None:
    """Expected return of each episode under the best play; None for long trials."""
    if rounds * episodes > MOST_ROUNDS:
        return None
    found = []
    here: dict[Counts, float] = {(0, 0, 0): 1.0}
    for _ in range(episodes):
        found.append(sum(p * best(counts, rounds, needed, needed > 0, noise)[0] for counts, p in here.items()))
        for _ in range(rounds):
            there: dict[Counts, float] = {}
            for counts, p in here.items():
                for throw, chance in enumerate(chances(counts, noise)):
                    there[after(counts, throw)] = there.get(after(counts, throw), 0.0) + p * chance
            here = there
    return tuple(found)


def at_least(wins: int, rounds: int, chance: float) -> float:
    """Probability of at least `wins` wins in independent rounds."""
    return sum(comb(rounds, k) * chance**k * (1 - chance) ** (rounds - k) for k in range(wins, rounds + 1))
