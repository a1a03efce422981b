"""Hangman: spell a hidden word letter by letter; a few letters that are not in it end the episode.

The places of the letters that were found are shown. Words that rhyme cannot be told apart with few lives, so what
earlier episodes ruled out has to be remembered, and a word that is known has to be spelled again.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from string import ascii_lowercase
from typing import Any

from metarlgym.datatypes import JSON, ConfigError, Episode, MetaRLGymError, Optimum, Step
from metarlgym.env import Env
from metarlgym.envs import hangman_solver as play
from metarlgym.envs.word_lists import MOST_SHOWN, RHYMES, check_words
from metarlgym.whole_numbers import check_whole

BLIND_EPISODES = 3
"""Number of remaining episodes the oracle assumes if unknown, including the current one."""
BLANK = "_"
LETTERS = frozenset(ascii_lowercase)


class Hangman(Env):
    """One attempt to spell a word of a list. The whole word pays 1; a lost episode does not reveal it.

    Args:
        words: the words that may be hidden: a list, or the name of a shipped one (`common`, or `common3` to `common8`:
            common English words of 3 to 8 letters).
        lives: this many letters that are not in the word end the episode, at least 1.
        turns: of an episode, at least 1; default 26 + lives, so that only repeated letters can use them up.
    """

    action_words = 1
    uniform_tasks = True

    def __init__(
        self, words: str | Sequence[str] = RHYMES, lives: int = 2, turns: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.words = check_words(words)
        self.lives = check_whole("lives", lives, 1)
        self.turns_limit = self.max_turns = 26 + self.lives if turns is None else check_whole("turns", turns, 1)
        if all(len(set(word)) > self.turns_limit for word in self.words):
            raise ConfigError(f"turns={turns} is too few to spell any of the words: give more.")
        self._shipped = isinstance(words, str)
        lengths = sorted(set(map(len, self.words)))
        self._letters = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
        self.visible_task = len(lengths) > 1  # type: ignore[misc]  # the length is shown

    def rules(self) -> str:
        if self.style == "terse":
            return "hangman"
        if len(self.words) <= MOST_SHOWN:
            kind = f"One of these {len(self.words)} words is hidden: {', '.join(self.words)}. It is"
        else:
            kind = f"A{' common English' if self._shipped else ''} word of {self._letters} letters is hidden,"
        lost = "The first letter that is" if self.lives == 1 else f"{self.lives} letters that are"
        limit = f" An episode has at most {self.turns_limit} turns." if self.turns_limit < 26 + self.lives else ""
        return (
            f"{kind} the same word in every episode. In each turn you try one letter. If it is in the word, you are "
            f"shown all its places; the other places are shown as {BLANK}. {lost} not in the word "
            f"end{'s' if self.lives == 1 else ''} the episode.{limit} Each episode starts again with no letters. When "
            'all letters of the word are found, you get 1 point. Reply with one letter in brackets, "[a]" to "[z]".'
        )

    def sample_task(self, rng: random.Random) -> JSON:
        return {"word": rng.choice(self.words)}

    def all_tasks(self) -> Iterable[JSON]:
        return [{"word": word} for word in self.words]

    def on_reset(self, params: JSON, rng: random.Random) -> str:
        self._word = params["word"]
        self._shown = [BLANK] * len(self._word)
        self._tried: set[str] = set()
        self._misses = 0
        board = " ".join(self._shown)
        return board if self.style == "terse" else f"The word: {board}. Which letter do you try, in brackets?"

    def on_step(self, action: str) -> Step:
        letter = action[1] if len(action) == 3 and action[0] == "[" else self.parse(action, LETTERS)
        terse = self.style == "terse"
        if letter not in LETTERS:
            text = "invalid" if terse else 'That is not one letter: the turn is lost. Reply "[a]" to "[z]".'
            return Step(text, 0.0, False, False, {"valid": False, "success": False})
        if letter in self._tried:
            text = "again" if terse else f"You tried {letter} before in this episode: the turn is lost. {self._board()}"
            return Step(text, 0.0, False, False, {"valid": True, "success": False})
        self._tried.add(letter)
        if letter not in self._word:
            self._misses += 1
            over = self._misses == self.lives
            if terse:
                text = "lost" if over else "miss"
            else:
                state = "The episode is lost." if over else self._board()
                text = f"{letter} is not in the word: miss {self._misses} of {self.lives}. {state}"
            return Step(text, 0.0, over, False, {"valid": True, "success": False})
        self._shown = [own if own == letter else shown for own, shown in zip(self._word, self._shown)]
        if BLANK in self._shown:
            text = " ".join(self._shown) if terse else f"{letter} is in the word. {self._board()}"
            return Step(text, 0.0, False, False, {"valid": True, "success": False})
        text = "solved" if terse else f"{letter} is in the word. The word is {self._word}! 1 point."
        return Step(text, 1.0, True, False, {"valid": True, "success": True})

    def random_action(self, rng: random.Random) -> str:
        return self._write(rng.choice([a for a in ascii_lowercase if a not in self._tried]))

    def legal_actions(self) -> Sequence[str]:
        return [self._write(letter) for letter in ascii_lowercase]

    def oracle(self, history: Sequence[Episode]) -> str:
        """The exact search where affordable; else a letter of many words with many different answers."""
        if len(self.words) > play.STATE_LIMIT:
            raise MetaRLGymError(
                f"{self.env_id}: the oracle compares at most {play.STATE_LIMIT} words and the list has "
                f"{len(self.words)}: give fewer."
            )
        left: Sequence[int] = ()
        tried: set[str] = set()
        misses = 0
        for episodes in (history, history[-1:]):  # another task's episodes may contradict the current one
            left = range(len(self.words))
            for episode in episodes:
                left, tried, misses = self._told(left, episode)
            if left:
                break
        open_letters = [a for a in ascii_lowercase if a not in tried]
        if len(left) < 2:
            word = self.words[left[0]] if left else ""
            return self._write(next((a for a in word if a not in tried), (open_letters or ["a"])[0]))
        episode_now = len(history) - 1
        shape = self.horizon, self.horizon_free
        if self.horizon <= episode_now:
            shape, episode_now = (BLIND_EPISODES, 0), 0
        state = tuple(left), min(misses, self.lives - 1), len(history[-1].turns), episode_now
        return self._write(ascii_lowercase[play.choose(self.words, self.lives, self.turns_limit, *shape, state)])

    def optimal_returns(self, episodes: int, free_shots: int = 0) -> Optimum:
        """Exact for some dozen words, else an upper bound and what a heuristic reaches."""
        return play.optimum(self.words, self.lives, self.turns_limit, episodes, free_shots)

    def no_memory_bound(self, episodes: int) -> float | None:
        single = self.optimal_returns(1)
        return episodes * single.total if single.kind == "exact" and single.total is not None else None

    def _told(self, left: Sequence[int], episode: Episode) -> tuple[list[int], set[str], int]:
        """The words that agree with an episode too, the letters tried in it, and the misses."""
        rows = play.book(self.words).rows
        length = sum(part.strip(".") == BLANK for part in episode.opening.split())
        found = [word for word in left if not length or len(self.words[word]) == length]
        tried: set[str] = set()
        misses = 0
        for turn in episode.turns:
            letter = self.parse(turn.action, LETTERS) if turn.valid else ""
            if not letter or letter in tried:
                continue
            tried.add(letter)
            missed = "not in the word" in turn.observation or turn.observation in ("miss", "lost")
            misses += missed
            column = ascii_lowercase.index(letter)
            if turn.reward > 0:  # the word is complete
                letters = tried
                found = [w for w in found if letters.issuperset(self.words[w]) and rows[w][column]]
            elif missed:
                found = [w for w in found if not rows[w][column]]
            else:
                board = turn.observation.split("The word: ")[-1].rstrip(".").split()
                spots = sum(1 << i for i, shown in enumerate(board) if shown == letter)
                found = [w for w in found if rows[w][column] == spots]
        return found, tried, misses

    def _board(self) -> str:
        return f"The word: {' '.join(self._shown)}."

    def _write(self, letter: str) -> str:
        return letter if self.style == "terse" else f"[{letter}]"
