"""Wordle: find a hidden word; the answer to each guess says of every letter whether it is right, misplaced or absent.

A few guesses seldom suffice to tell similar words apart, so what earlier episodes ruled out has to be remembered.
After Wordle (Wardle 2021); with 6 guesses and one episode it is the game of PAPRIKA (Tajwar et al. 2025,
arXiv:2502.17543).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from metarlgym.datatypes import JSON, Episode, MetaRLGymError, Optimum, Step
from metarlgym.env import MOST_LISTED, Env
from metarlgym.envs import wordle_solver as play
from metarlgym.envs.word_lists import MOST_SHOWN, RHYMES, check_words
from metarlgym.envs.wording import choices
from metarlgym.whole_numbers import check_whole

BLIND_EPISODES = 3
"""Number of remaining episodes the oracle assumes if unknown, including the current one."""
CHAT = ("absent", "other place", "right place")
TERSE = ("x", "y", "g")
"""What is told of a letter: gray, yellow or green."""
_TOLD = re.compile(r"absent|other place|right place|\b[xyg]\b")
_CODE = {text: code for texts in (CHAT, TERSE) for code, text in enumerate(texts)}


class Wordle(Env):
    """One search for a word of a list. Finding it pays 1; a lost episode does not reveal it.

    Args:
        words: the words that may be hidden and guessed, all of one length: a list, or the name of a shipped one
            (`common3` to `common8`, common English words of 3 to 8 letters).
        guesses: turns of an episode, at least 1.
    """

    uniform_tasks = True

    def __init__(self, words: str | Sequence[str] = RHYMES, guesses: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.words = check_words(words, one_length=True)
        self.guesses = self.max_turns = check_whole("guesses", guesses, 1)
        self.length = self.action_words = len(self.words[0])
        self._shipped = isinstance(words, str)
        self._legal = frozenset(self.words)

    def rules(self) -> str:
        if self.style == "terse":
            return "wordle"
        plural = "es" if self.guesses > 1 else ""
        if self._listed:
            kind = f"One of {len(self.words)} words"
            reply = f"Reply with one of the words in brackets, {choices(0, *self.words, quoted=True)}."
        else:
            kind = (
                f"A common English word of {self.length} letters" if self._shipped else f"A {self.length}-letter word"
            )
            reply = f'Reply with one word in brackets, for example "[{self.words[len(self.words) // 2]}]".'
        return (
            f"{kind} is hidden. It is the same word in every episode. In each episode you have {self.guesses} "
            f'guess{plural}. After a wrong guess you are told about each letter: "right place" if the hidden word has '
            'it there, "other place" if the hidden word has it elsewhere, "absent" if not. The right word pays 1 point '
            f"and ends the episode. {reply}"
        )

    def sample_task(self, rng: random.Random) -> JSON:
        return {"word": rng.choice(self.words)}

    def all_tasks(self) -> Iterable[JSON]:
        return [{"word": word} for word in self.words]

    def on_reset(self, params: JSON, rng: random.Random) -> str:
        self._word = params["word"]
        self._guessed: set[str] = set()
        return "" if self.style == "terse" else "Which word do you guess, in brackets?"

    def on_step(self, action: str) -> Step:
        guess = self._parse(action)
        terse = self.style == "terse"
        if guess not in self._legal:
            return Step(
                "invalid" if terse else self._refusal(guess), 0.0, False, False, {"valid": False, "success": False}
            )
        self._guessed.add(guess)
        if guess == self._word:
            text = "solved" if terse else f"{guess} is the word! 1 point."
            return Step(text, 1.0, True, False, {"valid": True, "success": True})
        told = play.answer(guess, self._word)
        if terse:
            text = " ".join([TERSE[code] for code in told])
        else:
            text = f"{guess} is wrong. " + ", ".join([f"{a}: {CHAT[code]}" for a, code in zip(guess, told)]) + "."
        return Step(text, 0.0, False, False, {"valid": True, "success": False})

    def random_action(self, rng: random.Random) -> str:
        while (word := rng.choice(self.words)) in self._guessed:
            pass
        return self._write(word)

    def legal_actions(self) -> Sequence[str] | None:
        return [self._write(word) for word in self.words] if len(self.words) <= MOST_LISTED else None

    def oracle(self, history: Sequence[Episode]) -> str:
        """The exact search where affordable; else the guess with the most different answers."""
        if len(self.words) > play.BOOK_LIMIT:
            raise MetaRLGymError(
                f"{self.env_id}: the oracle compares at most {play.BOOK_LIMIT} words and the list has "
                f"{len(self.words)}: give fewer."
            )
        left = self._possible(history)
        episode_now = len(history) - 1
        shape = (self.horizon, self.horizon_free)
        if self.horizon <= episode_now:
            shape, episode_now = (BLIND_EPISODES, 0), 0
        done = episode_now * self.guesses + len(history[-1].turns)
        plan = play.search(self.words, self.guesses, *shape)
        return self._write(play.choose(self.words, plan, left, done, self.guesses))

    def optimal_returns(self, episodes: int, free_shots: int = 0) -> Optimum:
        """Exact up to some hundred words, else an upper bound and what a heuristic reaches."""
        return play.optimum(self.words, self.guesses, episodes, free_shots)

    def no_memory_bound(self, episodes: int) -> float | None:
        single = self.optimal_returns(1)
        return episodes * single.total if single.kind == "exact" and single.total is not None else None

    @property
    def _listed(self) -> bool:
        return len(self.words) <= MOST_SHOWN

    def _possible(self, history: Sequence[Episode]) -> np.ndarray:
        """The places of the words that agree with what was told."""
        book = play.book(self.words)
        for episodes in (history, history[-1:]):  # another task's episodes may contradict the current one
            open_words = np.ones(len(self.words), bool)
            for episode in episodes:
                for turn in episode.turns:
                    place = book.place.get(self._parse(turn.action)) if turn.valid else None
                    if place is not None:
                        told = [_CODE[text] for text in _TOLD.findall(turn.observation)]
                        code = book.right if turn.reward > 0 else sum(c * 3**i for i, c in enumerate(told))
                        open_words &= book.answers[place] == code
            if open_words.any():
                return np.flatnonzero(open_words)
        return np.arange(len(self.words))

    def _parse(self, action: str) -> str:
        """The word in a message, letters separated by spaces or not; not necessarily a legal one."""
        word = self.parse(action, self._legal)
        return word if word in self._legal else "".join(word.split())

    def _refusal(self, word: str) -> str:
        """Why a guess is illegal, and what is legal."""
        if not (word.isascii() and word.isalpha()):
            problem = "That is not one word"
        elif len(word) != self.length:
            problem = f"That word does not have {self.length} letters"
        else:
            problem = "That word is not on the list"
        kind = "of the list" if self._listed else f"of {self.length} letters"
        return f"{problem}: the guess is lost. Reply with one word {kind} in brackets."

    def _write(self, word: str) -> str:
        return " ".join(word) if self.style == "terse" else f"[{word}]"
