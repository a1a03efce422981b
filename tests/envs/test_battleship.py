import random
from collections import Counter
from fractions import Fraction
from functools import cache
from itertools import product

import pytest

from metarlgym import ConfigError, Episode, StopReason, Task, Turn, make
from metarlgym.envs import battleship_solver as solver


def fleets_by_hand(size, ships):
    """The ship cells of every labelled placement, by trying all ways to lay all ships."""
    ways = []
    for length in ships:
        lines = set()
        for y, x in product(range(size), repeat=2):
            for dy, dx in ((0, 1), (1, 0)):
                line = frozenset((y + i * dy, x + i * dx) for i in range(length))
                if all(max(cell) < size for cell in line):
                    lines.add(line)
        ways.append(lines)
    fleets = []
    for lines in product(*ways):
        cells = frozenset().union(*lines)
        if len(cells) == sum(ships):
            fleets.append(cells)
    return fleets


def brute_force(size, ships, shots, episodes, free):
    """Recursion over (fleets left, cells shot at in this episode): every cell in every state."""
    cells = list(product(range(size), repeat=2))
    need = sum(ships)

    @cache
    def value(fleets, shot, episode):
        if episode == episodes:
            return 0
        if len(shot) == shots:
            return value(fleets, frozenset(), episode + 1)
        top = 0
        for cell in cells:
            if cell in shot:
                continue
            total = 0
            hit = tuple(fleet for fleet in fleets if cell in fleet)
            won = tuple(fleet for fleet in hit if len(fleet & (shot | {cell})) == need)
            hit = tuple(fleet for fleet in hit if fleet not in won)
            missed = tuple(fleet for fleet in fleets if cell not in fleet)
            for part, after, now in (
                (won, frozenset(), episode + 1),
                (hit, shot | {cell}, episode),
                (missed, shot | {cell}, episode),
            ):
                if part:
                    total += value(part, after, now)
            top = max(top, total + len(won) * (episode >= free))
        return top

    fleets = fleets_by_hand(size, ships)
    return value(tuple(fleets), frozenset(), 0) / len(fleets)


@pytest.mark.parametrize(
    ("size", "ships", "shots", "episodes", "free"),
    [
        (2, [1], 1, 3, 0),
        (2, [2], 2, 3, 0),
        (2, [2, 1], 3, 2, 0),
        (2, [1, 1], 2, 3, 1),
        (3, [2], 2, 2, 0),
        (3, [2], 3, 2, 1),
        (3, [3], 3, 2, 0),
    ],
)
def test_optimum_is_brute_force_and_oracle_reaches_it(harness, size, ships, shots, episodes, free):
    trial = make("Battleship-v0", size=size, ships=ships, shots=shots, episodes=episodes, free_shots=free)
    optimum = trial.optimal_returns()
    assert optimum.kind == "exact"
    assert optimum.total == pytest.approx(brute_force(size, ships, shots, episodes, free))
    assert harness.mean_curve(trial) == pytest.approx(list(optimum.curve))


@pytest.mark.parametrize(
    ("kwargs", "value"),
    [({}, Fraction(13, 6)), ({"size": 4, "ships": [3], "shots": 5}, Fraction(5, 2))],
)
@pytest.mark.parametrize("style", ["chat", "terse"])
def test_exact_values(harness, kwargs, value, style):
    trial = make("Battleship-v0", episodes=3, style=style, **kwargs)
    optimum = trial.optimal_returns()
    assert optimum.total == pytest.approx(float(value), abs=1e-9)
    assert harness.mean_curve(trial) == pytest.approx(list(optimum.curve), abs=1e-9)
    assert trial.no_memory_bound() == pytest.approx(3 * trial.env.optimal_returns(1).total)


@pytest.mark.parametrize(("size", "ships"), [(3, [2, 2]), (3, [3, 1, 2]), (4, [3])])
def test_placements_are_uniform(size, ships):
    fleets = fleets_by_hand(size, ships)
    env = make("Battleship-v0", size=size, ships=ships, shots=sum(ships))
    tasks = [tuple(params["ships"]) for params in env.all_tasks()]
    assert len(tasks) == len(set(tasks)) == len(fleets)
    draws = 40 * len(tasks)
    counts = Counter(tuple(env.sample_task(random.Random(i))["ships"]) for i in range(draws))
    assert set(counts) <= set(tasks)
    assert max(abs(counts[task] - 40) for task in tasks) < 6 * 40**0.5


def test_weights_of_fleets():
    """Two ships in a square lie side by side in two ways, each with two ways to label them."""
    book = solver.fleets(3, (2, 2))
    assert sum(book.weights) == len(fleets_by_hand(3, [2, 2]))
    assert max(book.weights) == 4
    assert len(book.cells) == len(set(fleets_by_hand(3, [2, 2])))


@pytest.mark.parametrize("ships", [[2, 2], [5, 4, 2]])
def test_large_boards_have_bounds_and_the_oracle_lies_between(harness, ships, monkeypatch):
    monkeypatch.setattr(solver, "WORK_LIMIT", 2000)
    solver.search.cache_clear()
    trial = make("Battleship-v0", size=5, ships=ships, shots=sum(ships) + 5, episodes=3, free_shots=1)
    optimum = trial.optimal_returns()
    assert (optimum.kind, optimum.total, optimum.curve) == ("upper_bound", 2.0, (1.0, 1.0, 1.0))
    assert 0 < optimum.lower <= 2
    assert trial.no_memory_bound() is None
    curve = harness.mean_curve(trial, seeds=30)
    assert curve[0] < curve[2]
    assert sum(curve[1:]) == pytest.approx(optimum.lower, abs=5 * optimum.lower_se + 0.4)
    solver.search.cache_clear()


def test_fleets_without_a_list(harness):
    trial = make("Battleship-v0", size=8, ships=[5, 4, 3, 3, 2], shots=40, episodes=3)
    assert trial.all_tasks() is None
    assert trial.optimal_returns().lower is None
    curve = harness.mean_curve(trial, seeds=5)
    assert curve[2] > 0.5
    assert make("Battleship-v0", size=23, shots=9).legal_actions() is None


def test_answers():
    env = make("Battleship-v0", shots=9)
    env.render_mode = "ansi"
    first = env.reset(options={"task": Task(env.env_id, {"ships": ["b1-b2"]}), "episode_seed": 0})[0]
    assert first == "Which cell do you shoot at, [a1] to [c3]?"
    for action, text, valid in [
        ("[a1]", "a1 is a miss.", True),
        ("I shoot at b1", "That is not one of the cells: the shot is lost. Reply with one cell", False),
        ("B1.", "b1 is a hit.", True),
        ("[b1]", "You have shot at b1 before in this episode: the shot is lost.", False),
        ("[d1]", "That is not one of the cells", False),
        ("[c3]", "c3 is a miss.", True),
    ]:
        step = env.step(action)
        assert step.observation.startswith(text)
        assert (step.reward, step.info["valid"]) == (0.0, valid)
    assert env.render() == "  1 2 3\na o . .\nb x . .\nc . . o"
    assert len(env.legal_actions()) == 6
    step = env.step("[b2]")
    assert step.observation == "b2 is a hit. All ship cells are hit! 1 point."
    assert (step.reward, step.terminated, step.info["success"]) == (1.0, True, True)
    env = make("Battleship-v0", style="terse")
    env.reset(options={"task": Task(env.env_id, {"ships": ["b1-b2"]}), "episode_seed": 0})
    assert [env.step(a).observation for a in ("b1", "b1", "a1")] == ["hit", "invalid", "miss"]
    assert env.result()["stop"] == StopReason.MAX_TURNS
    assert env.render() is None
    assert "2 ships of 2, 1 cells are hidden" in make("Battleship-v0", ships=[2, 1]).rules()


@pytest.mark.parametrize("kwargs", [{}, {"size": 5, "ships": [3, 2], "shots": 9}])
def test_oracle_survives_contradictions(harness, kwargs, monkeypatch):
    """Under the control `shuffled` it sees another task's episodes; some turns may be illegal."""
    monkeypatch.setattr(solver, "WORK_LIMIT", 2000)
    solver.search.cache_clear()
    trial = make("Battleship-v0", episodes=3, **kwargs)
    env = trial.env
    others = []
    for number in range(6):
        harness.play(trial, env.new_task(number), number)
        others.append(list(trial.history))
    for number in range(40):
        env.reset(seed=number)
        history = [*others[number % 6][: number % 3], Episode(env.get_observation())]
        while env.live:
            action = "nonsense" if env.turns == 1 else env.oracle(history)
            assert action in env.legal_actions() or action == "nonsense"
            step = env.step(action)
            history[-1].add(Turn(action, step.observation, step.reward, step.info["valid"]))
    solver.search.cache_clear()


def test_random_policy(harness):
    """Two ship cells are among three of nine shots in 3/9 * 2/8 of the games."""
    rng = random.Random(0)
    trial = make("Battleship-v0", episodes=2)
    curve = harness.mean_curve(trial, lambda t: t.random_action(rng), seeds=1500)
    assert curve == pytest.approx([1 / 12] * 2, abs=4 * 0.0072)


def test_contract(harness):
    harness.check_contract("Battleship-v0", lambda params: params["ships"][0])
    harness.check_contract("Battleship-v0", lambda params: params["ships"][0], size=4, ships=[3, 2], shots=10)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"size": 1}, "size=1"),
        ({"size": 27}, "size=27"),
        ({"ships": 2}, "ships=2"),
        ({"ships": []}, "ships="),
        ({"ships": [1] * 7}, "1 to 6"),
        ({"ships": [4]}, "ships=4"),
        ({"size": 2, "ships": [2, 2, 1], "shots": 9}, "do not fit"),
        ({"shots": 1}, "shots=1"),
        ({"shots": 3.5}, "shots=3.5"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        make("Battleship-v0", **kwargs)
