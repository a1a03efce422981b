"""Maze: walk from the start to the goal within a number of turns; only the sides of the cells entered are seen.

The maze stays the same over the episodes, so what the first episodes discover makes the later ones a direct walk. The
default is a uniform spanning tree with a known goal. With `layout="blocks", goal_known=False, start="random"` it is the
maze of ORBIT: cells are walls, there may be loops, and the goal is the farthest cell, which nobody tells.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal

from metarlgym.datatypes import JSON, ConfigError, Episode, Optimum, Step
from metarlgym.env import Env
from metarlgym.envs import maze_solver as solver
from metarlgym.envs.boards import MOST_ROWS, bounded, cell_names, cell_places, exact, horizon, in_words
from metarlgym.envs.wording import choices
from metarlgym.whole_numbers import check_whole

MOVES = ("up", "down", "left", "right")
TRIES = 3_000
"""A block maze that fits the turns must be among this many draws."""


class Maze(Env):
    """One walk. Reaching the goal pays 1 and ends the episode.

    Args:
        rows: 1 to 26.
        columns: at least 1; a maze has at least two cells.
        turns: moves of an episode, at least 1. A move into a wall counts.
        layout: `tree` is a uniform spanning tree of the grid. `blocks` has cells that are walls (`rows` and `columns`
            do not count the border), and the way to the goal takes `turns` - 2 or `turns` - 1 moves.
        goal_known: whether the rules name the goal. In a tree the known goal is the last cell, an unknown one any cell
            but the start; in blocks it is a cell farthest from the start.
        start: `first` cell, or a `random` one that is the same in all episodes.

    Raises:
        ConfigError: an argument is out of range, or no block maze fits the turns.
    """

    action_words = 1
    uniform_tasks = True
    visible_task = True

    def __init__(
        self,
        rows: int = 3,
        columns: int = 3,
        turns: int = 6,
        layout: Literal["tree", "blocks"] = "tree",
        goal_known: bool = True,
        start: Literal["first", "random"] = "first",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rows = check_whole("rows", rows, 1, MOST_ROWS, ", the letters a to z")
        self.columns = check_whole("columns", columns, 1)
        if self.rows * self.columns < 2:
            raise ConfigError("rows=1 and columns=1 leave one cell: make one of them larger.")
        self.moves = self.max_turns = check_whole("turns", turns, 1)
        if layout not in ("tree", "blocks"):
            raise ConfigError(f"layout={layout!r} is not known: use 'tree' or 'blocks'.")
        if not isinstance(goal_known, bool):
            raise ConfigError(f"goal_known={goal_known!r} must be true or false.")
        if start not in ("first", "random"):
            raise ConfigError(f"start={start!r} is not known: use 'first' or 'random'.")
        self.layout, self.goal_known, self.start = layout, goal_known, start
        self._settings = rows, columns, turns, layout, goal_known, start
        self._names, self._places = cell_names(self.rows, self.columns), cell_places(self.rows, self.columns)
        self._grid = solver.neighbors(self.rows, self.columns)
        self._shape = self.rows, self.columns, goal_known, start
        self._blocks = partial(solver.far_blocks, self.rows, self.columns, start, self.moves)
        if layout == "blocks":
            self._blocks(random.Random(0), TRIES)

    def rules(self) -> str:
        if self.style == "terse":
            return "maze"
        goal = "The goal is the same cell in every episode, but you are not told which"
        if self.goal_known and self.layout == "tree":
            goal = f"The goal is {self._names[-1]}"
        elif self.goal_known:
            goal = "You are told the goal, which is the same cell in every episode"
        begin = f"at {self._names[0]}" if self.start == "first" else "at the same cell"
        return (
            f"You walk in a maze of cells, the same maze in every episode. {in_words(self.rows, self.columns)} Each "
            f"episode begins {begin} and has {self.moves} move{'s' if self.moves > 1 else ''}. {goal}. Reaching the "
            "goal pays 1 point and ends the episode. At each cell you are told its open sides. A closed side stops "
            f"you, and the move is lost. Reply {choices(0, *MOVES, quoted=True)}."
        )

    def sample_task(self, rng: random.Random) -> JSON:
        if self.layout == "blocks":
            return self._params(*self._blocks(rng))
        passages = solver.random_tree(self.rows, self.columns, rng)
        last = len(self._names) - 1
        if self.goal_known:
            return self._params(passages, rng.randrange(last) if self.start == "random" else 0, last)
        start = rng.randrange(last + 1) if self.start == "random" else 0
        return self._params(passages, start, (start + rng.randint(1, last)) % (last + 1))

    def all_tasks(self) -> Iterable[JSON] | None:
        worlds = solver.tree_worlds(*self._shape) if self.layout == "tree" else None
        return worlds and [self._params(solver.passages_of(self._grid, w.sides), w.start, w.goal) for w in worlds]

    def on_reset(self, params: JSON, rng: random.Random) -> str:
        place = self._places
        passages = [[place[cell] for cell in passage.split("-")] for passage in params["open"]]
        self._sides = solver.open_sides(self.rows, self.columns, passages)
        self._cell, self._goal = place[params["start"]], place[params["goal"]]
        self._seen = {self._cell}
        told = self.goal_known and self.layout == "blocks"
        if self.style == "terse":
            return (f"goal {params['goal']} " if told else "") + self._describe()
        goal = f"The goal is {params['goal']}. " if told else ""
        return f"{goal}You are at {self._describe()} Which move: {choices(0, *MOVES)}?"

    def on_step(self, action: str) -> Step:
        move = self.parse(action, MOVES)
        terse = self.style == "terse"
        if move not in MOVES:
            text = "invalid"
            if not terse:
                text = f"That is not one of the moves: the move is lost. Reply {choices(0, *MOVES, quoted=True)}."
            return Step(text, 0.0, False, False, {"valid": False, "success": False})
        side = MOVES.index(move)
        if not (wall := not self._sides[self._cell] >> side & 1):
            self._cell = self._grid[self._cell][side]
            self._seen.add(self._cell)
        name = self._names[self._cell]
        if self._cell == self._goal:
            text = f"{name} goal" if terse else f"You go {move} to {name}. This is the goal! 1 point."
            return Step(text, 1.0, True, False, {"valid": True, "success": True})
        text = self._describe()
        if terse and wall:
            text = f"wall {text}"
        elif not terse:
            text = f"A wall stops you. You are still at {text}" if wall else f"You go {move} to {text}"
            text += "" if self.turns_left else " No moves are left: 0 points."
        return Step(text, 0.0, False, False, {"valid": True, "success": False})

    def render(self) -> str | None:  # type: ignore[override]
        """The maze as far as it has been seen in this episode: `@` is the player, `G` a known goal, `?` not seen."""
        if self.render_mode != "ansi":
            return None
        goal = self._goal if self.goal_known or self._cell == self._goal else -1
        return solver.draw_maze(self.rows, self.columns, self._sides, self._seen, self._cell, goal)

    def random_action(self, rng: random.Random) -> str:
        return self._write(rng.choice(MOVES))

    def legal_actions(self) -> Sequence[str]:
        return [self._write(move) for move in MOVES]

    def oracle(self, history: Sequence[Episode]) -> str:
        """The exact search where affordable; else along the shortest way that may be open."""
        episode, episodes, free = horizon(self, history)
        left = max(self.moves - len(history[-1].turns), 1)
        goal = len(self._names) - 1 if self.goal_known and self.layout == "tree" else None
        seen = [solver.recall(known, self._places, MOVES, goal) for known in (history, history[-1:])]
        cell = seen[1].cell
        step = solver.decide(self.rows, self.columns, self._plan(episodes, free), seen, left, episode)
        return self._write(MOVES[self._grid[cell].index(step)] if step != cell else MOVES[0])

    def optimal_returns(self, episodes: int, free_shots: int = 0) -> Optimum:
        """Exact for trees up to 3 x 3 and the like. Else an upper bound: a player with a map, where the way to the goal
        can be weighed; `lower` is what the oracle reaches.
        """
        plan = self._plan(episodes, free_shots)
        if plan is not None:
            return exact(plan.curve(), free_shots)
        each = 1.0
        if self.layout == "tree" and self.goal_known and self.start == "first":
            each = solver.known_map_bound(self.rows, self.columns, self.moves, 1)
        return bounded((each,) * episodes, free_shots, type(self), self._settings)

    def no_memory_bound(self, episodes: int) -> float | None:
        plan = self._plan(1, 0)
        return None if plan is None else episodes * plan.curve()[0]

    def _plan(self, episodes: int, free: int) -> solver.Search | None:
        return solver.search(*self._shape, self.moves, episodes, free) if self.layout == "tree" else None

    def _params(self, passages: Iterable[tuple[int, int]], start: int, goal: int) -> JSON:
        names = self._names
        return {"open": [f"{names[a]}-{names[b]}" for a, b in passages], "start": names[start], "goal": names[goal]}

    def _describe(self) -> str:
        """The player's cell and its open sides."""
        sides = self._sides[self._cell]
        moves = [move for side, move in enumerate(MOVES) if sides >> side & 1]
        name = self._names[self._cell]
        return " ".join([name, *moves]) if self.style == "terse" else f"{name}. Open sides: {', '.join(moves)}."

    def _write(self, move: str) -> str:
        return move if self.style == "terse" else f"[{move}]"
