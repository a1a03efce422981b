import random
from functools import cache

import pytest

from metarlgym import ConfigError, Task, make


def brute_force(doors, safe, episodes, free):
    """Best weighted return over policies that see which doors are known to be empty; an independent recursion."""

    @cache
    def value(episode, tried, found):
        if episode == episodes:
            return 0.0
        weight = float(episode >= free)
        options = [weight * safe + value(episode + 1, tried, found)]
        for door in range(doors):
            if found is not None:
                options.append(weight * (door == found) + value(episode + 1, tried, found))
            elif door not in tried:
                prob = 1 / (doors - len(tried))
                hit = weight + value(episode + 1, tried, door)
                options.append(prob * hit + (1 - prob) * (prob < 1 and value(episode + 1, tried | {door}, None)))
        return max(options)

    return value(0, frozenset(), None)


@pytest.mark.parametrize(
    ("doors", "safe", "episodes", "total"),
    [(4, 0.4, 6, 4.50), (4, 0.4, 3, 1.50), (6, 0.4, 8, 5.50), (6, 0.4, 4, 1.70), (6, 0.4, 3, 1.20), (4, 0.6, 3, 1.80)],
)
def test_published_optima(doors, safe, episodes, total):
    optimum = make("Doors-v0", doors=doors, safe=safe).optimal_returns(episodes)
    assert optimum.kind == "exact"
    assert optimum.total == pytest.approx(total)


@pytest.mark.parametrize("doors", [2, 3, 4])
@pytest.mark.parametrize("safe", [0.0, 0.3, 0.55, 1.0])
@pytest.mark.parametrize(("episodes", "free"), [(1, 0), (3, 0), (5, 0), (4, 1), (5, 3)])
def test_optimum_is_brute_force_and_oracle_reaches_it(harness, doors, safe, episodes, free):
    trial = make("Doors-v0", doors=doors, safe=safe, episodes=episodes, free_shots=free)
    optimum = trial.optimal_returns()
    assert optimum.total == pytest.approx(brute_force(doors, safe, episodes, free))
    assert harness.mean_curve(trial) == pytest.approx(list(optimum.curve))


def test_long_trials_and_many_doors(harness):
    for doors, episodes, free in ((4, 5000, 0), (4, 5000, 4000), (300, 2000, 0)):
        trial = make("Doors-v0", doors=doors, episodes=episodes, free_shots=free)
        # Trying doors in order until the prize is found, and opening that one from then on, is optimal.
        curve = [min(1.0, (episode + 1) / doors) for episode in range(episodes)]
        assert trial.optimal_returns().curve == pytest.approx(curve)
    # With 700 of 1000 episodes free, exploration costs nothing: the oracle explores from the start.
    assert harness.mean_curve(make("Doors-v0", episodes=1000, free_shots=700))[:3] == pytest.approx([0.25, 0.5, 0.75])


def test_curve_of_the_trap():
    trial = make("Doors-v0", doors=4, safe=0.4, episodes=6)
    assert trial.optimal_returns().curve == pytest.approx((0.25, 0.5, 0.75, 1, 1, 1))
    assert trial.no_memory_bound() == pytest.approx(2.4)


def test_random_policy(harness):
    rng = random.Random(0)
    trial = make("Doors-v0", episodes=6)
    curve = harness.mean_curve(trial, lambda t: t.random_action(rng), seeds=3000)
    assert sum(curve) == pytest.approx(6 * (1 + 0.4) / 5, abs=0.06)


def test_answers():
    for style, write in (("chat", "I open [{}]."), ("terse", "{}")):
        env = make("Doors-v0", style=style)
        for action, reward, valid in (("2", 1.0, True), ("1", 0.0, True), ("SAFE", 0.4, True), ("5", 0.0, False)):
            env.reset(options={"task": Task("Doors-v0", {"prize": 1}), "episode_seed": 0})
            step = env.step(write.format(action))
            assert (step.reward, step.info["valid"], step.terminated) == (reward, valid, True)
            assert step.info["success"] is (reward == 1.0)


def test_contract(harness):
    harness.check_contract("Doors-v0", lambda params: "\0")


@pytest.mark.parametrize(("kwargs", "field"), [({"doors": 1}, "doors=1"), ({"safe": 1.5}, "safe=1.5")])
def test_bad_arguments(kwargs, field):
    with pytest.raises(ConfigError, match=field):
        make("Doors-v0", **kwargs)
