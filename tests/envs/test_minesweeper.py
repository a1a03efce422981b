import random
from collections import Counter
from fractions import Fraction
from functools import cache
from itertools import combinations, product

import pytest

from metarlgym import ConfigError, Episode, StopReason, Task, Turn, make
from metarlgym.envs import minesweeper_solver as solver

LAMER = {"rows": 6, "columns": 6, "mines": 3, "turns": 7, "first_click": "safe"}


def brute_force(rows, columns, mines, episodes, free, opening=False, turns=None, first_click="any"):
    """Recursion over (tasks left, cells open, first click, turn, episode): every closed cell in every state."""
    cells = list(product(range(rows), range(columns)))
    turns = turns or len(cells)

    def shown(bad, cell):
        """What opens with a cell, as a player on paper would do it."""
        found, queue = {}, {cell}
        while queue:
            here = queue.pop()
            near = {c for c in cells if c != here and max(abs(c[0] - here[0]), abs(c[1] - here[1])) == 1}
            found[here] = len(near & bad)
            if not found[here]:
                queue |= near - found.keys()
        return frozenset(found.items())

    def mines_of(task, first):
        bad, other = task
        return (bad - {first}) | {other} if first_click == "safe" and first in bad else bad

    @cache
    def value(tasks, opened, first, turn, episode):
        if episode == episodes:
            return 0
        base = frozenset([next(iter(tasks))[1]]) if opening else frozenset()
        if turn == turns:
            return value(tasks, base, None, 0, episode + 1)
        top = 0
        for cell in cells:
            if cell in opened:
                continue
            click = cell if first is None else first
            seen = {}
            for task in tasks:
                bad = mines_of(task, click)
                seen.setdefault(None if cell in bad else shown(bad, cell), set()).add(task)
            total = 0
            for numbers, part in seen.items():
                part = frozenset(part)
                if numbers is None:
                    total += value(part, base, None, 0, episode + 1)
                    continue
                after = opened | {c for c, _ in numbers}
                if len(after) == len(cells) - mines:
                    total += len(part) * (episode >= free) + value(part, base, None, 0, episode + 1)
                else:
                    total += value(part, after, click, turn + 1, episode)
            top = max(top, total)
        return top

    tasks = []
    for bad in combinations(cells, mines):
        for other in cells if opening or first_click == "safe" else [None]:
            if other not in bad:
                tasks.append((frozenset(bad), other))
    groups = {}
    for task in tasks:
        near = [c for c in task[0] if opening and max(abs(c[0] - task[1][0]), abs(c[1] - task[1][1])) == 1]
        groups.setdefault((task[1], len(near)) if opening else None, set()).add(task)
    total = 0
    for key, part in groups.items():
        total += value(frozenset(part), frozenset([key[0]]) if opening else frozenset(), None, 0, 0)
    return total / len(tasks)


@pytest.mark.parametrize(
    ("kwargs", "episodes", "free"),
    [
        ({"rows": 2, "columns": 2, "mines": 1}, 3, 0),
        ({"rows": 2, "columns": 2, "mines": 2}, 3, 1),
        ({"rows": 2, "columns": 3, "mines": 2}, 2, 0),
        ({"rows": 1, "columns": 5, "mines": 2}, 3, 1),
        ({"rows": 2, "columns": 3, "mines": 2, "turns": 3}, 2, 0),
        ({"rows": 1, "columns": 5, "mines": 1, "turns": 2}, 3, 0),
        ({"rows": 2, "columns": 3, "mines": 2, "opening": True}, 2, 0),
        ({"rows": 1, "columns": 4, "mines": 1, "opening": True, "turns": 1}, 2, 1),
        ({"rows": 2, "columns": 3, "mines": 2, "first_click": "safe"}, 2, 0),
        ({"rows": 2, "columns": 2, "mines": 2, "first_click": "safe", "turns": 2}, 3, 1),
        ({"rows": 1, "columns": 4, "mines": 3, "first_click": "safe"}, 1, 0),
    ],
)
def test_optimum_is_brute_force_and_oracle_reaches_it(harness, kwargs, episodes, free):
    trial = make("Minesweeper-v0", episodes=episodes, free_shots=free, **kwargs)
    optimum = trial.optimal_returns()
    assert optimum.kind == "exact"
    assert optimum.total == pytest.approx(brute_force(episodes=episodes, free=free, **kwargs))
    assert harness.mean_curve(trial) == pytest.approx(list(optimum.curve))


@pytest.mark.parametrize(
    ("kwargs", "episodes", "value"),
    [
        ({"rows": 3, "columns": 3}, 3, Fraction(95, 36)),
        ({}, 1, Fraction(17, 20)),
        ({}, 3, Fraction(341, 120)),
        ({"opening": True}, 3, Fraction(62, 21)),
    ],
)
def test_exact_values(harness, kwargs, episodes, value):
    trial = make("Minesweeper-v0", episodes=episodes, style="terse", **kwargs)
    optimum = trial.optimal_returns()
    assert optimum.kind == "exact"
    assert optimum.total == pytest.approx(float(value), abs=1e-9)
    if not kwargs.get("opening"):
        assert harness.mean_curve(trial) == pytest.approx(list(optimum.curve), abs=1e-9)
    if kwargs == {}:
        assert trial.no_memory_bound() == pytest.approx(0.85 * episodes)


def test_oracle_with_an_opening_reaches_the_optimum(harness):
    trial = make("Minesweeper-v0", episodes=3, opening=True)
    curve = trial.optimal_returns().curve
    returns = [harness.play(trial, trial.env.new_task(i), i)["returns"] for i in range(300)]
    mean = [sum(column) / 300 for column in zip(*returns)]
    error = (curve[0] * (1 - curve[0]) / 300) ** 0.5
    assert mean[0] == pytest.approx(curve[0], abs=4 * error)
    assert mean[1:] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("kwargs", "first"),
    [
        ({"rows": 5, "columns": 5, "mines": 3}, 0.88),
        ({"rows": 5, "columns": 5, "mines": 3, "opening": True}, 1.0),
        (LAMER, 1.0),
    ],
)
def test_large_boards_have_bounds_and_the_oracle_lies_between(harness, kwargs, first, monkeypatch):
    monkeypatch.setattr(solver, "WORK_LIMIT", 2000)
    solver.search.cache_clear()
    trial = make("Minesweeper-v0", episodes=3, **kwargs)
    optimum = trial.optimal_returns()
    assert (optimum.kind, optimum.curve) == ("upper_bound", (pytest.approx(first), 1.0, 1.0))
    assert 1 < optimum.lower <= optimum.total == pytest.approx(2 + first)
    assert trial.no_memory_bound() is None
    curve = harness.mean_curve(trial, seeds=30)
    assert sum(curve) == pytest.approx(optimum.lower, abs=5 * optimum.lower_se + 0.4)
    solver.search.cache_clear()


def test_boards_without_a_list(harness):
    trial = make("Minesweeper-v0", rows=8, columns=8, mines=8, episodes=4, style="terse")
    assert trial.all_tasks() is None
    assert trial.optimal_returns().lower is None
    curve = harness.mean_curve(trial, seeds=12)
    assert curve[3] > curve[0]
    assert make("Minesweeper-v0", rows=23, columns=23).legal_actions() is None


@pytest.mark.parametrize("kwargs", [{}, {"opening": True}, {"first_click": "safe"}])
def test_tasks_are_uniform(kwargs):
    env = make("Minesweeper-v0", rows=2, columns=3, **kwargs)
    tasks = [str(params) for params in env.all_tasks()]
    assert len(set(tasks)) == len(tasks) == (60 if kwargs else 15)
    counts = Counter(str(env.sample_task(random.Random(i))) for i in range(60 * len(tasks)))
    assert set(counts) == set(tasks)
    assert max(abs(count - 60) for count in counts.values()) < 5 * 60**0.5


def test_answers():
    env = make("Minesweeper-v0", rows=3, columns=3, mines=2)
    env.render_mode = "ansi"
    task = Task(env.env_id, {"mines": ["a1", "b1"]})
    assert env.reset(options={"task": task, "episode_seed": 0})[0] == "Which cell do you open, [a1] to [c3]?"
    for action, text, valid in [
        ("[b2]", "b2 is safe. Now open: b2=2.", True),
        ("[b2]", "b2 is open already: the turn is lost.", False),
        ("the middle", "That is not one of the cells: the turn is lost. Reply with one closed cell", False),
        ("C3.", "c3 is safe. Now open: a2=2, a3=0, b3=0, c2=1, c3=0.", True),
    ]:
        step = env.step(action)
        assert step.observation.startswith(text)
        assert (step.reward, step.info["valid"]) == (0.0, valid)
    assert env.render() == "  1 2 3\na . 2 0\nb . 2 0\nc . 1 0"
    assert env.legal_actions() == ["[a1]", "[b1]", "[c1]"]
    step = env.step("[c1]")
    assert step.observation == "c1 is safe. Now open: c1=1. All safe cells are open! 1 point."
    assert (step.reward, step.terminated, step.info["success"]) == (1.0, True, True)
    env.reset(options={"task": task, "episode_seed": 0})
    step = env.step("[a1]")
    assert step.observation == "a1 is a mine! The episode is over: 0 points."
    assert (step.reward, step.terminated, step.info["success"]) == (0.0, True, False)
    assert env.render().splitlines()[1] == "a * . ."


def test_terse_answers():
    env = make("Minesweeper-v0", rows=1, columns=4, mines=1, style="terse", opening=True, turns=3)
    assert env.render() is None
    task = Task(env.env_id, {"mines": ["a4"], "open": "a1"})
    assert env.reset(options={"task": task, "episode_seed": 0})[0] == "a1 0"
    assert [env.step(a).observation for a in ("a1", "a3", "a2")] == ["invalid", "a3 1", "a2 0 clear"]
    env.reset(options={"task": task, "episode_seed": 0})
    assert [env.step(a).observation for a in ("x", "x", "a3")] == ["invalid", "invalid", "a3 1"]
    assert env.result()["stop"] == StopReason.MAX_TURNS
    chat = make("Minesweeper-v0", rows=1, columns=4, mines=1, opening=True, turns=1)
    first = chat.reset(options={"task": task, "episode_seed": 0})[0]
    assert first == "Open: a1=0. Which cell do you open, [a1] to [a4]?"
    assert chat.step("[a3]").observation == "a3 is safe. Now open: a3=1. No turns are left: 0 points."


def test_safe_first_click_moves_a_mine_to_the_spare_cell():
    env = make("Minesweeper-v0", rows=1, columns=5, mines=2, first_click="safe", style="terse")
    task = Task(env.env_id, {"mines": ["a1", "a3"], "spare": "a5"})
    for actions, texts in [
        (["a1", "a5"], ["a1 0 a2 1", "mine"]),  # mines at a3 and a5
        (["bad", "a3"], ["invalid", "a2 1 a3 0 a4 1 clear"]),
        (["a5", "a3"], ["a4 1 a5 0", "mine"]),
    ]:
        env.reset(options={"task": task, "episode_seed": 0})
        assert [env.step(action).observation for action in actions] == texts
    assert "never a mine" in make("Minesweeper-v0", first_click="safe").rules()


@pytest.mark.parametrize("kwargs", [{}, {"opening": True}, LAMER, {"rows": 8, "columns": 8, "mines": 9}])
def test_oracle_survives_contradictions(harness, kwargs):
    """Under the control `shuffled` it sees another task's episodes; some turns may be illegal."""
    trial = make("Minesweeper-v0", episodes=3, **kwargs)
    env = trial.env
    others = []
    for number in range(6):
        harness.play(trial, env.new_task(number), number)
        others.append(list(trial.history))
    for number in range(24):
        env.reset(seed=number)
        history = [*others[number % 6][: number % 3], Episode(env.get_observation())]
        while env.live:
            action = "nonsense" if env.turns == 1 else env.oracle(history)
            assert action in env.legal_actions() or action == "nonsense"
            step = env.step(action)
            history[-1].add(Turn(action, step.observation, step.reward, step.info["valid"]))


def test_contract(harness):
    def secret(params):
        return " ".join(params["mines"])

    for kwargs in ({}, {"opening": True}, LAMER):
        harness.check_contract("Minesweeper-v0", secret, **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"rows": 0}, "rows=0"),
        ({"rows": 27}, "rows=27"),
        ({"columns": 1.5}, "columns=1.5"),
        ({"rows": 1, "columns": 1}, "no room"),
        ({"mines": 0}, "mines=0"),
        ({"mines": 16}, "mines=16"),
        ({"mines": 15, "opening": True}, "mines=15"),
        ({"opening": 1}, "opening=1"),
        ({"turns": 0}, "turns=0"),
        ({"first_click": "lucky"}, "first_click='lucky'"),
        ({"first_click": "safe", "opening": True}, "opening=True"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        make("Minesweeper-v0", **kwargs)
