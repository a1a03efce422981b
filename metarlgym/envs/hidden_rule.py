"""Find a hidden rule on bits: it reorders the bits of an input and flips some. The rule is the same in every episode.

One episode has too few queries to know the rule, and then asks for the output of a random test input. So what earlier
episodes have shown, the answered tests too, must be kept. With 3 bits and 1 query, optimal play answers half of the
tests rightly in episode 1, 7 of 8 in episode 2, and all from episode 3 on.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Sequence
from typing import Any

from metarlgym.datatypes import JSON, Episode, Optimum, Step, Turn
from metarlgym.env import MOST_LISTED, Env
from metarlgym.envs import hidden_rule_solver as play
from metarlgym.whole_numbers import check_whole

BLIND_EPISODES = 3
"""Number of remaining episodes the oracle assumes if unknown, including the current one."""
TASK_LIMIT = 100_000
"""Maximum number of rules that `all_tasks` lists."""


class _Words:
    """The legal actions, without a list of them."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __contains__(self, word: object) -> bool:
        return isinstance(word, str) and len(word) == self.length and not word.strip("01")


class HiddenRule(Env):
    """Some queries of the player's choice, then one test. The right output pays 1; a wrong answer is only told wrong.

    Args:
        length: bits of an input and of an output, at least 2.
        queries: queries before the test, at least 1.
    """

    uniform_tasks = True

    def __init__(self, length: int = 3, queries: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.length = self.action_words = length = check_whole("length", length, 2)
        self.queries = check_whole("queries", queries, 1)
        self.max_turns = self.queries + 1
        self._words = _Words(length)
        self._spaced = re.compile(rf"(?<!\w)[01](?:[ ,-]+[01]){{{length - 1}}}(?!\w)")
        self._made: set[str] = set()
        self._asked = 0

    def rules(self) -> str:
        if self.style == "terse":
            return "rule"
        many = self.queries > 1
        return (
            f"A hidden rule turns an input of {self.length} bits into an output of {self.length} bits. It puts the "
            "bits into another order and then flips the bits at some places. It is the same rule in every episode. In "
            f"each episode you first send {self.queries} input{'s' if many else ''} of your choice and see the "
            f"output{'s' if many else ''}. Then you get a test input, and you answer with its output. The right output "
            f"pays 1 point. Reply with {self._form}."
        )

    @property
    def _form(self) -> str:
        """How to write an action. Any bits may be the example: no input is better than another."""
        return f'{self.length} bits in brackets, for example "[{("01" * self.length)[: self.length]}]"'

    def sample_task(self, rng: random.Random) -> JSON:
        return {"order": rng.sample(range(self.length), self.length), "flip": self._draw(rng)}

    def all_tasks(self) -> Iterable[JSON] | None:
        if math.factorial(self.length) * 2**self.length > TASK_LIMIT:
            return None
        return [{"order": list(order), "flip": flip} for order, flip in play.rules(self.length)]

    def on_reset(self, params: JSON, rng: random.Random) -> str:
        self._rule = params["order"], params["flip"]
        self._test = self._draw(rng)
        self._made = set()
        self._asked = 0
        return "" if self.style == "terse" else "Which input do you send, in brackets?"

    def on_step(self, action: str) -> Step:
        word = self._parse(action)
        terse = self.style == "terse"
        if self._asked == self.queries:
            return self._answer(word)
        self._asked += 1
        if word is None:
            text = "invalid" if terse else f"That is no input: the query is lost. Reply with {self._form}."
        else:
            self._made.add(word)
            output = play.apply(*self._rule, word)
            text = " ".join(output) if terse else f"Input {word} gives output {output}."
        if self._asked == self.queries:
            test = self._test
            text += f" test {' '.join(test)}" if terse else f" Now the test: what is the output of input {test}?"
        elif not terse:
            text += " Send the next input."
        return Step(text, 0.0, False, False, {"valid": word is not None, "success": False})

    def _answer(self, word: str | None) -> Step:
        terse = self.style == "terse"
        right = word == play.apply(*self._rule, self._test)
        if word is None:
            text = "invalid" if terse else f"That is no output of {self.length} bits. 0 points."
        elif right:
            text = "right" if terse else f"Right: input {self._test} gives output {word}. 1 point."
        else:
            text = "wrong" if terse else f"Wrong: input {self._test} does not give output {word}. 0 points."
        return Step(text, float(right), True, False, {"valid": word is not None, "success": right})

    def random_action(self, rng: random.Random) -> str:
        word = self._draw(rng)
        while self._asked < self.queries and word in self._made and len(self._made) < 2**self.length:
            word = self._draw(rng)
        return self._write(word)

    def legal_actions(self) -> Sequence[str] | None:
        return None if 2**self.length > MOST_LISTED else list(map(self._write, play.words(self.length)))

    def oracle(self, history: Sequence[Episode]) -> str:
        """The exact search where affordable; else queries that halve what is open, and a most likely answer."""
        episode, turns = len(history) - 1, history[-1].turns
        test = (
            "".join(re.findall("[01]", turns[-1].observation))[-self.length :] if len(turns) == self.queries else None
        )
        shape = self.horizon, self.horizon_free
        if self.horizon <= episode:
            shape, episode = (BLIND_EPISODES, 0), 0
        plan = play.search(self.length, self.queries, *shape)
        for episodes in (history, history[-1:]):  # another task's episodes may contradict the current one
            facts = [fact for shown in episodes for fact in self._facts(shown)]
            try:
                return self._write(play.choose(self.length, plan, facts, episode, len(turns), test))
            except play.Unread:
                continue
        return self._write(play.choose(self.length, plan, (), episode, len(turns), test))

    def _facts(self, episode: Episode) -> Iterable[tuple[str, str, bool]]:
        """What an episode has shown: inputs, outputs, and whether the output is right."""
        test = ""
        for number, turn in enumerate(episode.turns):
            bits = self._bits(turn)
            word = self._parse(turn.action) if turn.valid else None
            if number < self.queries:
                if word is not None:
                    start = 0 if self.style == "terse" else self.length
                    yield word, bits[start : start + self.length], True
                test = bits[-self.length :]
            elif word is not None:
                yield test, word, turn.reward > 0

    def optimal_returns(self, episodes: int, free_shots: int = 0) -> Optimum:
        """Exact where the bounds meet or the search is affordable; else the bound that counts every earlier test as one
        more query. What halving reaches then is the lower bound.
        """
        plan = play.search(self.length, self.queries, episodes, free_shots)
        low = play.floor(self.length, self.queries, episodes)
        high = play.ceiling(self.length, self.queries, episodes)
        if plan is not None or low[free_shots:] == high[free_shots:]:
            curve = low if plan is None else plan.curve()
            return Optimum(sum(curve[free_shots:]), tuple(curve), "exact")
        return Optimum(sum(high[free_shots:]), tuple(high), "upper_bound", lower=sum(low[free_shots:]))

    def no_memory_bound(self, episodes: int) -> float:
        return episodes * play.informed(self.length, self.queries)

    def _bits(self, turn: Turn) -> str:
        """All bits in the answer to a query; the test input, if there is one, is told last."""
        return "".join(re.findall("[01]", turn.observation))

    def _draw(self, rng: random.Random) -> str:
        return format(rng.getrandbits(self.length), f"0{self.length}b")

    def _parse(self, action: str) -> str | None:
        """The bits in a message, or None; they may be separated by spaces, commas or hyphens."""
        if self.style == "terse":
            word = "".join(self.parse(action).replace(",", " ").split())
        else:
            word = self.parse(self._spaced.sub(lambda found: re.sub("[ ,-]", "", found[0]), action), self._words)
        return word if word in self._words else None

    def _write(self, word: str) -> str:
        return " ".join(word) if self.style == "terse" else f"[{word}]"
