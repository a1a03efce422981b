"""Bernoulli bandit: K arms, each pays 1 with its own hidden probability, drawn uniformly from [0, 1].

The classical test of exploration versus exploitation (RL^2, Duan et al. 2016, arXiv:1611.02779, table 1). One episode
is one pull, so an adaptation curve is the mean reward of each pull.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from metarlgym.datatypes import JSON, Episode, Optimum, Step
from metarlgym.env import Env
from metarlgym.envs import bandit_optimum as best
from metarlgym.envs.wording import choices
from metarlgym.whole_numbers import check_whole

BLIND_LEFT = 10
"""Number of remaining pulls the oracle assumes if unknown."""


class Bandit(Env):
    """One pull of one of `arms` arms.

    The noise uses common random numbers: in an episode, arm a wins if its uniform number is below its probability, and
    the numbers of all arms depend only on the episode's seed. So policies that play the same trial seed get the same
    noise.

    Args:
        arms: K >= 2.
    """

    max_turns = 1
    action_words = 1

    def __init__(self, arms: int = 5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.arms = arms = check_whole("arms", arms, 2)
        self._names = {str(a + 1): a for a in range(arms)}

    def rules(self) -> str:
        if self.style == "terse":
            return "bandit"
        return (
            f"There are {self.arms} slot machines. Each pays 1 point with a hidden probability of its own, otherwise "
            "0 points; the probabilities are the same in every episode. In each episode you pull one machine once. "
            f"Reply {choices(self.arms, quoted=True)}."
        )

    def sample_task(self, rng: random.Random) -> JSON:
        return {"arms": [rng.random() for _ in range(self.arms)]}

    def on_reset(self, params: JSON, rng: random.Random) -> str:
        self._probs = params["arms"]
        self._rng = rng
        return "" if self.style == "terse" else f"Which machine: {choices(self.arms)}?"

    def on_step(self, action: str) -> Step:
        arm = self._arm(action)
        terse = self.style == "terse"
        if arm is None:
            replies = choices(self.arms, quoted=True)
            text = "invalid" if terse else f"That is not one of the machines. 0 points. Reply {replies}."
            return Step(text, 0.0, True, False, {"valid": False, "success": False})
        draw = self._rng.random
        for _ in range(arm):  # skip the numbers of the arms before this one
            draw()
        won = draw() < self._probs[arm]
        if terse:
            text = "win" if won else "lose"
        else:
            text = f"Machine {arm + 1} pays 1 point." if won else f"Machine {arm + 1} pays nothing. 0 points."
        return Step(text, 1.0 if won else 0.0, True, False, {"valid": True, "success": won})

    def random_action(self, rng: random.Random) -> str:
        return self._write(rng.randrange(self.arms))

    def legal_actions(self) -> Sequence[str]:
        return [self._write(arm) for arm in range(self.arms)]

    def oracle(self, history: Sequence[Episode]) -> str:
        """Bayes-optimal for the remaining pulls (from `self.horizon`) where affordable; else the highest index."""
        record = [[0, 0] for _ in range(self.arms)]
        pulls = 0
        for episode in history:
            for turn in episode.turns:
                arm = self._arm(turn.action) if turn.valid else None
                if arm is not None:
                    record[arm][turn.reward == 0.0] += 1
                    pulls += 1
        done = len(history) - 1
        left = self.horizon - done if self.horizon > done else BLIND_LEFT
        if self.horizon:
            # An episode lost to an invalid action makes the trial one pull shorter.
            shape = (min(self.arms, pulls + left), pulls + left)
            if best.state_count(*shape) <= best.STATE_LIMIT:
                choice = best.solve(*shape, max(0, self.horizon_free - done + pulls)).choice
                kinds = [best.kind_number(s, f) for s, f in record]
                return self._write(kinds.index(choice[tuple(sorted(k for k in kinds if k))]))
        return self._write(best.index_choice([(s, f) for s, f in record], left, self.horizon or 5 * BLIND_LEFT))

    def optimal_returns(self, episodes: int, free_shots: int = 0) -> Optimum:
        """Exact for short trials (K = 5: up to 21 pulls), simulated up to 200 without free shots, else a bound."""
        return best.optimum(self.arms, episodes, free_shots)

    def no_memory_bound(self, episodes: int) -> float:
        return episodes * 0.5

    def _arm(self, action: str) -> int | None:
        return self._names.get(self.parse(action, self._names))

    def _write(self, arm: int) -> str:
        return str(arm + 1) if self.style == "terse" else f"[{arm + 1}]"
