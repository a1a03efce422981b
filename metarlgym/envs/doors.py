"""Doors with a safe arm: K hidden doors, one pays 1 every time; the safe door pays `safe` every time.

The smallest task in which exploration costs something now and pays off in later episodes. One episode is one choice.
Always playing safe is the trap for a learner whose credit does not reach across episodes (the under-exploration of
First-Explore, Norman and Clune 2023, arXiv:2307.02276).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from metarlgym.datatypes import JSON, ConfigError, Episode, Optimum, Step
from metarlgym.env import Env
from metarlgym.envs.wording import choices
from metarlgym.whole_numbers import check_whole

UNKNOWN_HORIZON = 500
"""Number of episodes for which the oracle plans outside a trial."""


class Doors(Env):
    """One choice among `doors` hidden doors and a safe one.

    Args:
        doors: K >= 2, number of hidden doors; exactly one contains the prize, which pays 1.
        safe: reward of the safe door, in [0, 1].
    """

    max_turns = 1
    action_words = 1
    uniform_tasks = True

    def __init__(self, doors: int = 4, safe: float = 0.4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        doors = check_whole("doors", doors, 2)
        if not isinstance(safe, int | float) or not 0.0 <= safe <= 1.0:
            raise ConfigError(f"safe={safe!r} must be a number in [0, 1].")
        self.doors = doors
        self.safe = safe
        self._names = {str(d + 1): d for d in range(doors)} | {"safe": doors}
        self._actions = tuple(self._names)

    def rules(self) -> str:
        if self.style == "terse":
            return "doors"
        return (
            f"A prize worth 1 point is behind one of {self.doors} doors, the same door in every episode. A safe door "
            f"always pays {self.safe:g} points. In each episode you open one door. Reply {self._replies}."
        )

    def sample_task(self, rng: random.Random) -> JSON:
        return {"prize": rng.randrange(self.doors)}

    def all_tasks(self) -> Iterable[JSON]:
        return [{"prize": door} for door in range(self.doors)]

    def on_reset(self, params: JSON, rng: random.Random) -> str:
        self._prize = params["prize"]
        return "" if self.style == "terse" else f"Which door: {choices(self.doors, 'safe')}?"

    def on_step(self, action: str) -> Step:
        choice = self._names.get(self.parse(action, self._names))
        terse = self.style == "terse"
        if choice is None:
            text = "invalid" if terse else f"That is not one of the doors. 0 points. Reply {self._replies}."
            return Step(text, 0.0, True, False, {"valid": False, "success": False})
        if choice == self.doors:
            text = "sure" if terse else f"The safe door: {self.safe:g} points."
            return Step(text, self.safe, True, False, {"valid": True, "success": False})
        won = choice == self._prize
        if terse:
            text = "prize" if won else "nothing"
        else:
            text = f"Door {choice + 1}: the prize! 1 point." if won else f"Door {choice + 1}: nothing. 0 points."
        return Step(text, 1.0 if won else 0.0, True, False, {"valid": True, "success": won})

    def random_action(self, rng: random.Random) -> str:
        return self._write(rng.randrange(self.doors + 1))

    def legal_actions(self) -> Sequence[str]:
        return [self._write(choice) for choice in range(self.doors + 1)]

    def oracle(self, history: Sequence[Episode]) -> str:
        """Optimal for the remaining episodes of the trial (known from `self.horizon`); untried doors in order.

        Without a horizon it explores first, which is optimal whenever exploration pays at all.
        """
        tried: set[int] = set()
        for episode in history[:-1]:
            for turn in episode.turns:
                choice = self._names.get(self.parse(turn.action, self._names), self.doors)
                if choice < self.doors:
                    if turn.reward == 1.0:
                        return self._write(choice)
                    tried.add(choice)
        episodes, done = (self.horizon, len(history) - 1) if self.horizon else (UNKNOWN_HORIZON, 0)
        explores = _plan(self.doors, self.safe, episodes, self.horizon_free)
        if len(tried) >= self.doors - 1 or explores[episodes - done][len(tried)]:
            return self._write(next(d for d in range(self.doors) if d not in tried))
        return self._write(self.doors)

    def optimal_returns(self, episodes: int, free_shots: int = 0) -> Optimum:
        curve = _curve(self.doors, self.safe, episodes, free_shots)
        return Optimum(sum(curve[free_shots:]), tuple(curve), "exact")

    def no_memory_bound(self, episodes: int) -> float:
        return episodes * max(self.safe, 1 / self.doors)

    @property
    def _replies(self) -> str:
        return choices(self.doors, "safe", quoted=True)

    def _write(self, choice: int) -> str:
        name = self._actions[choice]
        return name if self.style == "terse" else f"[{name}]"


@lru_cache(maxsize=16)
def _plan(doors: int, safe: float, episodes: int, free: int) -> list[np.ndarray]:
    """Whether to try another door: `plan[left][tried]`, with `left` episodes to go and `tried` empty doors known.

    Dynamic programming from the last episode backwards. The first `free` episodes have weight 0. Only what can be
    reached is computed: `tried` is at most the number of episodes played.
    """
    counted = episodes - free
    value = np.zeros(min(doors, episodes + 1))
    plan = [np.zeros(len(value), bool)]
    for left in range(1, episodes + 1):
        weight = 0.0 if left > counted else 1.0
        rest = max(left - counted - 1, 0)  # free episodes after this one
        reached = min(doors, episodes - left + 1)
        hit_prob = 1 / (doors - np.arange(reached))
        missed = value[1 : reached + 1]
        if reached == doors:  # after all doors but one the prize is known, and a try cannot miss
            missed = np.append(missed, 0.0)
        stay = weight * safe + value[:reached]
        explore = hit_prob * (weight + (left - 1 - rest)) + (1 - hit_prob) * missed
        if reached == doors:
            stay[-1] = explore[-1] = weight + value[doors - 1]
        plan.append(explore >= stay)
        value = np.maximum(stay, explore)
    return plan


def _curve(doors: int, safe: float, episodes: int, free_shots: int) -> list[float]:
    """Expected unweighted return of each episode under the optimal policy."""
    curve = []
    plan = _plan(doors, safe, episodes, free_shots)
    states = {0: 1.0}  # doors known to be empty -> probability, the prize not found yet
    found = 0.0
    for episode in range(episodes):
        expected = found
        following: dict[int, float] = {}
        for tried, probability in states.items():
            if plan[episodes - episode][tried]:
                hit_prob = 1 / (doors - tried)
                expected += probability * hit_prob
                found += probability * hit_prob
                if hit_prob < 1:
                    following[tried + 1] = following.get(tried + 1, 0.0) + probability * (1 - hit_prob)
            else:
                expected += probability * safe
                following[tried] = following.get(tried, 0.0) + probability
        states = following
        curve.append(expected)
    return curve
