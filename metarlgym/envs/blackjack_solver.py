"""Exact play of Blackjack against a dealer with hidden rules, by a recursion over beliefs.

A dealer's hand is as probable for every standing total that is above all of its totals before the last card and not
above its last. So a uniform belief about the standing total is always uniform on a range, and a tie tells at once what
ties do: 15 ranges times 4 states of the ties are all that a player can know. The recursion runs backwards over the
hands of all episodes and, within a hand, over the turns left. Its criterion is the sum over the counted episodes; the
return of each single episode under the same play is carried along.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np

STANDS = (15, 16, 17, 18, 19)
TIES = ("wins", "loses", "pushes")
TIE_PAYS = (1.0, -1.0, 0.0)
UNKNOWN = len(TIES)
"""The state of a belief that has not seen a tie."""
HAND_TURNS = 20
"""No hand has more moves: two aces, 19 aces more, and a stand at 21."""
WORK_LIMIT = 1_200
"""Number of turns times recorded values that a plan may have; about 5 seconds. Counted, not timed, so that the outcome
is the same everywhere.
"""
BUST = 22

Hand = tuple[int, bool]
"""The total of some cards, and whether an ace counts 11 in it."""
Belief = tuple[int, int]
"""Number of the range of the standing total, and the state of the ties."""

RANGES = [(low, high) for low in STANDS for high in STANDS if low <= high]
EVERYTHING: Belief = (RANGES.index((STANDS[0], STANDS[-1])), UNKNOWN)
CARD_CHANCES = {card: (4 if card == 10 else 1) / 13 for card in range(1, 11)}
HANDS: list[Hand] = [(total, False) for total in range(4, 22)] + [(total, True) for total in range(12, 22)]


def add(hand: Hand, card: int) -> Hand:
    """The hand with one more card; an ace, card 1, counts 11 where that fits."""
    total, soft = hand
    total += card
    if card == 1 and total + 10 < BUST:
        return total + 10, True
    if total >= BUST and soft:
        return total - 10, False
    return total, soft


def count(cards: Sequence[int]) -> Hand:
    hand = 0, False
    for card in cards:
        hand = add(hand, card)
    return hand


def learn(belief: Belief, dealer: Sequence[int], tie: int | None) -> Belief | None:
    """The belief after the dealer's hand and, if there was a tie, what it did; None if that is impossible."""
    totals = [min(count(dealer[:n])[0], BUST) for n in range(1, len(dealer) + 1)]
    low, high = RANGES[belief[0]]
    low = max(low, max(totals[:-1]) + 1)
    high = high if totals[-1] == BUST else min(high, totals[-1])
    if low > high or (tie is not None and belief[1] not in (UNKNOWN, tie)):
        return None
    return RANGES.index((low, high)), belief[1] if tie is None else tie


@cache
def _dealer() -> np.ndarray:
    """Chances of the dealer's hands: `[stand, first card, highest total before the last card, total]`.

    The third axis counts from 14, which stands for all below, and the fourth from 15; above 21 is 22.
    """
    chances = np.zeros((len(STANDS), 10, 5, 8))

    # Totals fall when an ace turns from 11 to 1, so the highest one is kept along the way.
    def walk(at: np.ndarray, stand: int, hand: Hand, top: int, chance: float) -> None:
        for card, likely in CARD_CHANCES.items():
            after = add(hand, card)
            if after[0] < stand:
                walk(at, stand, after, max(top, after[0] - 14), chance * likely)
            else:
                at[top, min(after[0], BUST) - 15] += chance * likely

    for number, stand in enumerate(STANDS):
        for card in range(1, 11):
            walk(chances[number, card - 1], stand, add((0, False), card), 0, 1.0)
    return chances


class _Tables:
    """What a hand is made of, for all beliefs at once."""

    def __init__(self) -> None:
        dealer = _dealer()
        beliefs = len(RANGES)
        self.hit = np.zeros((len(HANDS), len(HANDS)))
        """Chance of each hand after one more card."""
        self.bust = np.zeros(len(HANDS))
        self.deal = np.zeros(len(HANDS))
        """Chance of each hand of two cards."""
        place = {hand: number for number, hand in enumerate(HANDS)}
        for hand, number in place.items():
            for card, chance in CARD_CHANCES.items():
                after = add(hand, card)
                if after[0] < BUST:
                    self.hit[number, place[after]] += chance
                else:
                    self.bust[number] += chance
        for one, chance in CARD_CHANCES.items():
            for other, likely in CARD_CHANCES.items():
                self.deal[place[count((one, other))]] += chance * likely
        self.first = np.array(list(CARD_CHANCES.values()))
        self.shown = np.stack([dealer[low - 15 : high - 14].mean(0) for low, high in RANGES])
        """`[range, first card, highest total before, total]`."""
        self.after = np.zeros((beliefs, 5, 8), int)
        """The range that a dealer's hand leaves; 0 where that hand is impossible."""
        for number, (low, high) in enumerate(RANGES):
            for top in range(5):
                for final in range(8):
                    left = max(low, top + 15 if top else low), min(high, final + 15) if final < 7 else high
                    if left[0] <= left[1]:
                        self.after[number, top, final] = RANGES.index(left)
        totals, dealt = np.array([hand[0] for hand in HANDS]), np.arange(15, BUST + 1)
        self.sign = np.sign(totals[:, None] - dealt)
        self.sign[:, -1] = 1
        self.tie = self.sign == 0

    def stand(self, weight: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Values of a stand: `[range, ties, hand, first card, value]`, from `after`, those of the beliefs it leaves."""
        values = np.empty((len(RANGES), len(TIES) + 1, len(HANDS), 10, len(weight)))
        left = after[self.after]  # [range, top, final, ties, value]
        known = [np.asarray(pays * weight + left[..., ties, :]) for ties, pays in enumerate(TIE_PAYS)]
        for ties in range(len(TIES) + 1):
            tied = sum(known) / len(known) if ties == UNKNOWN else known[ties]
            # [range, first card, final, value]: the highest total before matters to what is known alone
            settled = np.einsum("rutf,rtfv->rufv", self.shown, left[..., ties, :])
            even = np.einsum("rutf,rtfv->rufv", self.shown, tied)
            paid = np.einsum("rutf,hf->rhu", self.shown, self.sign.astype(float))
            values[:, ties] = (
                paid[..., None] * weight
                + np.einsum("rufv,hf->rhuv", settled, (~self.tie).astype(float))
                + np.einsum("rufv,hf->rhuv", even, self.tie.astype(float))
            )
        return values


@cache
def _tables() -> _Tables:
    return _Tables()


class Plan:
    """The best play of `episodes` episodes of `hands` hands, the first `free` of which do not count.

    Args:
        hands: hands of an episode.
        turns: turns of an episode, after which the hands left are lost; None if every hand can be finished.
        episodes: H.
        free: free shots.
    """

    def __init__(self, hands: int, turns: int | None, episodes: int, free: int) -> None:
        self.hands, self.turns, self.episodes = hands, turns, episodes
        self.weights = np.eye(episodes + 1)[1:]
        self.weights[free:, 0] = 1.0
        """`[episode, value]`: the criterion, then each episode alone."""
        self._hits: dict[tuple[int, int], list[np.ndarray]] = {}
        start = np.zeros((len(RANGES), len(TIES) + 1, episodes + 1))
        for episode in reversed(range(episodes)):
            start = self._episode(episode, start)
        self.start = start
        """`[range, ties, value]`."""

    def _episode(self, episode: int, following: np.ndarray) -> np.ndarray:
        """The values at the start of an episode, from those at the start of the next."""
        weight = self.weights[episode]
        turns = HAND_TURNS if self.turns is None else self.turns
        after = [following] * turns  # with 0, 1, ... turns left when the hand is over
        for left in range(1, self.hands + 1):
            values, hits = _hand(weight, after, following - left * weight)
            self._hits[episode, left] = hits if self.turns else hits[-1:]
            if self.turns is None:
                after = [values[-1]] * turns
            else:
                after = [following - left * weight, *values[:-1]]
        return values[-1]

    def hits(self, episode: int, left: int, turns: int, belief: Belief, hand: Hand, first: int) -> bool:
        """Whether to draw a card, with `left` hands and `turns` turns left in the episode, this one included."""
        layers = self._hits[episode, max(1, min(left, self.hands))]
        layer = layers[-1 if self.turns is None else turns - 1]
        return bool(layer[belief[0], belief[1], HANDS.index(hand), first - 1])

    @property
    def curve(self) -> list[float]:
        """Expected return of each episode."""
        return [float(value) for value in self.start[EVERYTHING][1:]]

    @property
    def known(self) -> float:
        """The criterion for a player who is told the task, on average."""
        one = [RANGES.index((stand, stand)) for stand in STANDS]
        return float(self.start[one][:, :UNKNOWN, 0].mean())


def _hand(
    weight: np.ndarray, after: Sequence[np.ndarray], lost: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The values before a hand is dealt, and whether to hit, with 1, 2, ... turns left."""
    tables = _tables()
    values, hits = [], []
    inside = np.broadcast_to(lost[:, :, None, None], (*lost.shape[:2], len(HANDS), 10, len(weight)))
    stand = inside
    for number, ended in enumerate(after):
        if not number or ended is not after[number - 1]:
            stand = tables.stand(weight, ended)
        drawn = np.einsum("hg,rkguv->rkhuv", tables.hit, inside, optimize=True)
        drawn += tables.bust[:, None, None] * (ended - weight)[:, :, None, None]
        hit = drawn[..., 0] > stand[..., 0] + 1e-12
        inside = np.where(hit[..., None], drawn, stand)
        values.append(np.einsum("h,u,rkhuv->rkv", tables.deal, tables.first, inside, optimize=True))
        hits.append(hit)
    return values, hits


@lru_cache(maxsize=16)
def plan(hands: int, turns: int | None, episodes: int, free: int) -> Plan | None:
    """The plan for a trial's shape; None if it takes too long."""
    layers = hands if turns is None else hands * turns
    return None if layers * episodes * (episodes + 1) > WORK_LIMIT else Plan(hands, turns, episodes, free)


def ahead(hands: int, turns: int | None, episodes: int, free: int, episode: int) -> tuple[Plan, int]:
    """The plan and the number of the current episode in it; in a long trial a plan of fewer episodes and hands."""
    found = plan(hands, turns, episodes, free)
    if found is None:
        free, episodes, episode = max(0, free - episode), episodes - episode, 0
    while found is None:
        if episodes > 1:
            episodes = episodes // 2
            free = min(free, episodes - 1)
        else:
            hands, turns = max(1, hands // 2), None
        found = plan(hands, turns, episodes, free)
    return found, episode


def bound(hands: int, turns: int | None) -> float | None:
    """Expected return of an episode for a player who is told the task: an upper bound for everyone else."""
    if turns is None:
        found = plan(1, None, 1, 0)
        return None if found is None else hands * found.known
    found = plan(hands, turns, 1, 0)
    return None if found is None else found.known
