import random
from functools import cache

import pytest

from metarlgym import ConfigError, Episode, StopReason, Task, Turn, make

DIRECTIONS = {"up": (0, 1), "down": (0, -1), "left": (-1, 0), "right": (1, 0), "stay": (0, 0)}


def brute_force(size, steps, episodes, free):
    """Bayes recursion over (step, cell, goals still possible); every move allowed, also once the goal is found."""
    start = (size // 2, size // 2)
    cells = [(x, y) for x in range(size) for y in range(size)]

    @cache
    def value(step, cell, goals):
        if step == steps * episodes:
            return 0.0
        if step % steps == 0:
            cell = start
        weight = float(step // steps >= free)
        top = 0.0
        for dx, dy in DIRECTIONS.values():
            to = (cell[0] + dx, cell[1] + dy)
            if to not in cells:
                to = cell
            hit = (to in goals) / len(goals)
            total = 0.0
            if hit:
                total += hit * (weight + value(step + 1, to, frozenset([to])))
            if hit < 1:
                total += (1 - hit) * value(step + 1, to, goals - {to})
            top = max(top, total)
        return top

    return value(0, start, frozenset(cells) - {start})


@pytest.mark.parametrize(
    ("size", "steps", "episodes", "free"),
    [(2, 1, 3, 0), (2, 2, 2, 0), (2, 4, 2, 1), (3, 2, 3, 0), (3, 3, 2, 0), (3, 4, 3, 1), (3, 6, 2, 0), (3, 6, 3, 2)],
)
def test_optimum_is_brute_force_and_oracle_reaches_it(harness, size, steps, episodes, free):
    trial = make("DarkRoom-v0", size=size, steps=steps, episodes=episodes, free_shots=free)
    optimum = trial.optimal_returns()
    assert optimum.kind == "exact"
    assert optimum.total == pytest.approx(brute_force(size, steps, episodes, free))
    assert harness.mean_curve(trial) == pytest.approx(list(optimum.curve))


def test_three_by_three(harness):
    trial = make("DarkRoom-v0", episodes=3, style="terse")
    assert trial.env.max_turns == 6
    assert trial.optimal_returns().curve == pytest.approx((2.625, 5.5, 5.5))
    assert trial.no_memory_bound() == pytest.approx(3 * 2.625)
    assert harness.mean_curve(trial) == pytest.approx([2.625, 5.5, 5.5])


@pytest.mark.parametrize(("size", "steps", "episodes"), [(4, 8, 3), (5, 10, 4), (7, 14, 6)])
def test_sweep_is_below_the_bound_and_ends_at_the_goal(harness, size, steps, episodes):
    trial = make("DarkRoom-v0", size=size, steps=steps, episodes=episodes)
    optimum = trial.optimal_returns()
    assert optimum.kind == "upper_bound"
    curve = harness.mean_curve(trial)
    assert all(mean <= bound + 1e-9 for mean, bound in zip(curve, optimum.curve))
    assert sum(curve) >= 0.9 * optimum.total


def test_upper_bound_holds_where_the_optimum_is_known():
    from metarlgym.envs.dark_room import _bound, _search

    for steps in (1, 2, 3, 4, 6, 8, 10):
        exact, bound = _search(3, steps, 4, 0).curve, _bound(3, steps, 4)
        assert all(a <= b + 1e-9 for a, b in zip(exact, bound))
        # whatever the weights, no episode passes its bound
        for free in (1, 2, 3):
            assert all(a <= b + 1e-9 for a, b in zip(_search(3, steps, 4, free).curve, bound))


def test_nine_by_nine_with_twenty_steps(harness):
    """The classical room: 16.50 an episode with a known goal, 0.236 for a random policy, P(found in 20) <= 1/4."""
    trial = make("DarkRoom-v0", size=9, steps=20, episodes=6, style="terse")
    assert trial.optimal_returns().curve[-1] == pytest.approx(16.5)
    rng = random.Random(0)
    tasks = list(trial.all_tasks())[::5]
    returns = [harness.play(trial, Task(trial.env_id, goal))["returns"] for goal in tasks]
    assert all(run[-1] >= 20 - 8 + 1 for run in returns)
    assert sum(run[0] > 0 for run in returns) / len(returns) < 0.4
    curve = harness.mean_curve(trial, lambda t: t.random_action(rng), seeds=400)
    assert sum(curve) / 6 == pytest.approx(0.236, abs=0.1)


def test_answers():
    env = make("DarkRoom-v0", steps=8, style="terse")
    assert env.reset(options={"task": Task(env.env_id, {"goal": [0, 1]}), "episode_seed": 0})[0] == "x2y2"
    for action, text, reward, valid, success in [
        ("up", "x2y3", 0.0, True, False),
        ("up", "x2y3", 0.0, True, False),
        ("[LEFT]", "x1y3", 0.0, True, False),
        ("down", "x1y2 goal", 1.0, True, True),
        ("jump", "invalid", 0.0, False, True),
        ("stay", "x1y2 goal", 1.0, True, True),
        ("left", "x1y2 goal", 1.0, True, True),
        ("right", "x2y2", 0.0, True, True),
    ]:
        step = env.step(action)
        assert (step.observation, step.reward, step.info["valid"], step.info["success"]) == (
            text,
            reward,
            valid,
            success,
        )
    assert step.truncated
    assert not step.terminated
    assert env.result()["success"]
    assert env.result()["stop"] == StopReason.MAX_TURNS


def test_start_is_never_the_goal():
    for size in (2, 3, 4, 5):
        env = make("DarkRoom-v0", size=size)
        goals = [params["goal"] for params in env.all_tasks()]
        assert len(goals) == size * size - 1
        assert [size // 2, size // 2] not in goals
        assert {tuple(env.new_task(i).params["goal"]) for i in range(400)} == {tuple(goal) for goal in goals}


def test_oracle_survives_contradictions():
    """Under the control `shuffled` it sees another task's episodes."""
    for size in (3, 5):
        env = make("DarkRoom-v0", size=size, style="terse")
        other = Episode("", [Turn("up", "", 1.0)])
        assert env.oracle([other, Episode("")]) == "up"
        assert env.oracle([other, Episode("", [Turn("up", "", 0.0)])]) != "stay"


def test_oracle_past_its_horizon(harness):
    env = make("DarkRoom-v0", style="terse")
    walk = [Turn(action, "", 0.0) for action in ("up", "left", "down", "down", "right", "right")]
    for horizon in (0, 1):
        env.horizon = horizon
        assert env.oracle([Episode("", walk), Episode("")]) in ("right", "up")


def test_contract(harness):
    harness.check_contract("DarkRoom-v0", lambda params: "goal")


@pytest.mark.parametrize(
    ("kwargs", "field"), [({"size": 1}, "size=1"), ({"size": 3.0}, "size=3.0"), ({"steps": 0}, "steps=0")]
)
def test_bad_arguments(kwargs, field):
    with pytest.raises(ConfigError, match=field):
        make("DarkRoom-v0", **kwargs)
