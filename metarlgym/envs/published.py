"""Settings under which papers train and evaluate language models, as ids of their own.

An id carries what its trials have: the number of episodes, a budget of turns for the whole trial (under which an
episode that ends early leaves room for another), the stop at the first success. Texts and word lists are ours;
`docs/task_groups.md` says what is comparable.

ORBIT: arXiv:2602.04089. LaMer: arXiv:2512.16848. PAPRIKA: arXiv:2502.17543.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from metarlgym.registry import register


class Setting(NamedTuple):
    """One id."""

    game: str
    """Entry point, below this package."""
    arguments: dict[str, Any]
    trial: dict[str, Any]
    summary: str


def _budget(turns: int, episodes: int | None = None) -> dict[str, Any]:
    """Trials of a number of turns, and of as many episodes as fit."""
    return {"episodes": episodes or turns, "max_total_turns": turns}


SETTINGS: dict[str, Setting] = {
    "Mastermind-ORBIT-v0": Setting(
        "mastermind:Mastermind",
        {"length": 3, "symbols": 6, "repeats": False, "guesses": 3},
        _budget(9),
        "Mastermind as in ORBIT: 3 of 6 different symbols, 3 guesses an episode, 9 turns in all.",
    ),
    "RockPaperScissors-ORBIT-v0": Setting(
        "rock_paper_scissors:RockPaperScissors",
        {"rounds": 5, "opponents": ["biased"], "reward": "majority"},
        _budget(15, 3),
        "Rock-paper-scissors as in ORBIT: a biased opponent, 5 rounds, 15 turns in all.",
    ),
    "Hangman-ORBIT-v0": Setting(
        "hangman:Hangman",
        {"words": "common3", "lives": 10, "turns": 10},
        _budget(30),
        "Hangman as in ORBIT: words of 3 letters, 10 turns an episode, 30 in all.",
    ),
    "Wordle-ORBIT-v0": Setting(
        "wordle:Wordle",
        {"words": "common5", "guesses": 10},
        _budget(30),
        "Wordle as in ORBIT: words of 5 letters, 10 guesses an episode, 30 turns in all.",
    ),
    "Blackjack-ORBIT-v0": Setting(
        "blackjack:Blackjack",
        {"hands": 1, "turns": 4},
        _budget(12),
        "Blackjack as in ORBIT: hands of at most 4 turns, 12 turns in all.",
    ),
    "Sokoban-LaMer-v0": Setting(
        "sokoban:Sokoban",
        {"size": 6, "boxes": 2, "turns": 7, "moves_per_turn": 3},
        {"episodes": 3, "stop_on_success": True},
        "Sokoban as in LaMer: 6x6 with 2 boxes, 7 turns of up to 3 moves; ends at the first success.",
    ),
    "Maze-ORBIT-v0": Setting(
        "maze:Maze",
        {"rows": 4, "columns": 4, "turns": 9, "layout": "blocks", "goal_known": False, "start": "random"},
        _budget(27),
        "Mazes as in ORBIT: 4x4 cells inside the border, an unknown goal, 9 moves an episode, 27 in all.",
    ),
    "Minesweeper-ORBIT-v0": Setting(
        "minesweeper:Minesweeper",
        {"rows": 5, "columns": 5, "mines": 5, "turns": 8},
        _budget(24),
        "Minesweeper as in ORBIT: 5x5 with 5 mines, 8 turns an episode, 24 in all.",
    ),
    "Minesweeper-LaMer-v0": Setting(
        "minesweeper:Minesweeper",
        {"rows": 6, "columns": 6, "mines": 3, "turns": 7, "first_click": "safe"},
        {"episodes": 3, "stop_on_success": True},
        "Minesweeper as in LaMer: 6x6 with 3 mines, 7 turns, a safe first click; ends at the first success.",
    ),
    "Battleship-PAPRIKA-v0": Setting(
        "battleship:Battleship",
        {"size": 6, "ships": [5, 4, 2], "shots": 20},
        {"episodes": 1},
        "Battleship as in PAPRIKA: 6x6 with ships of 5, 4 and 2 cells, 20 shots, one episode.",
    ),
    "Minesweeper-PAPRIKA-v0": Setting(
        "minesweeper:Minesweeper",
        {"rows": 5, "columns": 5, "mines": 4, "turns": 20},
        {"episodes": 1},
        "Minesweeper as in PAPRIKA: 5x5 (there 4 to 7 a side), 20 turns, one episode.",
    ),
    "Wordle-PAPRIKA-v0": Setting(
        "wordle:Wordle",
        {"words": "common5", "guesses": 6},
        {"episodes": 1},
        "Wordle as in PAPRIKA: words of 5 letters, 6 guesses, one episode.",
    ),
    "Mastermind-PAPRIKA-v0": Setting(
        "mastermind:Mastermind",
        {"length": 4, "symbols": 10, "repeats": True, "guesses": 12},
        {"episodes": 1},
        "Mastermind as in PAPRIKA: 4 of 10 symbols with repeats, 12 guesses, one episode.",
    ),
    "TwentyQuestions-PAPRIKA-v0": Setting(
        "twenty_questions:TwentyQuestions",
        {"table": "things", "turns": 20},
        {"episodes": 1},
        "Twenty questions as in PAPRIKA, about the 64 things of our table; one episode.",
    ),
}

for _id, _setting in SETTINGS.items():
    register(
        _id,
        f"metarlgym.envs.{_setting.game}",
        kwargs=_setting.arguments,
        trial=_setting.trial,
        summary=_setting.summary,
    )
