"""Blackjack against a dealer whose rules are hidden: the total at which he stands, and what a tie does.

Cards come from an infinite deck and count as in gymnasium's Blackjack-v1 (Sutton and Barto 2018, example 5.1). Both
rules change when it is best to stop, and they show only in the dealer's hands, one at a time: a policy that forgets
them plays every hand against the average dealer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from metarlgym.datatypes import JSON, Episode, Optimum, Step, Turn
from metarlgym.env import Env
from metarlgym.envs import blackjack_solver as play
from metarlgym.envs.wording import choices
from metarlgym.whole_numbers import check_whole

MOVES = ("hit", "stand")
_REPLIES = choices(0, *MOVES, quoted=True)
BLIND_EPISODES = 3
"""Number of remaining episodes the oracle assumes if unknown, including the current one."""
NAMES = ["", "ace", *map(str, range(2, 11))]
_NUMBER = re.compile(r"\d+|ace")
_STATE = re.compile(r"total (?P<total>\d+)(?P<soft>, with an ace as 11)?\. The dealer shows (?P<first>\w+)\.")
_TERSE_STATE = re.compile(r"(?:h|(?P<soft>s))(?P<total>\d+) d(?P<first>\w+)$")
_SHOWN = re.compile(r"The dealer holds ([^:]+): total \d+(?:, above 21|(, a tie\. A tie (\w+)))?")
_TERSE_SHOWN = re.compile(r"^((?:(?:\d+|ace) )+)(?:(tie )(\w+)|win|lose)")


class Blackjack(Env):
    """Some hands against one dealer. A hand that is won pays 1 and one that is lost -1.

    Args:
        hands: hands of an episode, at least 1.
        turns: turns of an episode, at least 1, after which the hands left are lost; default 20 a hand, enough for
            every hand.
    """

    action_words = 1
    uniform_tasks = True

    def __init__(self, hands: int = 5, turns: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hands = hands = check_whole("hands", hands, 1)
        enough = play.HAND_TURNS * hands
        self._most = self.max_turns = enough if turns is None else check_whole("turns", turns, 1)
        self._limit = None if self._most >= enough else self._most
        self._seen, self._shown = (_TERSE_STATE, _TERSE_SHOWN) if self.style == "terse" else (_STATE, _SHOWN)
        self.reward_range = (-float(hands), 1.0)  # type: ignore[misc]

    def rules(self) -> str:
        if self.style == "terse":
            return "blackjack"
        hands = f"{self.hands} hands" if self.hands > 1 else "1 hand"
        return (
            f"You play {hands} of blackjack in each episode. Cards count 2 to 10; an ace counts 11, or 1 if 11 is too "
            "much. A hit draws a card, and above 21 you lose the hand. After a stand the dealer shows its hidden "
            "card and draws until its total is at least a hidden number from 15 to 19. Above 21 it loses; else the "
            "higher total wins. A second hidden rule says if a tie wins, loses or pays 0 points. Both rules are the "
            f"same in every episode. A win pays 1 point, a loss -1 point. An episode has {self._most} "
            f"turn{'s' if self._most > 1 else ''}; a hand not finished by then is lost. "
            f"Reply {_REPLIES}."
        )

    def sample_task(self, rng: random.Random) -> JSON:
        return rng.choice(self.all_tasks())

    def all_tasks(self) -> list[JSON]:
        return [{"stand": stand, "tie": tie} for stand in play.STANDS for tie in play.TIES]

    def on_reset(self, params: JSON, rng: random.Random) -> str:
        self._stand, self._tie = params["stand"], params["tie"]
        self._rng, self._left, self._sum = rng, self.hands, 0.0
        self._deal()
        return self._state()

    def on_step(self, action: str) -> Step:
        move = self.parse(action, MOVES)
        terse = self.style == "terse"
        reward: float | None = None
        if move == "hit":
            card = self._card()
            self._cards.append(card)
            total = play.count(self._cards)[0]
            text = "" if terse else f"You draw {NAMES[card]}."
            if total >= play.BUST:
                reward = -1.0
                text = "bust" if terse else f"{text} Your total is {total}, above 21. You lose: -1 point."
        elif move == "stand":
            text, reward = self._compare(play.count(self._cards)[0])
        else:
            text = "invalid" if terse else f"That is no move: the turn is lost. Reply {_REPLIES}."
        if reward is not None:
            self._left -= 1
            self._deal()
        over = self._left == 0
        paid = reward or 0.0
        if not over and self.turns == self.max_turns:
            paid -= self._left
            points = f"{-self._left} point{'s' if self._left > 1 else ''}"
            text += " lost" if terse else f" No turn is left. Unfinished hands: {points}."
        elif not over:
            text += f" {self._state()}"
        self._sum += paid
        won = self._sum > 0 and (over or self.turns == self.max_turns)
        return Step(text.strip(), paid, over, False, {"valid": move in MOVES, "success": won})

    def _compare(self, total: int) -> tuple[str, float]:
        """The text and the reward of a stand."""
        dealer = self._dealer
        while (dealt := play.count(dealer)[0]) < self._stand:
            dealer.append(self._card())
        names = [NAMES[card] for card in dealer]
        tied = dealt == total
        won = dealt >= play.BUST or total > dealt
        reward = play.TIE_PAYS[play.TIES.index(self._tie)] if tied else 1.0 if won else -1.0
        points = f"{reward:g} point{'' if reward else 's'}"
        if self.style == "terse":
            return f"{' '.join(names)} {f'tie {self._tie}' if tied else 'win' if won else 'lose'}", reward
        above = ", above 21" if dealt >= play.BUST else ""
        end = f", a tie. A tie {self._tie}" if tied else f"{above}. You {'win' if won else 'lose'}"
        return f"You stand at {total}. The dealer holds {_listed(names)}: total {dealt}{end}: {points}.", reward

    def _deal(self) -> None:
        self._cards = [self._card(), self._card()]
        self._dealer = [self._card(), self._card()]

    def _card(self) -> int:
        return min(10, 1 + int(13 * self._rng.random()))

    def _state(self) -> str:
        total, soft = play.count(self._cards)
        first = NAMES[self._dealer[0]]
        if self.style == "terse":
            return f"{'s' if soft else 'h'}{total} d{first}"
        number = f"Hand {self.hands - self._left + 1} of {self.hands}: you hold" if self.hands > 1 else "You hold"
        return (
            f"{number} {_listed([NAMES[card] for card in self._cards])}, total {total}"
            f"{', with an ace as 11' if soft else ''}. The dealer shows {first}. {choices(0, *MOVES)}?"
        )

    def random_action(self, rng: random.Random) -> str:
        return self._write(rng.choice(MOVES))

    def legal_actions(self) -> Sequence[str]:
        return list(map(self._write, MOVES))

    def oracle(self, history: Sequence[Episode]) -> str:
        """Plays to the plan; in a long trial to one that looks ahead less far."""
        now = history[-1]
        seen = now.turns[-1].observation if now.turns else now.opening
        if (state := self._seen.search(seen)) is None:
            return self._write("stand")
        hand, first = (int(state["total"]), bool(state["soft"])), NAMES.index(state["first"])
        for episodes in (history, history[-1:], ()):  # another task's episodes may contradict the current one
            belief: play.Belief | None = play.EVERYTHING
            for turn in (turn for episode in episodes for turn in episode.turns):
                belief = self._learn(belief, turn) if belief else None
            if belief:
                break
        shape, episode = (self.horizon, self.horizon_free), len(history) - 1
        if self.horizon <= episode:
            shape, episode = (BLIND_EPISODES, 0), 0
        plan, episode = play.ahead(self.hands, self._limit, *shape, episode)
        left = self.hands - sum(map(self._finished, now.turns)), self._most - len(now.turns)
        return self._write("hit" if plan.hits(episode, *left, belief or play.EVERYTHING, hand, first) else "stand")

    def _finished(self, turn: Turn) -> bool:
        """Whether a turn ended a hand."""
        text = turn.observation
        return text.startswith("bust") or "above 21" in text or bool(self._shown.search(text))

    def _learn(self, belief: play.Belief, turn: Turn) -> play.Belief | None:
        """The belief after a turn; None if it contradicts what was believed."""
        if (shown := self._shown.search(turn.observation)) is None:
            return belief
        dealer = [NAMES.index(name) for name in _NUMBER.findall(shown[1])]
        return play.learn(belief, dealer, play.TIES.index(shown[3]) if shown[2] else None)

    def optimal_returns(self, episodes: int, free_shots: int = 0) -> Optimum:
        """Exact up to a trial's length that `WORK_LIMIT` sets; then the bound of a player who is told the task."""
        if plan := play.plan(self.hands, self._limit, episodes, free_shots):
            return Optimum(sum(plan.curve[free_shots:]), tuple(plan.curve), "exact")
        if (each := play.bound(self.hands, self._limit)) is None:
            return Optimum(None, None, "none")
        return Optimum(each * (episodes - free_shots), (each,) * episodes, "upper_bound")

    def no_memory_bound(self, episodes: int) -> float | None:
        plan = play.plan(self.hands, self._limit, 1, 0)
        return None if plan is None else episodes * plan.curve[0]

    def _write(self, move: str) -> str:
        return move if self.style == "terse" else f"[{move}]"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
