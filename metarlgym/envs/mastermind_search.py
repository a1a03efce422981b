"""Exact play of Mastermind over several episodes, by search.

A policy is a tree of guesses. A code that is guessed at depth d (d guesses in all, t in each episode) wins its episode,
number ceil(d / t), and every later one by repetition: its value (`worth`) is the number of counted episodes from there
on. The search maximizes the sum of the values over all codes. That is one criterion for all episodes together, so a
tree that wins more often in episode 1 is rejected if it costs more later.

Sets of codes are integers, one bit per code. The value of a set at a depth is exact and memoized; guesses are pruned by
the bound that a tree whose guesses have b losing answers has at most b^k codes k levels down.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from itertools import permutations, product

import numpy as np

Code = tuple[int, ...]

BOOK_LIMIT = 500_000
"""Maximum number of codes that the oracle lists."""
SEARCH_LIMIT = 2_000
"""Maximum number of codes that are searched."""
WORK_LIMIT = 2_000_000
"""Number of splits after which a search gives up; 5 to 10 seconds. Counted, not timed, so that the outcome is the same
everywhere.
"""
SAMPLE = 64, 1024
"""Number of guesses and of codes that the heuristic considers."""


class Book:
    """All legal codes of a game, and the answers to guesses."""

    def __init__(self, length: int, symbols: int, repeats: bool) -> None:
        self.length = length
        self.symbols = symbols
        self.codes: list[Code] = list(
            product(range(symbols), repeat=length) if repeats else permutations(range(symbols), length)
        )
        self.place = {code: i for i, code in enumerate(self.codes)}
        self.everything = (1 << len(self.codes)) - 1
        self.array = np.array(self.codes, np.uint8)
        self.counts = np.stack([(self.array == s).sum(1) for s in range(symbols)], 1).astype(np.uint8)
        self._splits: dict[int, tuple[int, ...]] = {}
        self._guesses: dict[int, list[int]] = {}
        self._heuristic: dict[int, int] = {}
        # Up to renaming symbols and permuting positions, a first guess is determined by how often each of its symbols
        # occurs.
        shapes = {tuple(sorted(map(code.count, set(code)), reverse=True)): i for i, code in enumerate(self.codes[::-1])}
        self.first_guesses = sorted(len(self.codes) - 1 - i for i in shapes.values())

    def answers(self, guess: Code, among: np.ndarray | None = None) -> np.ndarray:
        """`exact * (length + 1) + misplaced` for the codes at the indices `among`, or for all codes."""
        codes, counts = (self.array, self.counts) if among is None else (self.array[among], self.counts[among])
        exact = (codes == np.array(guess, np.uint8)).sum(1)
        count = np.array([guess.count(s) for s in range(self.symbols)], np.uint8)
        return exact * (self.length + 1) + np.minimum(counts, count).sum(1) - exact

    def consistent(self, guess: Code, exact: int, misplaced: int) -> int:
        """The set of codes consistent with this answer."""
        return _pack(self.answers(guess) == exact * (self.length + 1) + misplaced)

    def split(self, guess: int) -> tuple[int, ...]:
        """The sets of codes consistent with each losing answer to a guess."""
        found = self._splits.get(guess)
        if found is None:
            answers = self.answers(self.codes[guess])
            won = self.length * (self.length + 1)
            found = tuple(_pack(answers == a) for a in np.unique(answers) if a != won)
            self._splits[guess] = found
        return found

    @cached_property
    def losing_answers(self) -> int:
        """Number of different losing answers."""
        return len(set().union(*(np.unique(self.answers(self.codes[g])).tolist() for g in self.first_guesses))) - 1

    def guesses(self, used: int) -> list[int]:
        """One guess of each equivalence class under renaming symbols not `used` before (a bit set)."""
        if not used:
            return self.first_guesses
        found = self._guesses.get(used)
        if found is None:
            fresh = [s for s in range(self.symbols) if not used >> s & 1]
            found = []
            for place, code in enumerate(self.codes):
                first_seen = list(dict.fromkeys(s for s in code if not used >> s & 1))
                if first_seen == fresh[: len(first_seen)]:
                    found.append(place)
            self._guesses[used] = found
        return found

    def uses(self, code: Code, used: int = 0) -> int:
        for symbol in code:
            used |= 1 << symbol
        return used

    def heuristic(self, codes: int) -> int:
        """The code of a set with the most different answers within the set; the first of equals."""
        found = self._heuristic.get(codes)
        if found is None:
            members = self.members(codes)
            targets = _spread(members, SAMPLE[1])
            guesses = self.first_guesses if codes == self.everything else _spread(members, SAMPLE[0]).tolist()
            found = max(guesses, key=lambda g: len(np.unique(self.answers(self.codes[g], targets))))
            self._heuristic[codes] = found
        return found

    def members(self, codes: int) -> np.ndarray:
        """The indices of the codes in a set, ascending."""
        raw = codes.to_bytes((len(self.codes) + 7) // 8, "little")
        return np.flatnonzero(np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little"))


def _pack(mask: np.ndarray) -> int:
    return int.from_bytes(np.packbits(mask, bitorder="little").tobytes(), "little")


def _spread(places: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the indices, evenly spread."""
    if len(places) <= most:
        return places
    return places[np.linspace(0, len(places) - 1, most).astype(int)]


class TooLong(Exception):
    """The search has exceeded its work limit."""


class Search:
    """The best play of `episodes` episodes with `guesses` guesses each, the first `free` of which do not count."""

    def __init__(self, book: Book, guesses: int, episodes: int, free: int) -> None:
        self.book = book
        self.guesses = guesses
        self.depth = guesses * episodes
        self.episodes = episodes
        self.worth = [0] + [episodes - max((d - 1) // guesses, free) for d in range(1, self.depth + 1)] + [0]
        """Counted episodes won by a code that is found with guess number d; 0 past the end."""
        self.best: dict[tuple[int, int], tuple[int, int]] = {}
        """(set, guesses made) -> (sum of values, guess)."""
        self._bounds: dict[tuple[int, int], int] = {}
        self._work = 0

    def bound(self, size: int, done: int) -> int:
        """Upper bound on the value of a set of `size` codes after `done` guesses."""
        found = self._bounds.get((size, done))
        if found is None:
            found, left, level, depth = 0, size, 1, done + 1
            while left > 0 and depth <= self.depth:
                found += min(left, level) * self.worth[depth]
                left -= level
                level *= self.book.losing_answers
                depth += 1
            self._bounds[size, done] = found
        return found

    def value(self, codes: int, done: int, used: int) -> int:
        """The value of a set after `done` guesses with `used` symbols, under the best play from here.

        Raises:
            TooLong: the work limit is reached.
        """
        if done >= self.depth:
            return 0
        known = self.best.get((codes, done))
        if known is not None:
            return known[0]
        size = codes.bit_count()
        limit = self.bound(size, done)
        now = self.worth[done + 1]
        if size == 1 or not self.worth[min(done + 2, self.depth + 1)]:
            # One code, or one guess left: any code of the set is optimal.
            self.best[codes, done] = now, (codes & -codes).bit_length() - 1
            return now
        guesses = self.book.guesses(used)
        self._work += len(guesses)
        if self._work > WORK_LIMIT:
            raise TooLong
        options = []
        for guess in guesses:
            inside = codes >> guess & 1
            cells = [cell for mask in self.book.split(guess) if (cell := codes & mask)]
            if len(cells) == 1 and not inside:
                continue
            most = sum([self.bound(cell.bit_count(), done + 1) for cell in cells])
            options.append((-most - inside * now, -len(cells), -inside, guess, cells))
            if inside and len(cells) == size - 1:
                break  # every answer identifies the code: nothing is better
        options.sort()
        top, choice = -1, -1
        for most, _, _, guess, cells in options:
            if -most <= top:
                break
            total = -most
            for cell in sorted(cells, key=int.bit_count, reverse=True):
                after = self.book.uses(self.book.codes[guess], used)
                total += self.value(cell, done + 1, after) - self.bound(cell.bit_count(), done + 1)
                if total <= top:
                    break
            if total > top:
                top, choice = total, guess
                if top == limit:
                    break
        self.best[codes, done] = top, choice
        return top

    def curve(self) -> list[float]:
        """Probability that each episode is won, under the best play from the start."""
        found = [0] * self.episodes

        def walk(codes: int, done: int, used: int) -> None:
            if done >= self.depth:
                return
            self.value(codes, done, used)
            guess = self.best[codes, done][1]
            found[done // self.guesses] += codes >> guess & 1
            for mask in self.book.split(guess):
                if codes & mask:
                    walk(codes & mask, done + 1, self.book.uses(self.book.codes[guess], used))

        walk(self.book.everything, 0, 0)
        return [sum(found[: n + 1]) / len(self.book.codes) for n in range(self.episodes)]


@cache
def book(length: int, symbols: int, repeats: bool) -> Book:
    return Book(length, symbols, repeats)


@cache
def search(codebook: Book, guesses: int, episodes: int, free: int) -> Search | None:
    """The finished search for a trial's shape; None if it takes too long."""
    if len(codebook.codes) > SEARCH_LIMIT:
        return None
    found = Search(codebook, guesses, episodes, free)
    try:
        found.value(codebook.everything, 0, 0)
    except TooLong:
        return None
    return found


def choose(codebook: Book, plan: Search | None, codes: int, done: int, guessed: Sequence[Code]) -> int:
    """The guess after `done` guesses when `codes` are left: by the search, else by the heuristic."""
    if plan is not None and done < plan.depth:
        used = 0
        for code in guessed:
            used = codebook.uses(code, used)
        try:
            plan.value(codes, done, used)
            return plan.best[codes, done][1]
        except TooLong:
            pass
    return codebook.heuristic(codes)
