"""The best play of a repeated game against an unknown opponent, by a recursion over beliefs.

Each opponent answers what it has seen in a fixed way, except that a move is uniformly random with probability `noise`.
A belief is therefore a count of misses: how many moves of the trial an opponent would not have made. A move that an
opponent would make has probability h = 1 - noise (m - 1) / m with m moves, any other one noise / m, so the posterior
weight of an opponent is (noise / (m h)) ** misses. Without noise only opponents with no miss are left.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from metarlgym.envs.opponents import Opponent

WORK_LIMIT = 25_000
"""Number of positions after which the recursion gives up; 10 seconds or so. Counted, not timed, so that the outcome is
the same everywhere.
"""
LONGEST = 50
"""Maximum number of rounds of an episode; with noise, a quarter of that of a whole trial, because the recursion is then
as deep as a trial is long.
"""

Belief = tuple[tuple[int, int], ...]
"""(opponent, misses) of those that are possible; the fewest misses are 0."""
Rounds = tuple[tuple[str, str], ...]
"""(player's move, opponent's move) of the rounds of an episode."""
Position = tuple[int, int, Belief, int, Rounds]
"""Episodes left with this one, rounds made in this one, belief, wins in it, and what the opponent has seen of it."""


class TooLong(Exception):
    """The recursion has exceeded its work limit."""


@dataclass(frozen=True)
class Game:
    """A repeated game as the recursion sees it."""

    moves: tuple[str, ...]
    payoffs: tuple[tuple[float, ...], ...]
    """Reward of a round, `[player's move][opponent's move]`."""
    opponents: tuple[Opponent, ...]
    rounds: int
    noise: float = 0.0
    wins_needed: int = 0
    """If above 0, an episode pays 1 at its end for this many rounds with a positive payoff, and rounds pay nothing."""

    @property
    def prior(self) -> Belief:
        return tuple((i, 0) for i in range(len(self.opponents)))

    def update(self, belief: Belief, answers: Sequence[str], seen: str) -> Belief:
        """The belief after the opponent's move `seen`, where each of the belief would have made that of `answers`.

        Empty if none of them would, without noise.
        """
        if self.noise == 0.0:
            return tuple([pair for pair, answer in zip(belief, answers) if answer == seen])
        if self.noise == 1.0:
            return belief
        counts = [(i, misses + (answer != seen)) for (i, misses), answer in zip(belief, answers)]
        least = min([misses for _, misses in counts])
        return tuple([(i, misses - least) for i, misses in counts])

    def answers(self, belief: Belief, seen: Rounds) -> list[str]:
        return [self.opponents[i].move(seen) for i, _ in belief]

    def chances(self, belief: Belief, answers: Sequence[str]) -> dict[str, float]:
        """Probability of each possible next move of the opponent."""
        other = self.noise / len(self.moves)
        hit = 1.0 - other * (len(self.moves) - 1)
        found = dict.fromkeys(self.moves, 0.0)
        total = 0.0
        for (_, misses), answer in zip(belief, answers):
            weight = (other / hit) ** misses
            total += weight
            found[answer] += weight
        return {
            move: chance for move, weight in found.items() if (chance := (hit - other) * weight / total + other) > 0.0
        }

    def gain(self, player: str, opponent: str) -> float:
        return self.payoffs[self.moves.index(player)][self.moves.index(opponent)]


class Plan:
    """The best play of `episodes` episodes, the first `free` of which have weight 0.

    Raises:
        TooLong: the game is too large.
    """

    def __init__(self, game: Game, episodes: int, free: int) -> None:
        self.game = game
        self.episodes = episodes
        self.counted = episodes - free
        self.best: dict[Hashable, tuple[float, str]] = {}
        self.work = 0
        if game.rounds > LONGEST or (game.noise and game.rounds * episodes > 4 * LONGEST):
            raise TooLong
        for left in range(1, episodes + 1):  # from the end, so that no recursion is deeper than it must be
            self.value((left, 0, game.prior, 0, ()))

    def key(self, position: Position) -> Hashable:
        """Positions with the same key have the same value."""
        left, done, belief, wins, seen = position
        return left, done, wins, belief, tuple([self.game.opponents[i].digest(seen) for i, _ in belief])

    def value(self, position: Position) -> float:
        """The best expected weighted return from here on."""
        key = self.key(position)
        known = self.best.get(key)
        if known is not None:
            return known[0]
        self.work += 1
        if self.work > WORK_LIMIT:
            raise TooLong
        counts = position[0] <= self.counted
        replies = self.replies(position)
        top, choice = float("-inf"), ""
        for move in self.game.moves:
            total = 0.0
            for chance, reward, after in self.outcomes(position, move, replies):
                total += chance * (reward * counts + (self.value(after) if after[0] else 0.0))
            if total > top + 1e-12:
                top, choice = total, move
        self.best[key] = top, choice
        return top

    def move(self, position: Position) -> str:
        """The best move.

        Raises:
            TooLong: this position was not reached before, and the way from here is too long.
        """
        self.work = 0
        self.value(position)
        return self.best[self.key(position)][1]

    def replies(self, position: Position) -> list[tuple[str, float, Belief]]:
        """The opponent's possible next moves, with their probabilities and the beliefs they lead to."""
        game, (_, _, belief, _, seen) = self.game, position
        answers = game.answers(belief, seen)
        chances = game.chances(belief, answers)
        return [(reply, chance, game.update(belief, answers, reply)) for reply, chance in chances.items()]

    def outcomes(
        self, position: Position, move: str, replies: list[tuple[str, float, Belief]]
    ) -> list[tuple[float, float, Position]]:
        """(probability, reward, next position) after a move; the next has no episode left at the end of the trial."""
        game = self.game
        left, done, _, wins, seen = position
        over = done + 1 == game.rounds
        found = []
        for reply, chance, belief in replies:
            reward = game.gain(move, reply)
            now = wins
            if game.wins_needed:
                now = min(wins + (reward > 0), game.wins_needed)
                reward = float(over and now == game.wins_needed)
            after = (left - 1, 0, belief, 0, ()) if over else (left, done + 1, belief, now, (*seen, (move, reply)))
            found.append((chance, reward, after))
        return found

    def curve(self) -> tuple[float, ...]:
        """Expected return of each episode under the best play."""
        curve = [0.0] * self.episodes
        here: dict[Hashable, tuple[float, Position]] = {None: (1.0, (self.episodes, 0, self.game.prior, 0, ()))}
        for turn in range(self.episodes * self.game.rounds):
            there: dict[Hashable, tuple[float, Position]] = {}
            for probability, position in here.values():
                self.value(position)
                move = self.best[self.key(position)][1]
                for chance, reward, after in self.outcomes(position, move, self.replies(position)):
                    curve[turn // self.game.rounds] += probability * chance * reward
                    key = self.key(after)
                    there[key] = there.get(key, (0.0,))[0] + probability * chance, after
            here = there
        return tuple(curve)


@lru_cache(maxsize=32)
def plan(game: Game, episodes: int, free: int = 0) -> Plan | None:
    """The finished plan; None if it takes too long."""
    try:
        return Plan(game, episodes, free)
    except TooLong:
        return None


@lru_cache(maxsize=32)
def curve(game: Game, episodes: int, free: int = 0) -> tuple[float, ...] | None:
    """Expected return of each episode under the best play; None if that takes too long."""
    found = plan(game, episodes, free)
    return None if found is None else found.curve()


def choose(game: Game, position: Position, episodes: int, free: int) -> str:
    """The best move in a trial of `episodes` episodes; where that is too large, the best up to the end of this episode
    or, at last, of this round.
    """
    left, *rest = position
    for whole, unpaid, remaining in ((episodes, free, left), (1, 0, 1)):
        found = plan(game, whole, unpaid)
        if found is not None:
            try:
                return found.move((remaining, *rest))  # type: ignore[arg-type]
            except TooLong:
                pass
    chances = game.chances(position[2], game.answers(position[2], position[4]))
    return max(game.moves, key=lambda move: sum(chance * game.gain(move, reply) for reply, chance in chances.items()))
