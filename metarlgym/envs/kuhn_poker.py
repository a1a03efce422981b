"""Kuhn poker against a hidden opponent: learn when it bluffs and when it calls, then bet and call accordingly.

Three cards, one for each player, one bet (Kuhn 1950, A Simplified Two-Person Poker). The opponent is the same in every
episode. Its habits show only at a showdown, and a fold hides them, so to call is also to explore.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import product
from typing import Any

from metarlgym.datatypes import JSON, Episode, MetaRLGymError, Optimum, Step
from metarlgym.envs import kuhn_poker_solver as solver
from metarlgym.envs.kuhn_poker_opponents import Habits
from metarlgym.envs.opponents import OpponentGame
from metarlgym.envs.wording import choices
from metarlgym.whole_numbers import check_whole

BLIND_EPISODES = 3
"""Number of remaining episodes the oracle assumes if unknown, including the current one."""
FIRST, SECOND = ("check", "bet"), ("call", "fold")
"""The player's actions, and those after a check that the opponent answers with a bet."""
_CARD = re.compile("|".join(solver.CARDS))
_Hand = tuple[str, str, str, str | None]
"""The player's card and action, the opponent's answer, and its card if it was shown."""


class KuhnPoker(OpponentGame):
    """`hands` hands of Kuhn poker; the player acts first in each. A chip is a point. An illegal action forfeits the
    hand: 1 chip is lost, and no card is shown.

    The cards come from the episode's own luck and do not depend on the play, so policies that play the same trial seed
    hold the same cards.

    Args:
        hands: hands of an episode, at least 1.
        opponents: names of the opponents that may be met: `plain`, or any of the habits bluffs (bets the jack after a
            check), bets_queen (the same with the queen), calls_queen (calls a bet with the queen), joined by +, such
            as `bluffs+calls_queen`. Default: all eight.
    """

    reward_range = (-2.0, 2.0)
    action_words = 1
    kinds = tuple(Habits(*bits) for bits in product((False, True), repeat=3))

    def __init__(self, hands: int = 3, opponents: Sequence[str] | None = None, **kwargs: Any) -> None:
        super().__init__(opponents, **kwargs)
        self.hands = check_whole("hands", hands, 1)
        self.max_turns = 2 * self.hands

    def rules(self) -> str:
        if self.style == "terse":
            return "poker"
        return (
            "You play poker against an opponent, the same opponent with the same habits in every episode. There are "
            "three cards: jack, queen, king. The king is the highest, the jack the lowest. An episode has "
            f"{self.hands} hand{'s' if self.hands > 1 else ''}. In each hand you and the opponent get one card each. "
            "You see only your card. You check or bet. If you check and the opponent checks too, the higher card wins "
            "1 point. If you check and the opponent bets, you call or fold. If you bet, the opponent calls or folds. "
            "After a call the higher card wins 2 points. Who folds loses 1 point, and no card is shown. The points you "
            'win are added, the points you lose are subtracted. Reply "[check]" or "[bet]", and to a bet "[call]" or '
            '"[fold]".'
        )

    def on_reset(self, params: JSON, rng: random.Random) -> str:
        self._opponent = self._begin_opponent(params, rng)
        self._rng = rng
        self._hand = 0
        self._sum = 0
        return self._deal()

    def _deal(self) -> str:
        """Deal the next hand and say what the player sees."""
        self._hand += 1
        self._legal = FIRST
        self._card, self._other = solver.DEALS[int(self._rng.random() * len(solver.DEALS))]
        if self.style == "terse":
            return f"deal {self._card}"
        return f"Hand {self._hand} of {self.hands}. Your card: {self._card}. {choices(0, *FIRST)}?"

    def on_step(self, action: str) -> Step:
        move = self.parse(action, self._legal)
        if move not in self._legal:
            legal = choices(0, *self._legal)
            text = "invalid" if self.style == "terse" else f"That is not legal now, only {legal}. The hand is lost."
            return self._end(text, -1, valid=False)
        if move == "fold":
            return self._end(self._told("You fold."), -1)
        if move == "call":
            return self._show("You call.", 2)
        reply = self._opponent.move((self._other, move))
        if reply == "bet":
            self._legal = SECOND
            text = "bet" if self.style == "terse" else f"You check. The opponent bets. {choices(0, *SECOND)}?"
            return Step(text, 0.0, False, False, {"valid": True, "success": False})
        if reply == "fold":
            return self._end(self._told("You bet. The opponent folds."), 1)
        return self._show(f"You {move}. The opponent {reply}s.", 2 if reply == "call" else 1)

    def _show(self, text: str, chips: int) -> Step:
        """Both cards are shown."""
        told = self._other if self.style == "terse" else f"{text} The opponent has the {self._other}."
        return self._end(told, solver.showdown(self._card, self._other, chips))

    def _told(self, text: str) -> str:
        return "" if self.style == "terse" else text

    def _end(self, text: str, chips: int, valid: bool = True) -> Step:
        """The hand is over; the next is dealt, if there is one."""
        self._sum += chips
        over = self._hand == self.hands
        if self.style == "terse":
            text = f"{'win' if chips > 0 else 'lose'} {abs(chips)} {text}".strip()
            text += "" if over else f" {self._deal()}"
        else:
            text += f" You {'win' if chips > 0 else 'lose'} {abs(chips)} point{'s' if abs(chips) > 1 else ''}."
            text += "" if over else f"\n{self._deal()}"
        return Step(text, float(chips), over, False, {"valid": valid, "success": over and self._sum > 0})

    def random_action(self, rng: random.Random) -> str:
        return self._write(rng.choice(self._legal))

    def legal_actions(self) -> Sequence[str]:
        return [self._write(action) for action in self._legal]

    def _write(self, action: str) -> str:
        return action if self.style == "terse" else f"[{action}]"

    def oracle(self, history: Sequence[Episode]) -> str:
        """Optimal for the remaining episodes where the recursion is affordable, else for the current hand alone."""
        if not self._all_deterministic:
            raise MetaRLGymError(
                f"{self.env_id}: the oracle knows only opponents with fixed answers: leave the others out of "
                f"opponents={list(self.opponents)}."
            )
        table = solver.Table(self._pool)
        hands, card, faces_bet = self._read(history[-1])
        for episodes in (history, history[-1:], ()):  # another task's episodes may contradict the current one
            belief = table.prior
            for episode in episodes:
                for hand in self._read(episode)[0]:
                    belief = table.weigh(belief, *hand) if hand else belief
            if table.weigh(belief, card, "check", "bet") if faces_bet else belief:
                break
        done = len(history) - 1
        known = self.horizon > done
        whole, free = (self.horizon, self.horizon_free) if known else (BLIND_EPISODES, 0)
        left = (whole - (done if known else 0)) * self.hands - len(hands)
        shape = whole * self.hands, (whole - free) * self.hands
        return self._write(solver.choose(table, *shape, left, belief, card, faces_bet))

    def _read(self, episode: Episode) -> tuple[list[_Hand | None], str, bool]:
        """The hands that are over (None: nothing was learned), the player's card, and whether it faces a bet."""
        hands: list[_Hand | None] = []
        card, faces_bet = _card_in(episode.opening), False
        for turn in episode.turns:
            told, _, deal = turn.observation.partition("deal " if self.style == "terse" else "\n")
            action = self.parse(turn.action, SECOND if faces_bet else FIRST) if turn.valid else ""
            if action == "check" and ("opponent bets" in told or told == "bet"):
                faces_bet = True
                continue
            shown = _card_in(told) or None
            if faces_bet:  # called, folded, or forfeited
                hands.append((card, "check", "bet", shown))
            elif action:
                reply = "check" if action == "check" else "call" if shown else "fold"
                hands.append((card, action, reply, shown))
            else:
                hands.append(None)
            card, faces_bet = _card_in(deal), False
        return hands, card, faces_bet

    def optimal_returns(self, episodes: int, free_shots: int = 0) -> Optimum:
        """Exact where the recursion is affordable, else what a player gets who knows the opponent. Unknown with an
        opponent that answers at random.
        """
        if not self._all_deterministic:
            return Optimum(None, None, "none")
        table = solver.Table(self._pool)
        curve = solver.curve(table, self.hands, episodes, free_shots)
        if curve is None:
            return Optimum(solver.known(table) * self.hands * (episodes - free_shots), None, "upper_bound")
        return Optimum(sum(curve[free_shots:]), curve, "exact")

    def no_memory_bound(self, episodes: int) -> float | None:
        """`episodes` times the optimum of one episode, which is what every episode is to a player who forgets."""
        one = self.optimal_returns(1)
        return episodes * one.total if one.kind == "exact" and one.total is not None else None


def _card_in(text: str) -> str:
    """The last card that a text names; empty if none."""
    return (_CARD.findall(text) or [""])[-1]
