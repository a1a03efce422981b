import doctest
import random
from collections import Counter
from fractions import Fraction
from functools import cache

import pytest

from metarlgym import ConfigError, Episode, StopReason, Task, Turn, make
from metarlgym.envs import boards
from metarlgym.envs.maze_solver import all_trees, known_map_bound, tree_count

ORBIT = {"layout": "blocks", "goal_known": False, "start": "random"}
STEPS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


def worlds_of(env):
    """(passages as pairs of cells, start, goal) of every task."""

    def cell(name):
        return "abcdefgh".index(name[0]), int(name[1:]) - 1

    for params in env.all_tasks():
        pairs = [tuple(map(cell, passage.split("-"))) for passage in params["open"]]
        yield frozenset(pairs) | {(b, a) for a, b in pairs}, cell(params["start"]), cell(params["goal"])


def brute_force(env, turns, episodes, free):
    """Recursion over (worlds, cell, turn): every move in every state, also into walls and along known ways."""

    @cache
    def value(worlds, cell, turn):
        if turn == turns * episodes:
            return 0
        if turn % turns == 0:
            cell = next(iter(worlds))[1]
        top = 0
        for dy, dx in STEPS.values():
            to = (cell[0] + dy, cell[1] + dx)
            seen = {}
            for world in worlds:
                new = to if (cell, to) in world[0] else cell
                sides = tuple(d for d in STEPS.values() if (new, (new[0] + d[0], new[1] + d[1])) in world[0])
                seen.setdefault((new, new == world[2], sides), set()).add(world)
            total = 0
            for (new, won, _), part in seen.items():
                after = turn + 1 if not won else (turn // turns + 1) * turns
                total += len(part) * (won and turn // turns >= free) + value(frozenset(part), new, after)
            top = max(top, total)
        return top

    first = {}
    everything = list(worlds_of(env))
    for world in everything:
        sides = tuple(d for d in STEPS.values() if (world[1], (world[1][0] + d[0], world[1][1] + d[1])) in world[0])
        first.setdefault((world[1], world[2] if env.goal_known else None, sides), set()).add(world)
    return sum(value(frozenset(part), key[0], 0) for key, part in first.items()) / len(everything)


@pytest.mark.parametrize(
    ("kwargs", "episodes", "free"),
    [
        ({"rows": 2, "columns": 2, "turns": 2}, 3, 0),
        ({"rows": 2, "columns": 2, "turns": 2}, 3, 1),
        ({"rows": 2, "columns": 3, "turns": 3}, 2, 0),
        ({"rows": 3, "columns": 2, "turns": 4}, 2, 0),
        ({"rows": 2, "columns": 2, "turns": 3, "goal_known": False}, 2, 0),
        ({"rows": 2, "columns": 2, "turns": 2, "start": "random"}, 2, 1),
        ({"rows": 1, "columns": 4, "turns": 3, "goal_known": False, "start": "random"}, 2, 0),
    ],
)
def test_optimum_is_brute_force_and_oracle_reaches_it(harness, kwargs, episodes, free):
    trial = make("Maze-v0", episodes=episodes, free_shots=free, **kwargs)
    optimum = trial.optimal_returns()
    assert optimum.kind == "exact"
    assert optimum.total == pytest.approx(brute_force(trial.env, kwargs["turns"], episodes, free))
    assert harness.mean_curve(trial) == pytest.approx(list(optimum.curve))


@pytest.mark.parametrize(
    ("turns", "episodes", "value", "bound"),
    [
        (6, 1, Fraction(3, 4), 0.9895833333333334),
        (6, 3, Fraction(523, 192), 2.96875),
        (4, 3, Fraction(107, 48), 2.65625),
    ],
)
def test_three_by_three(harness, turns, episodes, value, bound):
    trial = make("Maze-v0", turns=turns, episodes=episodes, style="terse")
    optimum = trial.optimal_returns()
    assert optimum.total == pytest.approx(float(value), abs=1e-9)
    assert known_map_bound(3, 3, turns, episodes) == pytest.approx(bound, abs=1e-9)
    assert harness.mean_curve(trial) == pytest.approx(list(optimum.curve), abs=1e-9)
    if turns == 6:
        assert trial.no_memory_bound() == pytest.approx(0.75 * episodes)


def test_trees_are_uniform():
    assert len(all_trees(3, 3)) == 192 == round(tree_count(3, 3))
    assert all_trees(4, 4) is None
    env = make("Maze-v0", rows=2, columns=3)
    counts = Counter(tuple(env.sample_task(random.Random(i))["open"]) for i in range(3000))
    assert len(counts) == 15
    assert max(abs(count - 200) for count in counts.values()) < 5 * 200**0.5


def test_bound_is_the_share_of_short_ways():
    for rows, columns in ((2, 4), (4, 2)):
        env = make("Maze-v0", rows=rows, columns=columns)
        for turns in (rows + columns - 3, rows + columns - 2, rows + columns):
            short = 0
            for passages, start, goal in worlds_of(env):
                away, queue = {start: 0}, [start]
                for here in queue:
                    for a, b in passages:
                        if a == here and b not in away:
                            away[b] = away[a] + 1
                            queue.append(b)
                short += away[goal] <= turns
            assert known_map_bound(rows, columns, turns, 2) == pytest.approx(2 * short / len(env.all_tasks()))
    assert known_map_bound(9, 9, 40, 3) == 3


@pytest.mark.parametrize(
    "kwargs", [{"rows": 4, "columns": 4, "turns": 10}, {"rows": 4, "columns": 4, "turns": 9, **ORBIT}]
)
def test_large_mazes_have_bounds_and_the_oracle_lies_between(harness, kwargs):
    trial = make("Maze-v0", episodes=3, **kwargs)
    optimum = trial.optimal_returns()
    assert optimum.kind == "upper_bound"
    assert optimum.lower <= optimum.total <= 3
    assert trial.no_memory_bound() is None
    curve = harness.mean_curve(trial, seeds=30)
    assert optimum.lower - 5 * optimum.lower_se - 0.5 < sum(curve) <= optimum.total + 0.5
    assert curve[2] > curve[0]
    assert trial.optimal_returns() == optimum


def test_blocks_of_orbit():
    env = make("Maze-v0", rows=5, columns=5, turns=9, **ORBIT)
    assert env.all_tasks() is None
    starts = set()
    for number in range(100):
        params = env.new_task(number).params
        around = {}
        for passage in params["open"]:
            a, b = passage.split("-")
            around.setdefault(a, []).append(b)
            around.setdefault(b, []).append(a)
        away, queue = {params["start"]: 0}, [params["start"]]
        for here in queue:
            for other in around[here]:
                if other not in away:
                    away[other] = away[here] + 1
                    queue.append(other)
        assert away[params["goal"]] == max(away.values())
        assert away[params["goal"]] in (7, 8)
        starts.add(params["start"])
    assert len(starts) > 10
    assert "not told which" in env.rules()
    known = make("Maze-v0", rows=4, columns=4, turns=6, layout="blocks")
    assert known.reset(seed=0)[0].startswith("The goal is ")
    assert make("Maze-v0", rows=4, columns=4, turns=6, layout="blocks", style="terse").reset(seed=0)[0][:5] == "goal "


PARAMS = {"open": ["a1-a2", "a2-b2", "b1-b2"], "start": "a1", "goal": "b1"}


def test_answers():
    env = make("Maze-v0", rows=2, columns=2, turns=6, goal_known=False)
    first = env.reset(options={"task": Task(env.env_id, PARAMS), "episode_seed": 0})[0]
    assert first == "You are at a1. Open sides: right. Which move: [up], [down], [left] or [right]?"
    for action, text, valid in [
        ("[down]", "A wall stops you. You are still at a1. Open sides: right.", True),
        ("I go [right].", "You go right to a2. Open sides: down, left.", True),
        ("jump", "That is not one of the moves: the move is lost. Reply", False),
        ("Down", "You go down to b2. Open sides: up, left.", True),
        ("[left]", "You go left to b1. This is the goal! 1 point.", True),
    ]:
        step = env.step(action)
        assert step.observation.startswith(text)
        assert step.info["valid"] is valid
    assert (step.reward, step.terminated, step.info["success"]) == (1.0, True, True)
    env = make("Maze-v0", rows=2, columns=2, turns=3, style="terse")
    assert env.reset(options={"task": Task(env.env_id, {**PARAMS, "goal": "b2"}), "episode_seed": 0})[0] == "a1 right"
    assert [env.step(a).observation for a in ("up", "north", "right")] == ["wall a1 right", "invalid", "a2 down left"]
    assert env.result()["stop"] == StopReason.MAX_TURNS
    env = make("Maze-v0", rows=2, columns=2, turns=1)
    env.reset(options={"task": Task(env.env_id, PARAMS), "episode_seed": 0})
    assert env.step("[up]").observation.endswith("No moves are left: 0 points.")


def test_render():
    env = make("Maze-v0", rows=2, columns=2)
    assert env.render() is None
    env = make("Maze-v0", rows=2, columns=2, turns=6)
    env.render_mode = "ansi"
    env.reset(options={"task": Task(env.env_id, {**PARAMS, "goal": "b2"}), "episode_seed": 0})
    assert env.render() == "    1   2\n  +---+---+\na | @   ? |\n  +---+???+\nb | ? ? G |\n  +---+---+"
    env.step("[right]")
    assert env.render() == "    1   2\n  +---+---+\na |     @ |\n  +---+   +\nb | ? ? G |\n  +---+---+"
    assert doctest.testmod(boards).failed == 0


@pytest.mark.parametrize("kwargs", [{}, {"rows": 4, "columns": 4, "turns": 9, **ORBIT}])
def test_oracle_survives_contradictions(harness, kwargs):
    """Under the control `shuffled` it sees another task's episodes; some turns may be illegal."""
    trial = make("Maze-v0", episodes=3, **kwargs)
    env = trial.env
    others = []
    for number in range(8):
        harness.play(trial, env.new_task(number), number)
        others.append(list(trial.history))
    for number in range(40):
        env.reset(seed=number)
        history = [*others[number % 8][: number % 3], Episode(env.get_observation())]
        rng = random.Random(number)
        while env.live:
            action = env.oracle(history) if rng.random() < 0.7 else "nonsense" if rng.random() < 0.5 else "[up]"
            assert action in (*env.legal_actions(), "nonsense")
            step = env.step(action)
            history[-1].add(Turn(action, step.observation, step.reward, step.info["valid"]))


def test_contract(harness):
    harness.check_contract("Maze-v0", lambda params: "-".join(params["open"]))
    harness.check_contract("Maze-v0", lambda params: str(params["open"]), rows=4, columns=4, turns=9, **ORBIT)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"rows": 0}, "rows=0"),
        ({"rows": 27}, "rows=27"),
        ({"columns": 2.0}, "columns=2.0"),
        ({"rows": 1, "columns": 1}, "one cell"),
        ({"turns": 0}, "turns=0"),
        ({"layout": "round"}, "layout='round'"),
        ({"goal_known": 1}, "goal_known=1"),
        ({"start": "last"}, "start='last'"),
        ({"layout": "blocks", "turns": 30}, "turns=30"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        make("Maze-v0", **kwargs)
