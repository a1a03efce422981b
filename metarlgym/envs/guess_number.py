"""Guess a hidden number; the response to each guess is higher or lower.

An episode is often too short to find the number, so the search has to continue where the last episode stopped: exactly
what a policy without memory cannot do. Stepping this environment is the speed benchmark of the whole gym.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from metarlgym.datatypes import JSON, Episode, Optimum, Step
from metarlgym.env import MOST_LISTED, Env
from metarlgym.envs.wording import choices
from metarlgym.parsing import Numbers
from metarlgym.whole_numbers import check_whole

TABLE_LIMIT = 1000
"""Numbers up to this are looked up in a table, larger ones are parsed."""


class GuessNumber(Env):
    """One search for a number from 1 to `numbers`. Finding it pays 1; a lost episode does not reveal it.

    Args:
        numbers: N >= 2.
        guesses: t >= 1, turns of an episode.
    """

    action_words = 1
    uniform_tasks = True

    def __init__(self, numbers: int = 20, guesses: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.numbers = numbers = check_whole("numbers", numbers, 2)
        self.guesses = self.max_turns = check_whole("guesses", guesses, 1)
        self._legal = Numbers(1, numbers)
        self._table = {text: n for n in range(1, min(numbers, TABLE_LIMIT) + 1) for text in self._forms(n)}
        if self.style == "terse":
            self._correct, self._no, self._question = "correct", "invalid", ""
        else:
            self._correct = "Correct! 1 point."
            self._no = (
                f"That is no number from 1 to {numbers}: the guess is lost. Reply {choices(numbers, quoted=True)}."
            )
            self._question = f"What is your guess, {choices(numbers)}?"

    def rules(self) -> str:
        if self.style == "terse":
            return "guess"
        plural = "es" if self.guesses > 1 else ""
        return (
            f"A whole number from 1 to {self.numbers} is hidden, the same number in every episode. In each episode you "
            f"have {self.guesses} guess{plural}. After a wrong guess you are told whether the hidden number is higher "
            "or lower. A correct guess pays 1 point and ends the episode. Reply with one number in brackets, "
            f"{choices(self.numbers, quoted=True)}."
        )

    def sample_task(self, rng: random.Random) -> JSON:
        return {"number": rng.randint(1, self.numbers)}

    def all_tasks(self) -> Iterable[JSON]:
        return [{"number": n} for n in range(1, self.numbers + 1)]

    def on_reset(self, params: JSON, rng: random.Random) -> str:
        self._number = params["number"]
        return self._question

    def on_step(self, action: str) -> Step:
        guess = self._table.get(action) or self._parse(action)
        number = self._number
        if guess == number:
            return Step(self._correct, 1.0, True, False, {"valid": True, "success": True})
        if guess == 0:
            return Step(self._no, 0.0, False, False, {"valid": False, "success": False})
        return Step(self._hint(guess, guess < number), 0.0, False, False, {"valid": True, "success": False})

    def _hint(self, guess: int, higher: bool) -> str:
        """The answer to a wrong guess."""
        if self.style == "terse":
            return "higher" if higher else "lower"
        return f"{guess} is wrong: the number is {'higher' if higher else 'lower'}."

    def random_action(self, rng: random.Random) -> str:
        return self._write(rng.randint(1, self.numbers))

    def legal_actions(self) -> Sequence[str] | None:
        return [self._write(n) for n in range(1, self.numbers + 1)] if self.numbers <= MOST_LISTED else None

    def oracle(self, history: Sequence[Episode]) -> str:
        """The middle of the range that all episodes leave open.

        Binary search fills its decision tree level by level, so it is optimal for every weighting of the episodes.
        """
        for episodes in (history, history[-1:], ()):  # another task's episodes may contradict the current one
            low, high = 1, self.numbers
            for episode in episodes:
                for turn in episode.turns:
                    if turn.valid:
                        guess = self._table.get(turn.action) or self._parse(turn.action)
                        if turn.reward > 0:
                            low, high = max(low, guess), min(high, guess)
                        elif turn.observation == self._hint(guess, True):
                            low = max(low, guess + 1)
                        else:
                            high = min(high, guess - 1)
            if low <= high:
                break
        return self._write((low + high) // 2)

    def optimal_returns(self, episodes: int, free_shots: int = 0) -> Optimum:
        """Episode n is won if the number is found within the first t n guesses, and a binary tree of depth d holds at
        most 2^d - 1 numbers. One tree reaches that bound at all depths, so free shots do not change the optimal play.
        """
        curve = tuple(self._found(self.guesses * n) for n in range(1, episodes + 1))
        return Optimum(sum(curve[free_shots:]), curve, "exact")

    def no_memory_bound(self, episodes: int) -> float:
        return episodes * self._found(self.guesses)

    def _found(self, guesses: int) -> float:
        """Probability that the number is among the first `guesses` guesses."""
        return min(self.numbers, 2 ** min(guesses, self.numbers.bit_length()) - 1) / self.numbers

    def _parse(self, action: str) -> int:
        """The number in a message; 0 if it contains none within the range."""
        text = self.parse(action, self._legal)
        return int(text) if text in self._legal else 0

    def _forms(self, number: int) -> list[str]:
        """The commonest ways to write a number, which need no parsing."""
        return [f"[{number}]"] if self.strict else [str(number), f"[{number}]"]

    def _write(self, number: int) -> str:
        return str(number) if self.style == "terse" else f"[{number}]"
