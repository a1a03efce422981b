"""Rock-paper-scissors against a hidden opponent, who throws by a fixed rule: find the rule, then win every round.

The opponent is the same in every episode and begins each anew, so a policy with memory recognizes it early and wins
from the first round of a later episode. The setting of ORBIT, where the opponent throws at random and has a favorite,
is `opponents=["biased"]`, `reward="majority"`, 5 rounds, 15 turns in a trial.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from typing import Any, Literal

from metarlgym.datatypes import JSON, ConfigError, Episode, Optimum
from metarlgym.envs import rock_paper_scissors_solver as solver
from metarlgym.envs.opponents import Opponent
from metarlgym.envs.repeated_game import RepeatedGame

THROWS = ("rock", "paper", "scissors")
"""Each is beaten by the next, the last by the first."""


def _shift(throw: str, by: int) -> str:
    return THROWS[(THROWS.index(throw) + by) % 3]


class Always(Opponent):
    """The same throw in every round."""

    def __init__(self, throw: str) -> None:
        self.name = throw

    def move(self, seen: Sequence[tuple[str, str]]) -> str:
        return self.name

    def digest(self, seen: Sequence[tuple[str, str]]) -> Hashable:
        return None


class Cycle(Opponent):
    """Rock first, then on from its own last throw, to the next or the previous one."""

    def __init__(self, name: str, by: int) -> None:
        self.name, self._by = name, by

    def move(self, seen: Sequence[tuple[str, str]]) -> str:
        return _shift(seen[-1][1], self._by) if seen else THROWS[0]

    def digest(self, seen: Sequence[tuple[str, str]]) -> Hashable:
        return seen[-1][1] if seen else None


class Answer(Opponent):
    """Its answer to the player's last throw; before the first round, as if that had been rock."""

    def __init__(self, name: str, by: int) -> None:
        self.name, self._by = name, by

    def move(self, seen: Sequence[tuple[str, str]]) -> str:
        return _shift(seen[-1][0] if seen else THROWS[0], self._by)

    def digest(self, seen: Sequence[tuple[str, str]]) -> Hashable:
        return seen[-1][0] if seen else THROWS[0]


class Biased(Opponent):
    """Throws independently, with the three probabilities that its task holds."""

    name = "biased"
    by_default = False
    deterministic = False

    def __init__(self, probabilities: Sequence[float] = (), rng: random.Random | None = None) -> None:
        self._probabilities, self._rng = probabilities, rng

    def draw(self, rng: random.Random) -> dict[str, JSON]:
        favorite = 0.4 + 0.6 * rng.betavariate(2, 2)
        share = rng.random()  # two shares by Dirichlet(1, 1)
        probabilities = [favorite, (1 - favorite) * share, (1 - favorite) * (1 - share)]
        place = rng.randrange(3)
        return {"probabilities": probabilities[-place:] + probabilities[:-place]}

    def begin(self, params: JSON, rng: random.Random) -> Opponent:
        return Biased(params["probabilities"], rng)

    def move(self, seen: Sequence[tuple[str, str]]) -> str:
        assert self._rng is not None
        luck = self._rng.random()
        rock, paper, _ = self._probabilities
        return THROWS[(luck >= rock) + (luck >= rock + paper)]


class RockPaperScissors(RepeatedGame):
    """One match of `rounds` rounds. A win pays 1, a tie 0, a loss -1; so does an illegal throw.

    Args:
        rounds: rounds of an episode, at least 1.
        noise: probability that a throw of the opponent is uniformly random, in [0, 1].
        opponents: names of the opponents that may be met. rock, paper, scissors: always that throw. cycle_up,
            cycle_down: rock, paper, scissors, rock ... and rock, scissors, paper, rock ... copy, beat, lose: the
            player's last throw, the one that beats it, the one that loses to it. Default: these eight. biased: throws
            at random, its favorite with probability 0.4 + 0.6 Beta(2, 2), the rest split by Dirichlet(1, 1).
        reward: `points` of each round, or `majority`: rounds pay nothing, and an episode pays 1 at its end if at least
            half of its rounds were won. An illegal throw is then no win, and as the last one forfeits the reward.
    """

    moves = THROWS
    payoffs = ((0.0, -1.0, 1.0), (1.0, 0.0, -1.0), (-1.0, 1.0, 0.0))
    forfeit = -1.0
    reward_range = (-1.0, 1.0)
    kinds = (
        *map(Always, THROWS),
        Cycle("cycle_up", 1),
        Cycle("cycle_down", -1),
        Answer("copy", 0),
        Answer("beat", 1),
        Answer("lose", -1),
        Biased(),
    )

    def __init__(
        self,
        rounds: int = 3,
        noise: float = 0.0,
        opponents: Sequence[str] | None = None,
        reward: Literal["points", "majority"] = "points",
        **kwargs: Any,
    ) -> None:
        if isinstance(noise, bool) or not isinstance(noise, int | float) or not 0.0 <= noise <= 1.0:
            raise ConfigError(f"noise={noise!r} must be a number in [0, 1].")
        if reward not in ("points", "majority"):
            raise ConfigError(f"reward={reward!r} is not known: use 'points' or 'majority'.")
        super().__init__(rounds, float(noise), opponents, **kwargs)
        if reward == "majority":
            self.wins_needed = (self.rounds + 1) // 2
            self.reward_range = (0.0, 1.0)  # type: ignore[misc]

    def rules(self) -> str:
        if self.style == "terse":
            return "throws"
        if self.wins_needed:
            paid = f"Win at least {self.wins_needed} of the rounds to get 1 point at the end of the episode."
        else:
            paid = "If you win a round you get 1 point, a tie is 0 points, and if you lose you get -1 point."
        luck = f" With probability {self.noise:g} a throw of the opponent is random." if self.noise else ""
        return (
            "You play rock-paper-scissors against an opponent, the same opponent in every episode. The opponent has a "
            f"hidden habit and starts anew in each episode.{luck} An episode has {self.rounds} "
            f"round{'s' if self.rounds > 1 else ''}. Paper beats rock, scissors beats paper, rock beats scissors. "
            f"{paid} Reply {self._replies}."
        )

    def result_word(self, reward: float) -> str:
        return "win" if reward > 0 else "lose" if reward < 0 else "tie"

    def is_success(self, rewards: float, wins: int) -> bool:
        return wins >= self.wins_needed if self.wins_needed else rewards > 0

    @property
    def _only_biased(self) -> bool:
        return self.opponents == (Biased.name,)

    @property
    def _most(self) -> float:
        """Who knows the opponent wins every round but those that noise spoils."""
        if self.wins_needed:
            return solver.at_least(self.wins_needed, self.rounds, 1 - self.noise * 2 / 3)
        return self.rounds * (1 - self.noise)

    def oracle(self, history: Sequence[Episode]) -> str:
        if not self._only_biased:
            return super().oracle(history)
        counts = [0, 0, 0]
        for episode in history:
            for _, reply in self._rounds_of(episode):
                counts[THROWS.index(reply)] += 1
        now = history[-1]
        wins = sum(self.payoffs[THROWS.index(a)][THROWS.index(b)] > 0 for a, b in self._rounds_of(now))
        left = self.rounds - len(now.turns)
        rest = solver.best((counts[0], counts[1], counts[2]), left, self.wins_needed - wins, self._majority, self.noise)
        return self._write(THROWS[rest[1]])

    def optimal_returns(self, episodes: int, free_shots: int = 0) -> Optimum:
        """Also exact for `biased` alone (up to 45 rounds in all); unknown for `biased` together with others."""
        if not self._only_biased:
            return super().optimal_returns(episodes, free_shots)
        curve = solver.curve(self.rounds, episodes, self.wins_needed, self.noise)
        return Optimum(None, None, "none") if curve is None else Optimum(sum(curve[free_shots:]), curve, "exact")

    @property
    def _majority(self) -> bool:
        return self.wins_needed > 0
