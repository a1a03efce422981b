"""Statistics of trial returns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from metarlgym.datatypes import LIMITS, MetaTrajectory, StopReason

Z95 = 1.959963984540054


def mean_ci(values: np.ndarray) -> tuple[float, list[float]]:
    """Mean and 95% normal confidence interval `[low, high]` of a sample."""
    mean = float(values.mean())
    half = Z95 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return mean, [mean - half, mean + half]


def return_matrix(
    trajectories: list[MetaTrajectory], after_success: Literal["repeat", "zero"] = "repeat"
) -> np.ndarray:
    """Returns by trial and episode, shape `(N, H)`, without missing values.

    Episodes that were not played because the trial stopped at a success get the return of that success (`repeat`) or 0
    (`zero`); episodes that were not played for any other reason get 0. Averaging only over played episodes would favor
    a policy that ends its bad trials.
    """
    out = np.zeros((len(trajectories), trajectories[0].max_episodes))
    for row, trajectory in zip(out, trajectories, strict=True):
        played = [episode.ret for episode in trajectory.episodes]
        row[: len(played)] = played
        if after_success == "repeat" and trajectory.stop is StopReason.SUCCESS:
            row[len(played) :] = played[-1]
    return out


def normalized_score(value: float, optimum: float | None, random: float | None) -> float | None:
    """`(V - V_random) / (V* - V_random)`; None without an optimum or if it equals random play."""
    if optimum is None or random is None or math.isclose(optimum, random, abs_tol=1e-9):
        return None
    return (value - random) / (optimum - random)


def cut_rates(trajectories: Sequence[MetaTrajectory]) -> dict[str, float]:
    """Fractions of trials, episodes and actions that a limit cut, each apart.

    A trial goes on after one of its actions or episodes was cut, so neither counts as a cut trial.
    """
    episodes = [episode for trajectory in trajectories for episode in trajectory.episodes]
    turns = sum(trajectory.turns for trajectory in trajectories)
    return {
        "truncation_rate": sum(t.stop in LIMITS for t in trajectories) / max(1, len(trajectories)),
        "episode_cut_rate": sum(episode.stop in LIMITS for episode in episodes) / max(1, len(episodes)),
        "action_cut_rate": sum(t.truncated_actions for t in trajectories) / max(1, turns),
    }
