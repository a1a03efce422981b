"""The repeated prisoner's dilemma against a hidden strategy: find out whom to trust, then cooperate or exploit.

The opponent is one of the classical strategies (Axelrod 1984, The Evolution of Cooperation; pavlov: Nowak and Sigmund
1993), the same in every episode, and starts each anew. Whether someone can be exploited is found out by a defection,
which a grim opponent punishes to the end of the episode: it costs something now and pays off in later episodes.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from metarlgym.envs.opponents import Opponent
from metarlgym.envs.repeated_game import RepeatedGame

C, D = "cooperate", "defect"


class Always(Opponent):
    """The same move in every round."""

    def __init__(self, name: str, move: str) -> None:
        self.name, self._move = name, move

    def move(self, seen: Sequence[tuple[str, str]]) -> str:
        return self._move

    def digest(self, seen: Sequence[tuple[str, str]]) -> Hashable:
        return None


class TitForTat(Opponent):
    """The player's last move; a fixed one first."""

    def __init__(self, name: str, first: str) -> None:
        self.name, self._first = name, first

    def move(self, seen: Sequence[tuple[str, str]]) -> str:
        return seen[-1][0] if seen else self._first

    digest = move


class Grim(Opponent):
    """Cooperates until the player has defected once."""

    name = "grim"

    def move(self, seen: Sequence[tuple[str, str]]) -> str:
        return D if any(player == D for player, _ in seen) else C

    digest = move


class Pavlov(Opponent):
    """Cooperates first, then if and only if both moved alike in the last round."""

    name = "pavlov"

    def move(self, seen: Sequence[tuple[str, str]]) -> str:
        return C if not seen or seen[-1][0] == seen[-1][1] else D

    digest = move


class PrisonersDilemma(RepeatedGame):
    """One match of `rounds` rounds. A round pays 3/5 each if both cooperate, 1/5 if both defect; a defector gets 1 from
    a cooperator, who gets 0. An illegal move pays 0.

    Args:
        rounds: rounds of an episode, at least 1.
        opponents: names of the opponents that may be met: all_c, all_d (always the same move), tit_for_tat and
            suspicious_tft (the player's last move; first cooperate, or first defect), grim (defects after the player's
            first defection), pavlov (cooperates first, then if both moved alike last time). Default: all.
    """

    moves = (C, D)
    payoffs = ((0.6, 0.0), (1.0, 0.2))
    kinds = (
        Always("all_c", C),
        Always("all_d", D),
        TitForTat("tit_for_tat", C),
        Grim(),
        Pavlov(),
        TitForTat("suspicious_tft", D),
    )

    def __init__(self, rounds: int = 5, opponents: Sequence[str] | None = None, **kwargs: Any) -> None:
        super().__init__(rounds, 0.0, opponents, **kwargs)

    def rules(self) -> str:
        if self.style == "terse":
            return "dilemma"
        return (
            "You play a game against an opponent, the same opponent in every episode. The opponent has a hidden "
            f"strategy and starts anew in each episode. An episode has {self.rounds} "
            f"round{'s' if self.rounds > 1 else ''}. In each round you and the opponent move at the same time. If both "
            "cooperate, you get 0.6 points. If both defect, you get 0.2 points. If you defect and the opponent "
            "cooperates, you get 1 point. If you cooperate and the opponent defects, you get 0 points. Reply "
            f"{self._replies}."
        )

    def is_success(self, rewards: float, wins: int) -> bool:
        return rewards >= 0.6 * self.rounds - 1e-9
