"""The best play of Kuhn poker against an unknown opponent with a pure strategy, by a recursion over beliefs.

What happens in a hand has probability 0, 1/2 or 1 under each opponent: where its card is not shown, it may hold either
of two. A belief is therefore a count of halvings for each opponent, and its posterior weight 2 ** -halvings.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

from metarlgym.envs.opponents import Opponent

CARDS = ("jack", "queen", "king")
"""From the lowest to the highest."""
WORK_LIMIT = 30_000
"""Number of beliefs after which the recursion gives up; 5 to 10 seconds. Counted, not timed, so that the outcome is the
same everywhere.
"""
LONGEST = 150
"""Maximum number of hands of a trial: the recursion is as deep as a trial is long."""

Belief = tuple[tuple[int, int], ...]
"""(opponent, halvings) of those that are possible; the fewest halvings are 0."""
Outcome = tuple[float, float, Belief]
"""Probability (given what came before), chips won, and the belief after the hand."""


class TooLong(Exception):
    """The recursion has exceeded its work limit."""


@dataclass(frozen=True)
class Table:
    """Kuhn poker as the recursion sees it: who may be met."""

    opponents: tuple[Opponent, ...]

    @property
    def prior(self) -> Belief:
        return tuple((i, 0) for i in range(len(self.opponents)))

    def answer(self, opponent: int, card: str, action: str) -> str:
        return self.opponents[opponent].move((card, action))

    def weigh(self, belief: Belief, player: str, action: str, reply: str, shown: str | None = None) -> Belief:
        """The belief once the opponent has answered a check or a bet of a player with the card `player`.

        Args:
            shown: the opponent's card if it was shown.
        """
        cards = [card for card in CARDS if card != player and shown in (None, card)]
        found = []
        for i, halvings in belief:
            fits = sum(self.answer(i, card, action) == reply for card in cards)
            if fits:
                found.append((i, halvings + (fits == 1 and len(cards) == 2)))
        least = min((halvings for _, halvings in found), default=0)
        return tuple([(i, halvings - least) for i, halvings in found])

    def chances(self, belief: Belief, player: str, action: str) -> dict[tuple[str, str], float]:
        """Probability of each (opponent's card, its answer)."""
        total = sum(2.0**-halvings for _, halvings in belief)
        found: dict[tuple[str, str], float] = {}
        for i, halvings in belief:
            for card in CARDS:
                if card != player:
                    key = card, self.answer(i, card, action)
                    found[key] = found.get(key, 0.0) + 2.0**-halvings / total / 2
        return found


def showdown(player: str, opponent: str, chips: int) -> int:
    """Chips won when both cards are shown."""
    return chips if CARDS.index(player) > CARDS.index(opponent) else -chips


class Plan:
    """The best play of `hands` hands, of which the last `counted` count.

    Raises:
        TooLong: the trial is too long.
    """

    def __init__(self, table: Table, hands: int, counted: int) -> None:
        self.table = table
        self.hands = hands
        self.counted = counted
        self.best: dict[tuple[int, Belief], float] = {}
        self.work = 0
        if hands > LONGEST:
            raise TooLong
        for left in range(1, hands + 1):  # from the end, so that no recursion is deeper than it must be
            self.value(left, table.prior)

    def value(self, left: int, belief: Belief) -> float:
        """The best expected chips in the `left` last hands that count."""
        if left == 0:
            return 0.0
        known = self.best.get((left, belief))
        if known is not None:
            return known
        self.work += 1
        if self.work > WORK_LIMIT:
            raise TooLong
        total = 0.0
        for card in CARDS:
            total += max(self.worth(left, self.outcomes(left, belief, card, action)) for action in ("check", "bet")) / 3
        self.best[left, belief] = total
        return total

    def worth(self, left: int, outcomes: Iterable[Outcome]) -> float:
        """Expected value of a hand that ends in one of the outcomes, with `left` hands left before it."""
        counts = left <= self.counted
        total = 0.0
        for chance, chips, after in outcomes:
            total += chance * (chips * counts + self.value(left - 1, after))
        return total

    def outcomes(self, left: int, belief: Belief, card: str, action: str) -> list[Outcome]:
        """How the hand may end after the player's first action, if the player goes on in the best way."""
        found: list[Outcome] = []
        weigh = self.table.weigh
        bets = 0.0
        for (other, reply), chance in self.table.chances(belief, card, action).items():
            if reply == "bet":
                bets += chance
            elif reply == "fold":
                found.append((chance, 1, weigh(belief, card, action, reply)))
            else:
                chips = showdown(card, other, 2 if reply == "call" else 1)
                found.append((chance, chips, weigh(belief, card, action, reply, other)))
        if bets:
            ways = [self.after_bet(belief, card, way) for way in ("fold", "call")]
            best = max(ways, key=lambda way: self.worth(left, way))
            found += [(bets * chance, chips, after) for chance, chips, after in best]
        return found

    def after_bet(self, belief: Belief, card: str, way: str) -> list[Outcome]:
        """How the hand may end if the player has checked, the opponent has bet, and the player folds or calls."""
        weigh = self.table.weigh
        if way == "fold":
            return [(1.0, -1, weigh(belief, card, "check", "bet"))]
        chances = {c: p for (c, reply), p in self.table.chances(belief, card, "check").items() if reply == "bet"}
        total = sum(chances.values())
        return [
            (p / total, showdown(card, other, 2), weigh(belief, card, "check", "bet", other))
            for other, p in chances.items()
        ]

    def move(self, left: int, belief: Belief, card: str, faces_bet: bool) -> str:
        """The best action with `left` hands left, this one included; `belief` is that before the hand.

        Raises:
            TooLong: this position was not reached before, and the way from here is too long.
        """
        self.work = 0
        if faces_bet:
            return max(("fold", "call"), key=lambda way: self.worth(left, self.after_bet(belief, card, way)))
        return max(("check", "bet"), key=lambda way: self.worth(left, self.outcomes(left, belief, card, way)))

    def chips(self) -> list[float]:
        """Expected chips of each hand under the best play."""
        found = []
        here = {self.table.prior: 1.0}
        for left in range(self.hands, 0, -1):
            mean = 0.0
            there: dict[Belief, float] = {}
            for belief, probability in here.items():
                for card in CARDS:
                    ways = [self.outcomes(left, belief, card, action) for action in ("check", "bet")]
                    for chance, chips, after in max(ways, key=lambda way: self.worth(left, way)):
                        mean += probability * chance * chips / 3
                        there[after] = there.get(after, 0.0) + probability * chance / 3
            found.append(mean)
            here = there
        return found


@lru_cache(maxsize=32)
def plan(table: Table, hands: int, counted: int) -> Plan | None:
    """The finished plan; None if it takes too long."""
    try:
        return Plan(table, hands, counted)
    except TooLong:
        return None


@lru_cache(maxsize=32)
def curve(table: Table, hands: int, episodes: int, free: int) -> tuple[float, ...] | None:
    """Expected return of each episode under the best play; None if that takes too long."""
    found = plan(table, hands * episodes, hands * (episodes - free))
    if found is None:
        return None
    chips = found.chips()
    return tuple(sum(chips[hands * n : hands * (n + 1)]) for n in range(episodes))


@lru_cache(maxsize=32)
def known(table: Table) -> float:
    """Expected chips of a hand if the opponent is known: no player earns more."""
    values = []
    for i in range(len(table.opponents)):
        one = Table((table.opponents[i],))
        values.append(Plan(one, 1, 1).value(1, one.prior))
    return sum(values) / len(values)


def choose(table: Table, hands: int, counted: int, left: int, belief: Belief, card: str, faces_bet: bool) -> str:
    """The best action in a trial of `hands` hands; where that is too long, the best for this hand alone."""
    found = plan(table, hands, counted)
    if found is not None:
        try:
            return found.move(left, belief, card, faces_bet)
        except TooLong:
            pass
    return Plan(table, 1, 1).move(1, belief, card, faces_bet)


DEALS: Sequence[tuple[str, str]] = tuple(permutations(CARDS, 2))
"""(player's card, opponent's card), equally likely."""
