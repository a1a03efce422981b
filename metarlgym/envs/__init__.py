"""The built-in task groups, one module each; importing this package registers them."""

import gymnasium

from metarlgym.registry import register

register(
    "Doors-v0",
    "metarlgym.envs.doors:Doors",
    summary="One of K doors holds a prize; a safe door pays less for sure. Explore, then repeat.",
)
register(
    "Bandit-v0",
    "metarlgym.envs.bandit:Bandit",
    summary="K slot machines with hidden win probabilities, one pull an episode. Explore against exploit.",
)
register(
    "GuessNumber-v0",
    "metarlgym.envs.guess_number:GuessNumber",
    summary="A hidden number, answers higher or lower. Search on over episodes, then repeat.",
)
register(
    "Mastermind-v0",
    "metarlgym.envs.mastermind:Mastermind",
    summary="A hidden code, answers count right places and wrong places. Deduce, then repeat.",
)
register(
    "DarkRoom-v0",
    "metarlgym.envs.dark_room:DarkRoom",
    summary="A grid with a hidden goal cell that pays at every step. Sweep, then go straight there.",
)
register(
    "GSM8K-v0",
    "metarlgym.envs.gsm8k:GSM8K",
    summary="A word problem, several attempts, told whether right. Drop what was wrong, repeat what was right.",
)
register(
    "MetaLM-v0",
    "metarlgym.envs.meta_lm:MetaLMGame",
    summary="A hidden language of repeating noisy words. Predict its next token; learn the words.",
)
register(
    "RLM-v0",
    "metarlgym.envs.rlm:RLMGame",
    summary="A hidden random grammar. Predict the tokens of its sentences; learn the rules.",
)
register(
    "Piecewise-v0",
    "metarlgym.envs.piecewise:PiecewiseGame",
    summary="A source that changes by a hidden law. Predict its symbols; learn when it changes.",
)
register(
    "RockPaperScissors-v0",
    "metarlgym.envs.rock_paper_scissors:RockPaperScissors",
    summary="Rounds against an opponent with a hidden habit. Recognize it, then win every round.",
)
register(
    "PrisonersDilemma-v0",
    "metarlgym.envs.prisoners_dilemma:PrisonersDilemma",
    summary="Rounds against a hidden strategy. Find out whom to trust, then cooperate or exploit.",
)
register(
    "KuhnPoker-v0",
    "metarlgym.envs.kuhn_poker:KuhnPoker",
    summary="Three-card poker against hidden habits. Learn who bluffs and who calls, then bet accordingly.",
)
register(
    "Wordle-v0",
    "metarlgym.envs.wordle:Wordle",
    summary="A hidden word, told which letters are right. Deduce on over episodes, then repeat.",
)
register(
    "Hangman-v0",
    "metarlgym.envs.hangman:Hangman",
    summary="A hidden word, spelled letter by letter with few misses. Narrow it down, then spell it at once.",
)
register(
    "TwentyQuestions-v0",
    "metarlgym.envs.twenty_questions:TwentyQuestions",
    summary="A hidden thing, found by yes/no questions and guesses. Ask on over episodes, then name it.",
)
register(
    "HiddenRule-v0",
    "metarlgym.envs.hidden_rule:HiddenRule",
    summary="A hidden rule reorders and flips bits. Query it, answer a test, then know the rule.",
)
register(
    "Blackjack-v0",
    "metarlgym.envs.blackjack:Blackjack",
    summary="Hands against a dealer with hidden rules. Watch where he stands, then play to it.",
)
register(
    "Sokoban-v0",
    "metarlgym.envs.sokoban:Sokoban",
    summary="Push boxes onto goals on a map that is shown. Plan, and practice the level again.",
)

register(
    "Maze-v0",
    "metarlgym.envs.maze:Maze",
    summary="A maze seen from inside, one cell at a time. Find the way, then walk it directly.",
)
register(
    "Battleship-v0",
    "metarlgym.envs.battleship:Battleship",
    summary="Hidden ships on a board, shots hit or miss. Find the ships, then sink them without a miss.",
)
register(
    "Minesweeper-v0",
    "metarlgym.envs.minesweeper:Minesweeper",
    summary="Hidden mines, open cells tell how many touch them. Learn the mines, then clear the board.",
)

import metarlgym.envs.published  # noqa: E402, F401

# The bare generator, registered only with gymnasium: it returns arrays, not text.
for _name in ("meta-lm-v0", "metarlgym/meta-lm-v0"):
    gymnasium.register(
        _name,
        entry_point="metarlgym.sequences.sources.gymnasium_env:MetaLMGenerator",
        order_enforce=False,
        disable_env_checker=True,
    )
