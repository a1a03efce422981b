"""Exact and strong play of Hangman over several episodes.

A state is the set of words that agree with all answers, the misses and the turns of this episode, and the episode. The
letters asked in this episode need not be kept: their places are the same in all words of the set, so they no longer
split it. While two words are left only letters that split the set are tried; one with the same places in all words can
wait until the word is known, and costs a turn then as now. A known word is worth every episode in which it can be
spelled within the turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from string import ascii_lowercase

import numpy as np

from metarlgym.datatypes import Optimum
from metarlgym.envs.guess_search import TooLong

WORK_LIMIT = 20_000
"""Number of states after which a search gives up; about ten seconds at most. Counted, not timed, so that the outcome is
the same everywhere.
"""
SEARCH_LIMIT = 100
"""Maximum number of words that are searched."""
STATE_LIMIT = 10_000
"""Maximum number of words that the heuristic is played on to find what it reaches."""

State = tuple[tuple[int, ...], int, int, int]
"""Places of the possible words in the list, misses, turns taken, episode."""


class Book:
    """The words of a list, and the places of each letter in each word."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words
        self.spots = np.array([[spots(word, letter) for letter in ascii_lowercase] for word in words], np.int64)
        """`[word, letter]`: the letter's places as bits."""
        self.rows: list[list[int]] = self.spots.tolist()
        self.letters = [len(set(word)) for word in words]
        """Number of different letters of each word."""
        self.place = {word: i for i, word in enumerate(words)}
        self.lengths: dict[int, list[int]] = {}
        """The words of each length: the length is shown at the start."""
        for i, word in enumerate(words):
            self.lengths.setdefault(len(word), []).append(i)

    def split(self, left: tuple[int, ...], letter: int) -> dict[int, list[int]]:
        """The possible words by the places of a letter."""
        cells: dict[int, list[int]] = {}
        for word in left:
            cells.setdefault(self.rows[word][letter], []).append(word)
        return cells

    def heuristic(self, left: tuple[int, ...], last_life: bool) -> int:
        """A letter that splits the set: of the most words; on the last life, first of all in the most words."""
        spots = np.sort(self.spots[list(left)], axis=0)
        cells = (spots[1:] != spots[:-1]).sum(0)
        hits = (spots > 0).sum(0)
        score = hits * len(left) + cells if last_life else cells + 1.0 * hits
        return int(np.where(cells > 0, score, -1).argmax())


def spots(word: str, letter: str) -> int:
    """The places of a letter as bits."""
    return sum(1 << i for i, other in enumerate(word) if other == letter)


class Search:
    """The best play of `episodes` episodes, the first `free` of which do not count."""

    def __init__(self, book: Book, lives: int, turns: int, episodes: int, free: int = 0) -> None:
        self.book = book
        self.lives, self.turns, self.episodes, self.free = lives, turns, episodes, free
        # Turns are part of the state only where they can run out before the lives do.
        self.binding = turns < max(book.letters) + lives - 1
        self.best: dict[State, tuple[int, int]] = {}
        """State -> (sum of counted wins over its words, letter)."""
        self._splits: dict[tuple[int, ...], list[tuple[int, tuple[int, ...], tuple[tuple[int, ...], ...]]]] = {}
        """Possible words -> (letter, the words without it, the words by its places)."""
        self._work = 0

    def known(self, word: int, misses: int, turns: int, episode: int) -> tuple[int, bool]:
        """Counted wins from here on with a known word, and whether this episode is among the won ones."""
        # The letters that were hit are turns - misses; the rest is spelled in the turns that are left.
        now = misses < self.lives and self.book.letters[word] + misses <= self.turns
        later = self.episodes - max(episode + 1, self.free) if self.book.letters[word] <= self.turns else 0
        return later + (now and episode >= self.free), now

    def after(self, cell: Sequence[int], hit: bool, misses: int, turns: int, episode: int) -> State:
        """The state after a letter that left `cell`; the next episode's where this one is over."""
        misses, turns = misses + (not hit), turns + 1
        if len(cell) > 1 and (misses >= self.lives or turns >= self.turns):
            return tuple(cell), 0, 0, episode + 1
        return tuple(cell), misses, turns, episode

    def value(self, state: State) -> int:
        """The best sum of counted wins over the words of a state.

        Raises:
            TooLong: the work limit is reached.
        """
        left, misses, turns, episode = state
        if episode >= self.episodes:
            return 0
        if len(left) == 1:
            return self.known(left[0], misses, turns, episode)[0]
        key = state if self.binding else (left, misses, 0, episode)
        found = self.best.get(key)
        if found is None:
            self._work += 1
            if self._work > WORK_LIMIT:
                raise TooLong
            limit = self.ideal(state)
            top, choice = -1, -1
            for most, letter, after in self._options(state):
                if most <= top:
                    break
                total = most
                for cell in after:
                    total += self.value(cell) - self.ideal(cell)
                    if total <= top:
                        break
                if total > top:
                    top, choice = total, letter
                    if top == limit:
                        break
            found = self.best[key] = top, choice
        return found[0]

    def ideal(self, state: State) -> int:
        """Upper bound on the value: each word is spelled from here on without a further miss."""
        left, misses, turns, episode = state
        if episode >= self.episodes:
            return 0
        return sum([self.known(word, misses, turns, episode)[0] for word in left])

    def _options(self, state: State) -> list[tuple[int, int, list[State]]]:
        """The letters that split the words, most promising first: (bound, letter, the states after it).

        Of letters with the same effect only one is listed.
        """
        left, misses, turns, episode = state
        splits = self._splits.get(left)
        if splits is None:
            different: dict[tuple[tuple[int, ...], tuple[tuple[int, ...], ...]], int] = {}
            for letter in range(26):
                cells = self.book.split(left, letter)
                if len(cells) > 1:
                    missed = tuple(cells.pop(0, ()))
                    different.setdefault((missed, tuple(sorted(map(tuple, cells.values())))), letter)
            splits = self._splits[left] = [(letter, missed, hits) for (missed, hits), letter in different.items()]
        options = []
        for letter, missed, hits in splits:
            after = [self.after(cell, True, misses, turns, episode) for cell in hits]
            if missed:
                after.append(self.after(missed, False, misses, turns, episode))
            options.append((sum(map(self.ideal, after)), letter, after))
        return sorted(options, key=lambda option: (-option[0], -len(option[2]), option[1]))

    def letter(self, state: State) -> int:
        """The best letter; of a state whose set has more than one word."""
        left, misses, _, episode = state
        self.value(state)
        return self.best[state if self.binding else (left, misses, 0, episode)][1]

    def guess(self, state: State) -> int:
        """The letter of the heuristic."""
        return self.book.heuristic(state[0], state[1] == self.lives - 1)

    def curve(self, policy: Callable[[State], int]) -> list[float]:
        """Probability that each episode is won, if `policy` chooses the letters."""
        won = [0] * self.episodes
        todo: list[State] = [(tuple(words), 0, 0, 0) for words in self.book.lengths.values()]
        while todo:
            state = todo.pop()
            left, misses, turns, episode = state
            if episode >= self.episodes:
                continue
            if len(left) == 1:
                won[episode] += self.known(left[0], misses, turns, episode)[1]
                for later in range(episode + 1, self.episodes):
                    won[later] += self.book.letters[left[0]] <= self.turns
                continue
            for spot, cell in self.book.split(left, policy(state)).items():
                todo.append(self.after(cell, spot > 0, misses, turns, episode))
        return [count / len(self.book.words) for count in won]


@lru_cache(maxsize=8)
def book(words: tuple[str, ...]) -> Book:
    return Book(words)


@lru_cache(maxsize=64)
def search(words: tuple[str, ...], lives: int, turns: int, episodes: int, free: int) -> Search | None:
    """The finished search for a trial's shape; None if it takes too long."""
    if len(words) > SEARCH_LIMIT:
        return None
    found = Search(book(words), lives, turns, episodes, free)
    try:
        for group in found.book.lengths.values():
            found.value((tuple(group), 0, 0, 0))
    except TooLong:
        return None
    return found


@lru_cache(maxsize=64)
def optimum(words: tuple[str, ...], lives: int, turns: int, episodes: int, free: int) -> Optimum:
    """The exact optimum where it is in reach; else an upper bound, and what the heuristic reaches."""
    plan = search(words, lives, turns, episodes, free)
    if plan is not None:
        curve = plan.curve(plan.letter)
        return Optimum(sum(curve[free:]), tuple(curve), "exact")
    # A word with more letters than turns is never spelled.
    spelled = sum(len(set(word)) <= turns for word in words) / len(words)
    lower = None
    if len(words) <= STATE_LIMIT:
        played = Search(book(words), lives, turns, episodes, free)
        lower = sum(played.curve(played.guess)[free:])
    return Optimum(spelled * (episodes - free), (spelled,) * episodes, "upper_bound", lower=lower)


def choose(words: tuple[str, ...], lives: int, turns: int, episodes: int, free: int, state: State) -> int:
    """The best known letter for a state whose set has more than one word."""
    plan = search(words, lives, turns, episodes, free)
    if plan is not None:
        try:
            return plan.letter(state)
        except TooLong:
            pass
    return book(words).heuristic(state[0], state[1] == lives - 1)
