"""Mastermind: find a hidden code; the response to each guess is two counts. The code stays the same across episodes.

Feedback is exact (right symbol, right place) and misplaced (right symbol, wrong place). With 3 of 6 different symbols
and 3 guesses per episode, optimal play wins episode 1 in 44 of 120 cases and episode 2 always.
"""

from __future__ import annotations

import math
import random
import re
import string
from collections.abc import Iterable, Sequence
from typing import Any

from metarlgym.datatypes import JSON, ConfigError, Episode, MetaRLGymError, Optimum, Step
from metarlgym.env import MOST_LISTED, Env
from metarlgym.envs import mastermind_search as play
from metarlgym.whole_numbers import check_whole

BLIND_EPISODES = 3
"""Number of remaining episodes the oracle assumes if unknown, including the current one."""
LIST_LIMIT = 100_000
"""Maximum number of codes that `all_tasks` lists."""


class _Codes:
    """The legal codes, without a list of them."""

    def __init__(self, length: int, alphabet: frozenset[str], repeats: bool) -> None:
        self.length, self.alphabet, self.repeats = length, alphabet, repeats

    def __contains__(self, word: object) -> bool:
        if not isinstance(word, str) or len(word) != self.length or not self.alphabet.issuperset(word):
            return False
        return self.repeats or len(set(word)) == self.length


class Mastermind(Env):
    """One game against a hidden code. Finding it pays 1; a lost episode does not reveal it.

    Args:
        length: symbols of a code, at least 1.
        symbols: number of different symbols, 2 to 26: digits from 1 if at most 9, else letters from a.
        repeats: whether a symbol may occur twice in a code. Guesses must be legal codes.
        guesses: turns of an episode, at least 1.
    """

    uniform_tasks = True

    def __init__(
        self, length: int = 3, symbols: int = 6, repeats: bool = False, guesses: int = 3, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        length, guesses = check_whole("length", length, 1), check_whole("guesses", guesses, 1)
        symbols = check_whole("symbols", symbols, 2, 26, ", the letters a to z")
        if not repeats and length > symbols:
            raise ConfigError(
                f"length={length} is more than symbols={symbols}: without repeats no code exists; set repeats=True."
            )
        self.length = self.action_words = length
        self.symbols = symbols
        self.repeats = bool(repeats)
        self.guesses = self.max_turns = guesses
        self._alphabet = (string.digits[1:] if symbols <= 9 else string.ascii_lowercase)[:symbols]
        self._codes = _Codes(length, frozenset(self._alphabet), self.repeats)
        symbol = f"[{self._alphabet}]"
        self._spaced = re.compile(rf"(?<!\w){symbol}(?:[ ,-]+{symbol}){{{length - 1}}}(?!\w)", re.IGNORECASE)
        self.codes = symbols**length if repeats else math.perm(symbols, length)
        """Number of codes."""

    def rules(self) -> str:
        if self.style == "terse":
            return "mastermind"
        kind = "may be repeated" if self.repeats else "all different"
        return (
            f"A code of {self.length} symbols from {self._alphabet[0]} to {self._alphabet[-1]}, {kind}, is hidden. It "
            f"is the same code in every episode. In each episode you have {self.guesses} "
            f"guess{'es' if self.guesses > 1 else ''}. After a wrong guess you are told how many of its symbols are in "
            "the right place and how many belong in another place. The right code pays 1 point and ends the episode. "
            f"Reply with one code in brackets, {self._form}."
        )

    @property
    def _form(self) -> str:
        """How to write a guess. Any code may be the example: no symbol is better than another."""
        return f'for example "[{(self._alphabet * self.length)[: self.length]}]"'

    def sample_task(self, rng: random.Random) -> JSON:
        draw = rng.choices if self.repeats else rng.sample
        return {"code": "".join(draw(self._alphabet, k=self.length))}

    def all_tasks(self) -> Iterable[JSON] | None:
        if self.codes > LIST_LIMIT:
            return None
        return [{"code": self._spell(code)} for code in play.book(self.length, self.symbols, self.repeats).codes]

    def on_reset(self, params: JSON, rng: random.Random) -> str:
        self._code = params["code"]
        return "" if self.style == "terse" else "What is your guess, in brackets?"

    def on_step(self, action: str) -> Step:
        guess = self._parse(action)
        terse = self.style == "terse"
        if guess is None:
            text = (
                "invalid" if terse else f"That is no legal code: the guess is lost. Reply with one code, {self._form}."
            )
            return Step(text, 0.0, False, False, {"valid": False, "success": False})
        code = self._code
        if guess == code:
            return Step(
                "solved" if terse else f"{guess} is the code! 1 point.",
                1.0,
                True,
                False,
                {"valid": True, "success": True},
            )
        exact = sum(map(str.__eq__, guess, code))
        misplaced = sum([min(guess.count(s), code.count(s)) for s in set(guess)]) - exact
        text = (
            f"e{exact} m{misplaced}" if terse else f"{guess} is wrong. Right place: {exact}. Other place: {misplaced}."
        )
        return Step(text, 0.0, False, False, {"valid": True, "success": False})

    def random_action(self, rng: random.Random) -> str:
        return self._write(self.sample_task(rng)["code"])

    def legal_actions(self) -> Sequence[str] | None:
        if self.codes > MOST_LISTED:
            return None
        return [self._write(self._spell(code)) for code in play.book(self.length, self.symbols, self.repeats).codes]

    def oracle(self, history: Sequence[Episode]) -> str:
        """The exact search where affordable; else the possible code with the most different answers."""
        if self.codes > play.BOOK_LIMIT:
            raise MetaRLGymError(
                f"{self.env_id}: the oracle lists at most {play.BOOK_LIMIT} codes and length={self.length}, "
                f"symbols={self.symbols} has {self.codes}: make one of them smaller."
            )
        book = play.book(self.length, self.symbols, self.repeats)
        guessed: list[tuple[int, ...]] = []
        codes = 0
        for episodes in (history, history[-1:], ()):  # another task's episodes may contradict the current one
            codes = book.everything
            for episode in episodes:
                for turn in episode.turns:
                    guess = self._parse(turn.action) if turn.valid else None
                    if guess is None:
                        continue
                    code = tuple(map(self._alphabet.index, guess))
                    guessed.append(code)
                    if turn.reward > 0:
                        codes &= 1 << book.place[code]
                    else:
                        exact, misplaced = map(int, re.findall(r"[em:] ?(\d+)", turn.observation))
                        codes &= book.consistent(code, exact, misplaced)
            if codes:
                break
        episode_now = len(history) - 1
        if self.horizon > episode_now:
            shape = self.horizon, self.horizon_free
        else:
            shape, episode_now = (BLIND_EPISODES, 0), 0
        done = episode_now * self.guesses + len(history[-1].turns)
        return self._write(self._spell(book.codes[play.choose(book, self._plan(*shape), codes, done, guessed)]))

    def optimal_returns(self, episodes: int, free_shots: int = 0) -> Optimum:
        """Exact where the search is affordable (4 of 6 with repeats is), else unknown."""
        plan = self._plan(episodes, free_shots)
        if plan is None:
            return Optimum(None, None, "none")
        curve = tuple(plan.curve())
        return Optimum(sum(curve[free_shots:]), curve, "exact")

    def no_memory_bound(self, episodes: int) -> float | None:
        plan = self._plan(1, 0)
        return None if plan is None else episodes * plan.curve()[0]

    def _plan(self, episodes: int, free_shots: int) -> play.Search | None:
        if self.codes > play.SEARCH_LIMIT:
            return None
        return play.search(play.book(self.length, self.symbols, self.repeats), self.guesses, episodes, free_shots)

    def _parse(self, action: str) -> str | None:
        """The legal code in a message, or None; symbols may be separated by spaces, commas or hyphens."""
        if self.style == "terse":
            code = "".join(self.parse(action).replace(",", " ").split()).lower()
        else:
            code = self.parse(self._spaced.sub(lambda found: re.sub("[ ,-]", "", found[0]), action), self._codes)
        return code if code in self._codes else None

    def _spell(self, code: Sequence[int]) -> str:
        return "".join([self._alphabet[s] for s in code])

    def _write(self, code: str) -> str:
        return " ".join(code) if self.style == "terse" else f"[{code}]"
