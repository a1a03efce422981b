"""Exact and strong play of Wordle over several episodes.

Up to `SEARCH_LIMIT` words, all trees of guesses are searched. Of longer lists only a heuristic is known, and a bound: a
guess has at most as many different answers as any guess of the list.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from metarlgym.datatypes import Optimum
from metarlgym.envs.guess_search import Move, Search, TooLong, bound

SEARCH_LIMIT = 100
"""Maximum number of words that are searched."""
BOOK_LIMIT = 4_000
"""Maximum number of words whose answers are tabulated, one byte or two for each pair."""
ABSENT, ELSEWHERE, RIGHT = 0, 1, 2
"""What is told of a letter."""


def answer(guess: str, secret: str) -> tuple[int, ...]:
    """What is told of each letter: right places first, then other places from left to right while there are letters."""
    told = [RIGHT if a == b else ABSENT for a, b in zip(guess, secret)]
    rest = [b for a, b in zip(guess, secret) if a != b]
    for place, letter in enumerate(guess):
        if told[place] == ABSENT and letter in rest:
            rest.remove(letter)
            told[place] = ELSEWHERE
    return tuple(told)


class Book:
    """The answers of all guesses of a list on all its words, as numbers in base 3."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words
        length = len(words[0])
        letters = np.array([[ord(letter) for letter in word] for word in words], np.uint8)
        self.place = {word: i for i, word in enumerate(words)}
        self._first: dict[bool, int] = {}
        """The heuristic's first guess, which takes longest to find."""
        self.right = 3**length - 1
        """The answer to the right guess."""
        self.answers = np.zeros((len(words), len(words)), np.uint16 if length <= 10 else np.int64)
        """`[guess, secret]`."""
        for i, guess in enumerate(letters):
            hits = letters == guess
            told = np.where(hits, RIGHT, ABSENT)
            for k in range(length):
                same = (letters == guess[k]) & ~hits
                spent = ((guess[:k] == guess[k]) & (told[:, :k] == ELSEWHERE)).sum(1)
                told[~hits[:, k] & (same.sum(1) > spent), k] = ELSEWHERE
            self.answers[i] = told @ 3 ** np.arange(length)

    def moves(self) -> list[Move]:
        """The guesses as moves of a search."""
        found = []
        for row in self.answers.tolist():
            cells: dict[int, int] = {}
            for secret, code in enumerate(row):
                cells[code] = cells.get(code, 0) | 1 << secret
            found.append(Move(cells.pop(self.right), tuple(cells.values())))
        return found

    def most_answers(self) -> int:
        """Maximum number of different answers to a wrong guess."""
        codes = np.sort(self.answers, axis=1)
        return int((codes[:, 1:] != codes[:, :-1]).sum(1).max())

    def heuristic(self, left: np.ndarray, last: bool) -> int:
        """The guess with the most different answers among the words `left`; a possible word among equals.

        In the `last` turn of an episode only possible words are considered: another could not win.
        """
        if len(left) <= 2:
            return int(left[0])
        if len(left) == len(self.words):
            if last not in self._first:
                self._first[last] = self._most_telling(left, last)
            return self._first[last]
        return self._most_telling(left, last)

    def _most_telling(self, left: np.ndarray, last: bool) -> int:
        guesses = left if last else np.arange(len(self.words))
        codes = np.sort(self.answers[np.ix_(guesses, left)], axis=1)
        different = 2 * (codes[:, 1:] != codes[:, :-1]).sum(1) + np.isin(guesses, left)
        return int(guesses[different.argmax()])

    def heuristic_curve(self, turns: int, episodes: int) -> list[float]:
        """Probability that each episode is won by the heuristic."""
        found = [0] * episodes
        todo = [(np.arange(len(self.words)), 0)]
        while todo:
            left, done = todo.pop()
            if done < turns * episodes:
                codes = self.answers[self.heuristic(left, (done + 1) % turns == 0), left]
                found[done // turns] += int((codes == self.right).sum())
                todo += [(left[codes == code], done + 1) for code in np.unique(codes) if code != self.right]
        return [sum(found[: n + 1]) / len(self.words) for n in range(episodes)]


@lru_cache(maxsize=8)
def book(words: tuple[str, ...]) -> Book:
    return Book(words)


@lru_cache(maxsize=64)
def search(words: tuple[str, ...], turns: int, episodes: int, free: int) -> Search | None:
    """The finished search for a trial's shape; None if it takes too long."""
    if len(words) > SEARCH_LIMIT:
        return None
    found = Search(book(words).moves(), len(words), turns, episodes, free)
    try:
        found.value(found.everything, 0)
    except TooLong:
        return None
    return found


@lru_cache(maxsize=64)
def optimum(words: tuple[str, ...], turns: int, episodes: int, free: int) -> Optimum:
    """The exact optimum where it is in reach; else an upper bound, and what the heuristic reaches."""
    plan = search(words, turns, episodes, free)
    if plan is not None:
        curve = plan.curve(plan.choose)
        return Optimum(sum(curve[free:]), tuple(curve), "exact")
    if len(words) > BOOK_LIMIT:
        return Optimum(float(episodes - free), (1.0,) * episodes, "upper_bound")
    reached = book(words).heuristic_curve(turns, episodes)
    most = bound(len(words), book(words).most_answers(), 0, turns, episodes)
    lower, upper = sum(reached[free:]), sum(most[free:])
    if lower > upper - 1e-9:
        return Optimum(lower, tuple(reached), "exact")
    return Optimum(upper, tuple(most), "upper_bound", lower=lower)


def choose(words: tuple[str, ...], plan: Search | None, left: np.ndarray, done: int, turns: int) -> str:
    """The best known guess.

    Args:
        words: the list.
        plan: its search, if affordable.
        left: places of the words that are possible.
        done: guesses made before, in all episodes.
        turns: guesses of an episode.
    """
    if plan is not None and done < plan.depth:
        return words[plan.choose(sum(1 << i for i in left.tolist()), done)]
    return words[book(words).heuristic(left, (done + 1) % turns == 0)]
