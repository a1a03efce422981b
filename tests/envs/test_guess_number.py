import random
from functools import cache

import pytest

from metarlgym import ConfigError, Episode, Task, Turn, make


def brute_force(numbers, guesses, episodes, free):
    """Best expected number of counted wins, by recursion over the open interval and the guesses left."""

    @cache
    def value(low, high, episode, left):  # sum over the secrets in low..high
        if episode == episodes or low > high:
            return 0
        weight = int(episode >= free)
        after = (episode, left - 1) if left > 1 else (episode + 1, guesses)
        wins = weight + (episodes - max(episode + 1, free))  # found now: this episode and all later ones
        return max(
            wins + value(low, guess - 1, *after) + value(guess + 1, high, *after) for guess in range(low, high + 1)
        )

    return value(1, numbers, 0, guesses) / numbers


@pytest.mark.parametrize("numbers", [2, 5, 7, 8, 20])
@pytest.mark.parametrize(("guesses", "episodes"), [(1, 4), (2, 2), (2, 3), (3, 2)])
def test_optimum_is_brute_force_and_oracle_reaches_it(harness, numbers, guesses, episodes):
    for free in range(episodes):
        trial = make("GuessNumber-v0", numbers=numbers, guesses=guesses, episodes=episodes, free_shots=free)
        optimum = trial.optimal_returns()
        assert optimum.kind == "exact"
        assert optimum.total == pytest.approx(brute_force(numbers, guesses, episodes, free))
        assert harness.mean_curve(trial) == pytest.approx(list(optimum.curve))


def test_published_curve(harness):
    """`min(1, (2^(t n) - 1) / N)`, and the mean number of guesses of the optimal search."""
    trial = make("GuessNumber-v0", numbers=100, guesses=3, episodes=3, style="terse")
    assert trial.optimal_returns().curve == pytest.approx((0.07, 0.63, 1.0))
    assert trial.no_memory_bound() == pytest.approx(0.21)
    for numbers, mean in ((7, 2.4286), (10, 2.9), (20, 3.7), (50, 4.86), (100, 5.80)):
        trial = make("GuessNumber-v0", numbers=numbers, guesses=numbers, episodes=1, style="terse")
        turns = [harness.play(trial, Task(trial.env_id, params))["turns"] for params in trial.all_tasks()]
        assert sum(turns) / numbers == pytest.approx(mean, abs=5e-5)


def test_huge_games():
    env = make("GuessNumber-v0", numbers=10**6, guesses=20000)
    assert env.optimal_returns(5).curve == (1.0,) * 5
    env.reset(options={"task": Task(env.env_id, {"number": 999_999}), "episode_seed": 0})
    assert env.step("[9]").observation == "9 is wrong: the number is higher."
    assert env.step("[1000001]").info["valid"] is False
    assert env.step("9" * 5000).info["valid"] is False
    assert env.step("[999999]").reward == 1.0


def test_answers():
    env = make("GuessNumber-v0", numbers=20, guesses=9, style="terse")
    assert env.reset(options={"task": Task(env.env_id, {"number": 7}), "episode_seed": 0})[0] == ""
    for action, text, valid in [
        ("6", "higher", True),
        ("[8]", "lower", True),
        ("not 7 but\n[ 09 ]", "lower", True),
        ("21", "invalid", False),
        ("0", "invalid", False),
        ("seven", "invalid", False),
        ("-7", "invalid", False),
        ("", "invalid", False),
        ("<think>[3]</think> I say [7].", "correct", True),
    ]:
        step = env.step(action)
        assert (step.observation, step.info["valid"]) == (text, valid)
    assert step.terminated
    assert not step.truncated
    assert step.info["success"]


def test_lost_episode_does_not_tell_and_the_number_stays(harness):
    trial = make("GuessNumber-v0", numbers=20, guesses=2, episodes=3)
    task = Task(trial.env_id, {"number": 19})
    trial.reset(options={"task": task, "episode_seed": 0})
    trial.step("[1]")
    step = trial.step("[2]")
    assert step.info["episode_end"]
    assert "19" not in step.observation
    assert trial.step("[19]").reward == 1.0
    assert trial.step("[19]").reward == 1.0
    assert trial.result()["returns"] == [0.0, 1.0, 1.0]


def test_oracle_survives_contradictions():
    """Under the control `shuffled` it sees another task's episodes."""
    env = make("GuessNumber-v0", numbers=20, guesses=3, style="terse")
    other = Episode("", [Turn("3", "correct", 1.0)])
    assert env.oracle([other, Episode("")]) == "3"
    assert env.oracle([other, Episode("", [Turn("3", "higher", 0.0)])]) == "12"


def test_random_policy(harness):
    rng = random.Random(0)
    trial = make("GuessNumber-v0", numbers=10, guesses=2, episodes=3)
    curve = harness.mean_curve(trial, lambda t: t.random_action(rng), seeds=3000)
    assert curve == pytest.approx([1 - 0.9**2] * 3, abs=4 * 0.0072)


def test_contract(harness):
    harness.check_contract("GuessNumber-v0", lambda params: str(params["number"]), numbers=900, guesses=6)


@pytest.mark.parametrize(
    ("kwargs", "field"),
    [({"numbers": 1}, "numbers=1"), ({"numbers": 2.5}, "numbers=2.5"), ({"guesses": 0}, "guesses=0")],
)
def test_bad_arguments(kwargs, field):
    with pytest.raises(ConfigError, match=field):
        make("GuessNumber-v0", **kwargs)
