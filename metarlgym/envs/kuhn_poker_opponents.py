"""The opponents of Kuhn poker: eight pure strategies that differ in three habits."""

from __future__ import annotations

from collections.abc import Sequence

from metarlgym.envs.opponents import Opponent


class Habits(Opponent):
    """Bets and calls with the king, never calls with the jack; the rest is habit.

    Args:
        bluffs: bets the jack after a check.
        bets: bets the queen after a check.
        calls: calls a bet with the queen.
    """

    def __init__(self, bluffs: bool, bets: bool, calls: bool) -> None:
        habits = (("bluffs", bluffs), ("bets_queen", bets), ("calls_queen", calls))
        self.name = "+".join(name for name, has in habits if has) or "plain"
        self._bets = {"jack": bluffs, "queen": bets, "king": True}
        self._calls = {"jack": False, "queen": calls, "king": True}

    def move(self, seen: Sequence[str]) -> str:
        """Its answer in this hand; `seen` is its card and what the player has done, `check` or `bet`."""
        card, action = seen
        if action == "check":
            return "bet" if self._bets[card] else "check"
        return "call" if self._calls[card] else "fold"
