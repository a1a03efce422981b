"""Sokoban: push all boxes onto goals. The map is shown, so that nothing is hidden and a perfect planner always wins.

The same level is played in every episode. A policy that cannot plan so far ahead learns from the pushes that failed: a
box pushed into a corner is lost, and only the next episode begins anew. So what grows over the episodes is practice.
Levels are made at random and solved by search; only those that can be solved in time are used.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from typing import Any

from metarlgym.datatypes import JSON, ConfigError, Episode, Optimum, Step
from metarlgym.env import MOST_LISTED, Env
from metarlgym.envs import sokoban_solver as play
from metarlgym.envs.wording import choices
from metarlgym.whole_numbers import check_whole

SIZE, BOXES = 6, 1


class _Actions:
    """The legal actions, without a list of them."""

    def __init__(self, most: int) -> None:
        self.most = most

    def __contains__(self, word: object) -> bool:
        moves = _split(word) if isinstance(word, str) else []
        return 0 < len(moves) <= self.most and all(move in play.MOVES for move in moves)


class Sokoban(Env):
    """One try at a level. It pays 1 when all boxes stand on goals.

    Args:
        level: a map in the XSB format, see `sokoban_solver`; default None, each task is a level made at random.
        size: side of a made level, walls included, at least 5; default 6.
        boxes: boxes of a made level, at least 1; default 1.
        turns: turns of an episode, at least 1. Walking into a wall uses a move.
        moves_per_turn: the most moves of an action, at least 1.

    Raises:
        ConfigError: the level has no solution within the turns, or levels of this size cannot be made.
    """

    visible_task = True

    def __init__(
        self,
        level: str | None = None,
        size: int | None = None,
        boxes: int | None = None,
        turns: int = 20,
        moves_per_turn: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._turns_allowed = self.max_turns = check_whole("turns", turns, 1)
        self.moves_per_turn = check_whole("moves_per_turn", moves_per_turn, 1)
        self.action_words = 1 if moves_per_turn == 1 else None
        self._most = self._turns_allowed * self.moves_per_turn
        self._actions = _Actions(self.moves_per_turn)
        self.level = level
        if level is None:
            self.size = check_whole("size", SIZE if size is None else size, 5)
            self.boxes = check_whole("boxes", BOXES if boxes is None else boxes, 1)
            play.check_size(self.size, self.boxes, self._most)
        else:
            if size is not None or boxes is not None:
                raise ConfigError(f"size={size}, boxes={boxes} are those of the level: leave them out beside level.")
            play.check_level(level, self._most)

    def rules(self) -> str:
        if self.style == "terse":
            return "sokoban"
        most = self._turns_allowed
        many = f"up to {self.moves_per_turn} moves" if self.moves_per_turn > 1 else "one move"
        return (
            "You push boxes onto goals. On the map # is a wall, - is floor, . is a goal, $ is a box, * is a box on a "
            "goal, @ is you and + is you on a goal. You walk one cell up, down, left or right. You push a box by "
            "walking into it, if the cell behind it is free; you cannot pull it. When all boxes are on goals, you get "
            f"1 point and the episode ends. An episode has {most} turn{'s' if most > 1 else ''} of "
            f"{many}. Every episode begins with the same map. Reply {self._replies}."
        )

    @property
    def _replies(self) -> str:
        if self.moves_per_turn == 1:
            return choices(0, *play.MOVES, quoted=True)
        example = " ".join((play.MOVES * self.moves_per_turn)[: self.moves_per_turn])
        return f'with 1 to {self.moves_per_turn} moves in brackets, for example "[{example}]"'

    def sample_task(self, rng: random.Random) -> JSON:
        level = self.level
        return {"level": play.make_level(rng, self.size, self.boxes, self._most) if level is None else level}

    def all_tasks(self) -> Iterable[JSON] | None:
        return None if self.level is None else [{"level": self.level}]

    def on_reset(self, params: JSON, rng: random.Random) -> str:
        self._board, self._position = play.read(params["level"])
        if self.style == "terse":
            return " | ".join([" ".join(row[1:-1]) for row in self._rows()[1:-1]])
        question = choices(0, *play.MOVES) if self.moves_per_turn == 1 else f"1 to {self.moves_per_turn}, in brackets"
        return f"{self._map()}\nWhich move{'s' if self.moves_per_turn > 1 else ''}: {question}?"

    def on_step(self, action: str) -> Step:
        moves = self._parse(action)
        terse = self.style == "terse"
        if not moves:
            text = "invalid" if terse else f"That is no move: the turn is lost. Reply {self._replies}.\n{self._map()}"
            return Step(text, 0.0, False, False, {"valid": False, "success": False})
        told = []
        solved = False
        for move in moves:
            before = self._position
            self._position = self._board.move(before, self._board.steps[move])
            told.append(self._outcome(move, before))
            if solved := self._position[1] == self._board.goals:
                break
        if terse:
            told += ["solved"] * solved
            return Step(" ".join(told), float(solved), solved, False, {"valid": True, "success": solved})
        text = f"{' '.join(told)}{' All boxes are on goals: 1 point.' if solved else ''}\n{self._map()}"
        return Step(text, float(solved), solved, False, {"valid": True, "success": solved})

    def _outcome(self, move: str, before: play.Position) -> str:
        """What a move did."""
        blocked, pushed = self._position == before, self._position[1] != before[1]
        if self.style == "terse":
            y, x = divmod(self._position[0], self._board.width)
            return f"x{x}y{y}{' wall' if blocked else ' push' if pushed else ''}"
        return f"Move {move}: {'blocked, you stay' if blocked else 'you push a box' if pushed else 'you walk'}."

    def _rows(self) -> list[str]:
        return self._board.draw(self._position)

    def _map(self) -> str:
        return "\n".join(self._rows())

    def render(self) -> str | None:  # type: ignore[override]
        """The map with `render_mode="ansi"`, else None."""
        return self._map() if super().render() is not None else None

    def random_action(self, rng: random.Random) -> str:
        most = self.moves_per_turn
        length = rng.choices(range(1, most + 1), [4.0**n for n in range(most)])[0] if most > 1 else 1
        return self._write(rng.choices(play.MOVES, k=length))

    def legal_actions(self) -> Sequence[str] | None:
        listed = play.sequences(self.moves_per_turn, MOST_LISTED)
        return None if listed is None else list(map(self._write, listed))

    def oracle(self, history: Sequence[Episode]) -> str:
        """A shortest solution from here; where there is none, any move."""
        now = history[-1]
        if self.style == "terse":
            level = re.sub("[^-#.$*@+|]", "", now.opening).replace("|", "\n")
        else:
            level = "\n".join(re.findall("^[-#.$*@+]+$", now.opening, re.MULTILINE))
        done = tuple(move for turn in now.turns if turn.valid for move in self._parse(turn.action))
        rest = play.onward(*play.read(level), done)
        return self._write(rest[: self.moves_per_turn] or play.MOVES[:1])

    def optimal_returns(self, episodes: int, free_shots: int = 0) -> Optimum:
        """Every level can be solved in time, in the first episode too."""
        return Optimum(float(episodes - free_shots), (1.0,) * episodes, "exact")

    def no_memory_bound(self, episodes: int) -> float:
        """The map is shown: nothing need be remembered."""
        return float(episodes)

    def _parse(self, action: str) -> list[str]:
        """The moves in a message; none if it is no legal action."""
        # Several moves are taken as they stand, so that one too many is not read as fewer.
        word = self.parse(action, play.MOVES) if self.moves_per_turn == 1 else self.parse(action).lower()
        return _split(word) if word in self._actions else []

    def _write(self, moves: Sequence[str]) -> str:
        return " ".join(moves) if self.style == "terse" else f"[{' '.join(moves)}]"


def _split(action: str) -> list[str]:
    return re.split("[ ,]+", action.strip())
