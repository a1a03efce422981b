"""Play of HiddenRule: the exact search over several episodes, and the bounds beyond it.

A rule is y_i = x_p(i) xor m_i. Relative to the first query only the permutation p is unknown, and k queries split the
places of the input into at most 2^(k - 1) blocks of which only the image is known. If a block of n places is mapped to
a known set of n places, a uniform test input is answered rightly with probability (n + 1) / 2^n, so the whole test with
the product over the blocks. Even blocks are best: this is `informed`.

The search runs over sets of rules (bit sets) and maximizes one sum, the counted tests answered rightly in all episodes.
Its values are integers: numbers of pairs of a rule and the test inputs to come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import permutations, product

WORK_LIMIT = 1_500_000
"""Number of splits after which a search gives up; 5 to 10 seconds. Counted, not timed, so that the outcome is the same
everywhere.
"""
LIST_LIMIT = 4
"""Longest inputs whose rules the search lists."""

Rule = tuple[tuple[int, ...], str]
Fact = tuple[str, str]
"""An input and its output."""


def apply(order: Sequence[int], flip: str, bits: str) -> str:
    """The output: place i takes input bit `order[i]`, flipped if `flip[i]` is 1."""
    return "".join(["0" if bits[place] == mark else "1" for place, mark in zip(order, flip)])


def words(length: int) -> list[str]:
    """All inputs, ascending."""
    return ["".join(bits) for bits in product("01", repeat=length)]


def rules(length: int) -> list[Rule]:
    """All rules."""
    return [(order, flip) for order in permutations(range(length)) for flip in words(length)]


def informed(length: int, queries: int) -> float:
    """Best probability of a right answer to a uniform test input after `queries` queries and nothing else."""
    if queries == 0:
        return 0.5**length
    blocks = length if queries > length else min(length, 2 ** (queries - 1))
    small, larger = divmod(length, blocks)
    return (small + 2) ** larger * (small + 1) ** (blocks - larger) / 2**length


def floor(length: int, queries: int, episodes: int) -> list[float]:
    """What halving the blocks reaches in each episode: a lower bound of the best sum."""
    return [informed(length, queries * (episode + 1)) for episode in range(episodes)]


def ceiling(length: int, queries: int, episodes: int) -> list[float]:
    """Upper bound for each episode, which counts every earlier test as one more query with its answer."""
    return [informed(length, queries * (episode + 1) + episode) for episode in range(episodes)]


class Unread(Exception):
    """The facts contradict each other."""


def _blocks(facts: Sequence[Fact]) -> list[tuple[list[int], list[int]]]:
    """The blocks of places of the input that the facts do not tell apart, each with the places of its image.

    Raises:
        Unread: no rule has these facts.
    """
    (first_in, first_out), *others = facts
    sides = []
    for first, side in ((first_in, 0), (first_out, 1)):
        blocks: dict[tuple[bool, ...], list[int]] = {}
        for place, bit in enumerate(first):
            blocks.setdefault(tuple(fact[side][place] != bit for fact in others), []).append(place)
        sides.append(blocks)
    inputs, outputs = sides
    if Counter({k: len(v) for k, v in inputs.items()}) != Counter({k: len(v) for k, v in outputs.items()}):
        raise Unread
    return [(places, outputs[kind]) for kind, places in inputs.items()]


def _flipped(bits: str, places: Sequence[int]) -> str:
    return "".join("10"[int(bit)] if place in places else bit for place, bit in enumerate(bits))


def halving_query(length: int, facts: Sequence[Fact]) -> str:
    """The query that halves all blocks.

    Raises:
        Unread: the facts contradict each other.
    """
    if not facts:
        return "0" * length
    return _flipped(facts[0][0], [place for places, _ in _blocks(facts) for place in places[: len(places) // 2]])


def likely_answer(facts: Sequence[Fact], test: str) -> str:
    """An output of the test input that as many rules have as any.

    Raises:
        Unread: the facts contradict each other.
    """
    if not facts:
        return "0" * len(test)
    first_in, first_out = facts[0]
    ones: list[int] = []
    for places, image in _blocks(facts):
        ones += image[: sum(test[place] != first_in[place] for place in places)]
    return _flipped(first_out, ones)


class TooLong(Exception):
    """The search has exceeded its work limit."""


class Search:
    """The best play of `episodes` episodes with `queries` queries each, the first `free` of which do not count."""

    def __init__(self, length: int, queries: int, episodes: int, free: int) -> None:
        self.queries, self.episodes, self.free = queries, episodes, free
        self.words = words(length)
        self.split = splits(length)
        self.everything = (1 << len(rules(length))) - 1
        self.best: dict[tuple[int, int, int], tuple[int, int]] = {}
        """(rules left, episode, queries made) -> (value, query)."""
        self._won: dict[tuple[int, int, int], tuple[int, ...]] = {}
        self.allow(WORK_LIMIT)

    def allow(self, work: int) -> None:
        """Set the number of splits that may still be made."""
        self._work = work

    def value(self, left: int, episode: int, asked: int) -> int:
        """The value of a set of rules under the best play from here.

        Raises:
            TooLong: the work limit is reached.
        """
        if episode == self.episodes or not left:
            return 0
        if not left & (left - 1):
            return self._each(episode)
        known = self.best.get((left, episode, asked))
        if known is not None:
            return known[0]
        self._work -= len(self.words)
        if self._work < 0:
            raise TooLong
        if asked == self.queries:
            found = sum(self.answer(left, episode, test)[0] for test in range(len(self.words))), -1
        else:
            options: dict[frozenset[int], int] = {}
            for query, cells in enumerate(self.split):  # before the first answer all queries are alike
                if query == 0 or left != self.everything:
                    options.setdefault(frozenset(cell for mask in cells if (cell := left & mask)), query)
            limit = left.bit_count() * self._each(episode)
            found = -1, -1
            for parts, query in options.items():
                total = sum(self.value(part, episode, asked + 1) for part in parts)
                if total > found[0]:
                    found = total, query
                if total == limit:
                    break
        self.best[left, episode, asked] = found
        return found[0]

    def _each(self, episode: int) -> int:
        """The value of one rule if every test from here on is answered rightly."""
        return (self.episodes - max(episode, self.free)) * len(self.words) ** (self.episodes - episode)

    def answer(self, left: int, episode: int, test: int) -> tuple[int, int]:
        """The value of the best answer to a test input, and the answer."""
        unit = len(self.words) ** (self.episodes - episode - 1) if episode >= self.free else 0
        options = []
        for output, mask in enumerate(self.split[test]):
            if right := left & mask:
                after = self.value(right, episode + 1, 0) + self.value(left ^ right, episode + 1, 0)
                options.append((right.bit_count() * unit + after, -output))
        worth, output = max(options)
        return worth, -output

    def curve(self) -> list[float]:
        """Probability of a right answer in each episode, under the best play from the start."""
        tests = len(self.words) ** self.episodes
        return [won / (self.everything.bit_count() * tests) for won in self._wins(self.everything, 0, 0)]

    def _wins(self, left: int, episode: int, asked: int) -> tuple[int, ...]:
        """Numbers of pairs of a rule and test inputs that are won in each episode from this one on."""
        if episode == self.episodes or not left:
            return (0,) * (self.episodes - episode)
        known = self._won.get((left, episode, asked))
        if known is not None:
            return known
        wins = [0] * (self.episodes - episode)
        if asked < self.queries:
            self.value(left, episode, asked)
            query = self.best[left, episode, asked][1] if left & (left - 1) else 0
            parts = [self._wins(left & mask, episode, asked + 1) for mask in self.split[query]]
            wins = list(map(sum, zip(*parts)))
        else:
            for test in range(len(self.words)):
                right = left & self.split[test][self.answer(left, episode, test)[1]]
                wins[0] += right.bit_count() * len(self.words) ** (self.episodes - episode - 1)
                for part in (right, left ^ right):
                    for later, won in enumerate(self._wins(part, episode + 1, 0), 1):
                        wins[later] += won
        self._won[left, episode, asked] = tuple(wins)
        return self._won[left, episode, asked]


@cache
def splits(length: int) -> list[list[int]]:
    """For each input and each output: the set of rules with that output, by the number that the bits spell."""
    found = [[0] * 2**length for _ in range(2**length)]
    for number, (order, flip) in enumerate(rules(length)):
        for query, bits in enumerate(words(length)):
            found[query][int(apply(order, flip, bits), 2)] |= 1 << number
    return found


@lru_cache(maxsize=32)
def search(length: int, queries: int, episodes: int, free: int) -> Search | None:
    """The finished search for a trial's shape; None if it takes too long or if the bounds meet without it."""
    low, high = floor(length, queries, episodes), ceiling(length, queries, episodes)
    if low[free:] == high[free:] or length > LIST_LIMIT:
        return None
    found = Search(length, queries, episodes, free)
    try:
        found.curve()
    except TooLong:
        return None
    return found


def choose(
    length: int, plan: Search | None, facts: Sequence[tuple[str, str, bool]], episode: int, asked: int, test: str | None
) -> str:
    """The next query, or the answer to a test input: by the search, else by halving blocks.

    Args:
        length: bits of an input.
        plan: the search, if there is one.
        facts: inputs, outputs, and whether the output is right.
        episode: number of the current one in the plan, from 0.
        asked: queries made in this episode.
        test: the test input; None while queries are left.

    Raises:
        Unread: the facts contradict each other.
    """
    told = [(query, output) for query, output, right in facts if right]
    if plan is not None:
        left = plan.everything
        for query, output, right in facts:
            mask = plan.split[int(query, 2)][int(output, 2)]
            left &= mask if right else ~mask
        if not left:
            raise Unread
        plan.allow(WORK_LIMIT)
        try:
            if test is not None:
                return plan.words[plan.answer(left, episode, int(test, 2))[1]]
            plan.value(left, episode, asked)
            return plan.words[plan.best[left, episode, asked][1]] if left & (left - 1) else plan.words[0]
        except TooLong:
            pass
    return halving_query(length, told) if test is None else likely_answer(told, test)
