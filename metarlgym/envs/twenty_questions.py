"""Twenty questions: find a hidden thing by questions that are answered yes or no.

A few questions leave several things open, so the answers have to be remembered in the next episode. The answers come
from a table, not from a model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from metarlgym.datatypes import JSON, Episode, Optimum, Step
from metarlgym.env import MOST_LISTED, Env
from metarlgym.envs import twenty_questions_solver as play
from metarlgym.envs.twenty_questions_table import check_table
from metarlgym.envs.wording import choices
from metarlgym.whole_numbers import check_whole

BLIND_EPISODES = 3
"""Number of remaining episodes the oracle assumes if unknown, including the current one."""
_WORD = re.compile(r"[a-z0-9]+")


class TwentyQuestions(Env):
    """One search for a thing of a table. Naming it pays 1; a lost episode does not reveal it.

    Args:
        table: `things16`, `things` (64 things with 24 attributes), or `{thing: {attribute: bool}}`.
        turns: questions and guesses of an episode, at least 1.
    """

    uniform_tasks = True

    def __init__(
        self, table: str | Mapping[str, Mapping[str, bool]] = "things16", turns: int = 3, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.table = check_table(table)
        self.turns_limit = self.max_turns = check_whole("turns", turns, 1)
        self._asked = list(self.table.questions)
        self._names = [*self._asked, *self.table.things]  # the moves, in the order of the solver
        self._written = self._names
        if self.style == "chat":
            self._written = [f"[{text}]" for text in (*self.table.questions.values(), *self.table.things)]
        questions = {text.lower(): place for place, text in enumerate(self.table.questions.values())}
        self._moves = questions | {name: place for place, name in enumerate(self._names)}
        self._quick = {text: place for place, text in enumerate(self._written)}
        self.action_words = None if any(" " in name for name in self._names) else 1

    def rules(self) -> str:
        if self.style == "terse":
            return "questions"
        questions, things = list(self.table.questions.values()), self.table.things
        return (
            f"One of {len(things)} things is hidden, the same thing in every episode. In each episode you have "
            f"{self.turns_limit} turn{'s' if self.turns_limit > 1 else ''}. In each turn you either ask one question, "
            "which is answered yes or no, or name one thing. Naming the hidden thing pays 1 point and ends the episode."
            f" Reply with one question or one thing in brackets. The questions are {choices(0, *questions)}. "
            f"The things are {choices(0, *things)}."
        )

    def sample_task(self, rng: random.Random) -> JSON:
        return {"thing": rng.choice(self.table.things)}

    def all_tasks(self) -> Iterable[JSON]:
        return [{"thing": thing} for thing in self.table.things]

    def on_reset(self, params: JSON, rng: random.Random) -> str:
        self._thing = params["thing"]
        self._row = self.table.rows[self.table.things.index(self._thing)]
        self._made: set[int] = set()
        return "" if self.style == "terse" else "Ask one question or name one thing, in brackets."

    def on_step(self, action: str) -> Step:
        quick = self._quick.get(action)
        move = self._parse(action) if quick is None else quick
        terse = self.style == "terse"
        if isinstance(move, str):
            text = (
                "invalid" if terse else f"{move}: the turn is lost. Reply with one question or one thing in brackets."
            )
            return Step(text, 0.0, False, False, {"valid": False, "success": False})
        self._made.add(move)
        name = self._names[move]
        if move < len(self._asked):
            text = "yes" if self._row[move] else "no"
            text = text if terse else f"{self.table.questions[name]} {text.capitalize()}."
            return Step(text, 0.0, False, False, {"valid": True, "success": False})
        won = name == self._thing
        if terse:
            text = "right" if won else "wrong"
        else:
            text = f"{name} is the hidden thing! 1 point." if won else f"{name} is not the hidden thing."
        return Step(text, float(won), won, False, {"valid": True, "success": won})

    def random_action(self, rng: random.Random) -> str:
        while (move := rng.randrange(len(self._written))) in self._made:
            pass
        return self._written[move]

    def legal_actions(self) -> Sequence[str] | None:
        return list(self._written) if len(self._written) <= MOST_LISTED else None

    def oracle(self, history: Sequence[Episode]) -> str:
        """The exact search where affordable; else the move that promises most."""
        left = self._possible(history)
        episode_now = len(history) - 1
        shape = self.horizon, self.horizon_free
        if self.horizon <= episode_now:
            shape, episode_now = (BLIND_EPISODES, 0), 0
        search, finished = play.plan(self.table.rows, self.turns_limit, *shape)
        done = min(episode_now * self.turns_limit + len(history[-1].turns), search.depth - 1)
        return self._written[(search.choose if finished else search.promising)(left, done)]

    def optimal_returns(self, episodes: int, free_shots: int = 0) -> Optimum:
        """Exact for some dozen things, else an upper bound and what a heuristic reaches."""
        return play.optimum(self.table.rows, self.turns_limit, episodes, free_shots)

    def no_memory_bound(self, episodes: int) -> float | None:
        single = self.optimal_returns(1)
        return episodes * single.total if single.kind == "exact" and single.total is not None else None

    def _possible(self, history: Sequence[Episode]) -> int:
        """The set of things that agree with what was told."""
        moves = play.moves(self.table.rows)
        everything = (1 << len(self.table.things)) - 1
        for episodes in (history, history[-1:]):  # another task's episodes may contradict the current one
            left = everything
            for turn in (turn for episode in episodes for turn in episode.turns if turn.valid):
                move = self._parse(turn.action)
                if isinstance(move, str):
                    continue
                if move < len(self._asked):
                    yes = sum(1 << thing for thing, row in enumerate(self.table.rows) if row[move])
                    left &= yes if turn.observation.lower().rstrip(".").endswith("yes") else ~yes
                else:
                    left &= moves[move].wins if turn.reward > 0 else ~moves[move].wins
            if left:
                return left
        return everything

    def _parse(self, action: str) -> int | str:
        """The move in a message, or what is wrong with it.

        In the chat style a sentence counts if it has the key words of one attribute, or the name of one thing.
        """
        text = self.parse(action, self._moves)
        move = self._moves.get(text.lower())
        if move is not None:
            return move
        words = f" {' '.join(_WORD.findall(text.lower()))} " if self.style == "chat" else ""
        found = [i for i, a in enumerate(self._asked) if any(f" {key} " in words for key in self.table.keys[a])]
        found += [i + len(self._asked) for i, thing in enumerate(self.table.things) if f" {thing} " in words]
        if len(found) == 1:
            return found[0]
        return "That is more than one question or thing" if found else "That is no question or thing of the rules"
