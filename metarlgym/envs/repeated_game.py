"""RepeatedGame: both choose a move at the same time, for a number of rounds, against a hidden opponent.

The common part of RockPaperScissors and PrisonersDilemma: rounds, texts, oracle and optimum. A game gives its moves,
its payoffs and its words.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any, ClassVar

from metarlgym.datatypes import JSON, Episode, MetaRLGymError, Optimum, Step
from metarlgym.envs import repeated_game_solver as solver
from metarlgym.envs.opponents import OpponentGame
from metarlgym.envs.wording import choices
from metarlgym.whole_numbers import check_whole

BLIND_EPISODES = 3
"""Number of remaining episodes the oracle assumes if unknown, including the current one."""
_REPLY = re.compile(r"Opponent: (\w+)")


class RepeatedGame(OpponentGame):
    """One episode of `rounds` rounds. The opponent begins every episode anew.

    An illegal move forfeits its round: the opponent does not move and is told nothing.

    Args:
        rounds: rounds of an episode, at least 1.
        noise: probability that the opponent's move in a round is uniformly random.
        opponents: see `OpponentGame`.
    """

    moves: ClassVar[tuple[str, ...]] = ()
    payoffs: ClassVar[tuple[tuple[float, ...], ...]] = ()
    """Reward of a round, `[player's move][opponent's move]`."""
    forfeit: ClassVar[float] = 0.0
    """Reward of an illegal move."""
    action_words = 1

    def __init__(self, rounds: int, noise: float, opponents: Sequence[str] | None, **kwargs: Any) -> None:
        super().__init__(opponents, **kwargs)
        self.rounds = self.max_turns = check_whole("rounds", rounds, 1)
        self.noise = noise
        self.wins_needed = 0
        """If above 0, the rounds that must be won for the single reward at the end of an episode."""

    # ------------------------------------------------------------------ what a game gives

    def result_word(self, reward: float) -> str:
        """The result of a round in one word, such as win; empty if it has no name."""
        return ""

    def is_success(self, rewards: float, wins: int) -> bool:
        """Whether an episode is a success, from the sum of its rounds' payoffs and its number of rounds won."""
        raise NotImplementedError

    # ------------------------------------------------------------------ an episode

    def on_reset(self, params: JSON, rng: random.Random) -> str:
        self._opponent = self._begin_opponent(params, rng)
        self._rng = rng
        self._seen: list[tuple[str, str]] = []
        self._sum = 0.0
        self._wins = 0
        return "" if self.style == "terse" else self._question(1)

    def on_step(self, action: str) -> Step:
        move = self.parse(action, self.moves)
        over = self.turns == self.rounds
        valid = move in self.moves
        if valid:
            reply = self._reply()
            self._seen.append((move, reply))
            reward = self.payoffs[self.moves.index(move)][self.moves.index(reply)]
            self._wins += reward > 0
        else:
            reward = self.forfeit
        self._sum += reward
        text = self._told(move, reply, reward) if valid else self._refused()
        if self.wins_needed:
            won = over and valid and self._wins >= self.wins_needed  # an illegal last move forfeits the reward
            reward = float(won)
            if over and self.style == "chat":
                text += f" You won {self._wins} of {self.rounds} rounds: {_points(reward)}."
        success = over and self.is_success(self._sum, self._wins) and (not self.wins_needed or bool(reward))
        if self.style == "chat" and not over:
            text += "\n" + self._question(self.turns + 1)
        return Step(text, reward, over, False, {"valid": valid, "success": success})

    def _reply(self) -> str:
        """The opponent's move, unless noise replaces it."""
        if self.noise:
            luck = self._rng.random()
            if luck < self.noise:
                return self.moves[int(luck / self.noise * len(self.moves)) % len(self.moves)]
        return self._opponent.move(self._seen)

    def _question(self, number: int) -> str:
        return f"Round {number} of {self.rounds}: {choices(0, *self.moves)}?"

    def _told(self, move: str, reply: str, reward: float) -> str:
        word = self.result_word(reward)
        if self.style == "terse":
            return f"{reply} {word}".strip()
        parts = [f"You {word}" if word else "", "" if self.wins_needed else _points(reward)]
        return f"You: {move}. Opponent: {reply}. {': '.join(filter(None, parts))}."

    def _refused(self) -> str:
        if self.style == "terse":
            return "invalid"
        lost = "" if self.wins_needed else f": {_points(self.forfeit)}"
        return f"That is not one of the moves. You lose this round{lost}. Reply {self._replies}."

    @property
    def _replies(self) -> str:
        return choices(0, *self.moves, quoted=True)

    def random_action(self, rng: random.Random) -> str:
        return self._write(rng.choice(self.moves))

    def legal_actions(self) -> Sequence[str]:
        return [self._write(move) for move in self.moves]

    def _write(self, move: str) -> str:
        return move if self.style == "terse" else f"[{move}]"

    # ------------------------------------------------------------------ best play

    def oracle(self, history: Sequence[Episode]) -> str:
        """Optimal for the remaining episodes where the recursion is affordable, else up to the end of the episode."""
        if not self._all_deterministic:
            raise MetaRLGymError(
                f"{self.env_id}: the oracle knows no play against opponents that move at random together with others: "
                f"leave them out of opponents={list(self.opponents)}."
            )
        game = self._game
        belief: solver.Belief = game.prior
        for episodes in (history, history[-1:], ()):  # another task's episodes may contradict the current one
            belief = game.prior
            for episode in episodes:
                seen: solver.Rounds = ()
                for move, reply in self._rounds_of(episode):
                    if belief:
                        belief = game.update(belief, game.answers(belief, seen), reply)
                    seen = (*seen, (move, reply))
            if belief:
                break
        now = history[-1]
        made = tuple(self._rounds_of(now))
        wins = min(self.wins_needed, sum(game.gain(*pair) > 0 for pair in made))
        done = len(history) - 1
        known = self.horizon > done
        shape = (self.horizon, self.horizon_free) if known else (BLIND_EPISODES, 0)
        left = self.horizon - done if known else BLIND_EPISODES
        return self._write(solver.choose(game, (left, len(now.turns), belief, wins, made), *shape))

    def _rounds_of(self, episode: Episode) -> list[tuple[str, str]]:
        """Both moves of the rounds that were played."""
        found = []
        for turn in episode.turns:
            if turn.valid:
                told = _REPLY.search(turn.observation)
                found.append((self.parse(turn.action, self.moves), told[1] if told else turn.observation.split()[0]))
        return found

    @property
    def _game(self) -> solver.Game:
        return solver.Game(self.moves, self.payoffs, self._pool, self.rounds, self.noise, self.wins_needed)

    @property
    def _most(self) -> float:
        """No player earns more in an episode, even if the opponent is known."""
        return self.rounds * max(map(max, self.payoffs))

    def optimal_returns(self, episodes: int, free_shots: int = 0) -> Optimum:
        """Exact where the recursion is affordable, else what a player gets at most who knows the opponent. Unknown with
        an opponent that moves at random.
        """
        if not self._all_deterministic:
            return Optimum(None, None, "none")
        curve = solver.curve(self._game, episodes, free_shots)
        if curve is None:
            return Optimum(self._most * (episodes - free_shots), None, "upper_bound")
        return Optimum(sum(curve[free_shots:]), curve, "exact")

    def no_memory_bound(self, episodes: int) -> float | None:
        """`episodes` times the optimum of one episode: the opponent begins every episode anew, so to a player who
        forgets, each is a first one.
        """
        one = self.optimal_returns(1)
        return episodes * one.total if one.kind == "exact" and one.total is not None else None


def _points(reward: float) -> str:
    return f"{reward:g} point{'' if abs(reward) == 1 else 's'}"
