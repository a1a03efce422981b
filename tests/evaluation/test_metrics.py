"""Statistics of trial returns: no gaps, no survivors' means, null where a score has no meaning."""

from __future__ import annotations

import math

import numpy as np
import pytest

from metarlgym import Episode, MetaTrajectory, StopReason, Task, Turn
from metarlgym.evaluation.metrics import mean_ci, normalized_score, return_matrix


def trial(rewards, stop=StopReason.TERMINATED, episodes=4):
    played = [Episode("", [Turn("a", "", reward)]) for reward in rewards]
    return MetaTrajectory(Task("x", {}), 0, played, episodes, [], stop)


TRIALS = [
    trial([0.0, 0.5, 1.0, 1.0]),
    trial([0.0, 0.8], StopReason.SUCCESS),
    trial([0.3], StopReason.TIME_LIMIT),
    trial([], StopReason.ERROR),
]


def test_after_a_success_stop_the_success_is_repeated():
    expected = [[0, 0.5, 1, 1], [0, 0.8, 0.8, 0.8], [0.3, 0, 0, 0], [0, 0, 0, 0]]
    assert return_matrix(TRIALS).tolist() == expected


def test_or_counts_0():
    assert return_matrix(TRIALS, "zero")[1].tolist() == [0, 0.8, 0, 0]


def test_there_are_no_gaps():
    assert not np.isnan(return_matrix(TRIALS)).any()


def test_an_unfinished_episode_counts_what_it_earned():
    half = trial([0.0, 0.4], StopReason.TURN_LIMIT)
    assert return_matrix([half]).tolist() == [[0, 0.4, 0, 0]]


def test_mean_and_interval():
    mean, (low, high) = mean_ci(np.array([1.0, 2.0, 3.0, 4.0]))
    # Standard deviation 1.29099, /2, x 1.95996 = 1.26515.
    assert mean == 2.5
    assert (low, high) == pytest.approx((2.5 - 1.26515, 2.5 + 1.26515), abs=1e-5)


def test_one_value_has_no_interval():
    assert mean_ci(np.array([3.0])) == (3.0, [3.0, 3.0])


def test_intervals_cover():
    generator = np.random.default_rng(0)
    samples = generator.exponential(size=(2000, 200))
    covered = [low <= 1.0 <= high for low, high in (mean_ci(sample)[1] for sample in samples)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_normalized_score():
    assert normalized_score(3.0, 4.5, 1.5) == 0.5
    assert normalized_score(1.5, 4.5, 1.5) == 0.0
    assert normalized_score(4.5, 4.5, 1.5) == 1.0
    assert normalized_score(0.0, 4.5, 1.5) == -0.5


@pytest.mark.parametrize(
    ("optimum", "random"), [(None, 1.0), (2.0, None), (None, None), (2.0, 2.0), (2.0, 2.0 + 1e-12)]
)
def test_normalized_score_is_null_where_it_has_no_meaning(optimum, random):
    assert normalized_score(1.0, optimum, random) is None


def test_numbers_are_finite():
    assert all(math.isfinite(x) for x in return_matrix(TRIALS).ravel())
