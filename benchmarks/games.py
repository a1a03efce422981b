"""The games with reference values: what random play, the oracle and an optimal player reach over 3 episodes, how fast
they step, and how long a trial is.

Default arguments, chat style. Random play and the oracle play 10,000 trials, the oracle 1,000 where it takes more than
1 ms a step; 95% intervals. The rate is that of steps of random play in trials of 3 episodes, in one process: resets
included, the actions drawn beforehand, 1,000 trials, the median of three. Tokens are those of a whole trial of random
play, rules included, by SmolLM2's tokenizer and chat template: mean of 50 trials.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from common import HERE, commit, cpu_model, versions

from metarlgym import TaskGroup
from metarlgym.evaluation.metrics import mean_ci
from metarlgym.policies.scripted import OraclePolicy, RandomPolicy, RandomTokenPolicy
from metarlgym.rollout.make_renderer import make_renderer
from metarlgym.rollout.manager import RolloutManager, TrialSpec
from metarlgym.seeding import derive
from metarlgym.trial import TrialSettings

GAMES = (
    *("Wordle", "Hangman", "TwentyQuestions", "HiddenRule", "RockPaperScissors", "PrisonersDilemma"),
    *("KuhnPoker", "Blackjack", "Battleship", "Minesweeper", "Maze", "Sokoban"),
)
EPISODES = 3
SLOW = 1e-3
"""Seconds of a step above which the oracle plays fewer trials."""


def specs(group: TaskGroup, trials: int, settings: TrialSettings) -> list[TrialSpec]:
    return [
        TrialSpec(lambda: group.make_trial(settings), group.task(i, "eval"), derive("games", i), ("games", i))
        for i in range(trials)
    ]


def played(group: TaskGroup, policy: object, trials: int, settings: TrialSettings) -> tuple[np.ndarray, float]:
    """Returns of trials, shape `(trials,)`, and seconds of a step."""
    start = time.perf_counter()
    found = RolloutManager(policy).run(specs(group, trials, settings))
    steps = sum(trajectory.turns for trajectory in found)
    errors = [trajectory.error for trajectory in found if trajectory.error]
    assert not errors, errors[0]
    return np.array([trajectory.total for trajectory in found]), (time.perf_counter() - start) / steps


def speed(group: TaskGroup, settings: TrialSettings) -> float:
    """Steps a second with actions drawn beforehand."""
    found = RolloutManager(RandomPolicy()).run(specs(group, 1000, settings))
    plays = [(t.task, t.seed, [turn.action for episode in t.episodes for turn in episode.turns]) for t in found]
    rates = []
    for _ in range(3):
        trials = [group.make_trial(settings) for _ in plays]
        start = time.perf_counter()
        for trial, (task, seed, actions) in zip(trials, plays, strict=True):
            trial.reset(options={"task": task, "episode_seed": seed})
            for action in actions:
                trial.step(action)
        rates.append(sum(len(actions) for *_, actions in plays) / (time.perf_counter() - start))
    return statistics.median(rates)


def tokens(group: TaskGroup, settings: TrialSettings, tokenizer: object) -> float:
    """Mean tokens of a trial."""
    renderer = make_renderer("chat", tokenizer, group)
    found = RolloutManager(RandomTokenPolicy(renderer), renderer).run(specs(group, 50, settings))
    return statistics.fmean(len(row.ids) for trajectory in found for row in trajectory.rows)


def lines(group: TaskGroup) -> str:
    """Lines of the game's module, and of its solver."""
    module = Path(sys.modules[type(group.env).__module__].__file__ or "")
    solver = module.with_name(f"{module.stem}_solver.py")
    counts = [len(path.read_text("utf-8").splitlines()) for path in (module, solver) if path.exists()]
    return " + ".join(map(str, counts))


def row(name: str, tokenizer: object, trials: int) -> str:
    group, settings = TaskGroup(f"{name}-v0"), TrialSettings(episodes=EPISODES)
    optimum = group.env.optimal_returns(EPISODES)
    random_play, _ = played(group, RandomPolicy(), trials, settings)
    _, pace = played(group, OraclePolicy(), min(50, trials), settings)
    oracle, _ = played(group, OraclePolicy(), trials if pace <= SLOW else trials // 10, settings)
    shown = [f"{mean:.3f} [{low:.3f}, {high:.3f}]" for mean, (low, high) in map(mean_ci, (random_play, oracle))]
    best = "-" if optimum.total is None else f"{optimum.total:.4f} ({optimum.kind})"
    bound = group.env.no_memory_bound(EPISODES)
    memoryless = "-" if bound is None else f"{bound:.3f}"
    return (
        f"| {name} | {lines(group)} | {shown[0]} | {shown[1]} ({len(oracle):,}) | {best} | {memoryless} "
        f"| {speed(group, settings):,.0f} | {tokens(group, settings, tokenizer):.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", type=Path, default=HERE.parent / "runs" / "smollm2", help="Folder of SmolLM2.")
    parser.add_argument("--quick", action="store_true", help="100 trials, no file.")
    asked = parser.parse_args()
    from metarlgym.models.loading import load_tokenizer

    tokenizer = load_tokenizer(str(asked.model))
    started = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    head = (
        "| game | lines: game + solver | random play | oracle (trials) | optimum | without memory | steps/s | tokens |"
    )
    rows = [head, "|---|---|---|---|---|---|---|---|"]
    for name in GAMES:
        rows.append(row(name, tokenizer, 100 if asked.quick else 10_000))
        print(rows[-1], flush=True)
    text = "\n".join(
        [
            *("# games", "", " ".join((__doc__ or "").split()), ""),
            *rows,
            *("", f"- Date: {started} UTC", f"- Hardware: {cpu_model()}, {os.cpu_count()} cores"),
            *(f"- Versions: {', '.join(versions())}", f"- Commit: {commit()}", ""),
        ]
    )
    if not asked.quick:
        (HERE / "results" / "games.md").write_text(text)


if __name__ == "__main__":
    main()
