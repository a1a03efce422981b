import random
from fractions import Fraction
from functools import cache
from itertools import permutations, product

import pytest

from metarlgym import ConfigError, Episode, Task, Turn, make
from metarlgym.envs import hidden_rule_solver


def brute_force(length, queries, episodes, free):
    """Best expected sum of counted right answers: all queries, all answers, in all beliefs."""
    words = list(product((0, 1), repeat=length))
    rules = [
        {x: tuple(x[p] ^ m for p, m in zip(order, mask)) for x in words}
        for order in permutations(range(length))
        for mask in words
    ]

    @cache
    def value(left, episode, asked):
        if episode == episodes:
            return Fraction(0)
        if asked < queries:
            return max(
                sum(Fraction(len(cell), len(left)) * value(cell, episode, asked + 1) for cell in cells(left, query))
                for query in words
            )
        return sum(answer(left, episode, test) for test in words) / Fraction(len(words))

    def cells(left, query):
        found = {}
        for number in left:
            found.setdefault(rules[number][query], []).append(number)
        return [tuple(cell) for cell in found.values()]

    def answer(left, episode, test):
        top = Fraction(0)
        for right in cells(left, test):
            wrong = tuple(number for number in left if number not in right)
            share = Fraction(len(right), len(left))
            total = share * ((episode >= free) + value(right, episode + 1, 0))
            top = max(top, total + (1 - share) * value(wrong, episode + 1, 0) if wrong else total)
        return top

    return value(tuple(range(len(rules))), 0, 0)


@pytest.mark.parametrize(
    ("length", "queries", "episodes", "free"),
    [(2, 1, 1, 0), (2, 1, 3, 0), (2, 1, 3, 2), (2, 2, 2, 0), (2, 3, 2, 1), (3, 1, 1, 0)],
)
def test_optimum_is_brute_force(length, queries, episodes, free):
    env = make("HiddenRule-v0", length=length, queries=queries)
    optimum = env.optimal_returns(episodes, free)
    assert optimum.kind == "exact"
    assert optimum.total == pytest.approx(float(brute_force(length, queries, episodes, free)), abs=1e-9)
    # The search agrees where the bounds meet without it.
    curve = hidden_rule_solver.Search(length, queries, episodes, free).curve()
    assert sum(curve[free:]) == pytest.approx(optimum.total, abs=1e-12)


@pytest.mark.parametrize(
    ("queries", "episodes", "free", "total"),
    [(1, 1, 0, Fraction(1, 2)), (1, 3, 0, Fraction(19, 8)), (2, 3, 0, Fraction(11, 4)), (1, 3, 1, Fraction(15, 8))],
)
def test_values_at_length_three(queries, episodes, free, total):
    optimum = make("HiddenRule-v0", queries=queries).optimal_returns(episodes, free)
    assert optimum.kind == "exact"
    assert optimum.total == pytest.approx(float(total), abs=1e-9)
    assert sum(optimum.curve[free:]) == pytest.approx(optimum.total)


def test_curve_and_no_memory():
    env = make("HiddenRule-v0")
    assert env.optimal_returns(3).curve == pytest.approx((1 / 2, 7 / 8, 1.0))
    assert env.no_memory_bound(3) == pytest.approx(1.5)


@pytest.mark.parametrize("style", ["chat", "terse"])
def test_oracle_reaches_the_optimum(harness, style):
    trial = make("HiddenRule-v0", episodes=3, style=style)
    curve = harness.mean_curve(trial, seeds=400)
    assert curve[0] == pytest.approx(1 / 2, abs=4 * 0.025)
    assert curve[1] == pytest.approx(7 / 8, abs=4 * 0.0166)
    assert curve[2] == 1.0


def test_bounds_beyond_the_search(harness):
    trial = make("HiddenRule-v0", length=8, queries=1, episodes=3)
    optimum = trial.optimal_returns()
    assert optimum.kind == "upper_bound"
    assert optimum.lower < optimum.total
    curve = harness.mean_curve(trial, seeds=150)
    assert curve[0] <= optimum.curve[0] + 4 * 0.03
    assert optimum.lower - 4 * 0.05 <= sum(curve) <= optimum.total + 4 * 0.05
    # Three queries tell 4 places apart: nothing is left to the tests.
    exact = make("HiddenRule-v0", length=4, queries=3).optimal_returns(2)
    assert (exact.kind, exact.total) == ("exact", 2.0)


def test_a_search_that_is_too_long_gives_bounds(harness, monkeypatch):
    monkeypatch.setattr(hidden_rule_solver, "WORK_LIMIT", 100)
    hidden_rule_solver.search.cache_clear()
    trial = make("HiddenRule-v0", episodes=3)
    optimum = trial.optimal_returns()
    assert (optimum.kind, optimum.total, optimum.lower) == ("upper_bound", 2.5, 2.25)
    curve = harness.mean_curve(trial, seeds=200)
    assert sum(curve) == pytest.approx(2.25, abs=4 * 0.05)
    hidden_rule_solver.search.cache_clear()


def test_texts():
    task = Task("HiddenRule-v0", {"order": [2, 0, 1], "flip": "100"})
    env = make("HiddenRule-v0", queries=3)
    assert "3 inputs" in env.rules()
    env.reset(options={"task": task, "episode_seed": 0})
    assert env.step("I send [1, 0, 0].").observation == "Input 100 gives output 110. Send the next input."
    step = env.step("[12]")
    assert not step.info["valid"]
    assert step.observation.startswith("That is no input: the query is lost. Reply with 3 bits in brackets")
    text = env.step("001").observation
    assert text.startswith("Input 001 gives output 000. Now the test: what is the output of input ")
    test = text[-4:-1]
    output = hidden_rule_solver.apply([2, 0, 1], "100", test)
    step = env.step(f"[{output}]")
    assert step == (
        f"Right: input {test} gives output {output}. 1 point.",
        1.0,
        True,
        False,
        {"valid": True, "success": True},
    )
    terse = make("HiddenRule-v0", style="terse")
    terse.reset(options={"task": task, "episode_seed": 0})
    first = terse.step("1 0 0").observation
    assert first == f"1 1 0 test {' '.join(test)}"
    wrong = "".join("10"[int(bit)] for bit in output)
    assert terse.step(" ".join(wrong)).observation == "wrong"


def test_illegal_moves_tell_nothing_and_lose_the_answer(harness):
    trial = make("HiddenRule-v0", episodes=2, queries=2)
    result = harness.play(trial, Task(trial.env_id, {"order": [0, 1, 2], "flip": "000"}), policy=lambda t: "no")
    assert result["returns"] == [0.0, 0.0]
    assert all(not turn.valid for episode in trial.history for turn in episode.turns)
    texts = [turn.observation for turn in trial.history[0].turns]
    assert "gives output" not in "".join(texts)
    assert texts[-1] == "That is no output of 3 bits. 0 points."


def test_random_queries_are_not_repeated():
    env = make("HiddenRule-v0", length=2, queries=4, style="terse")
    rng = random.Random(0)
    env.reset(seed=0)
    queries = []
    for _ in range(4):
        queries.append(env.random_action(rng))
        env.step(queries[-1])
    assert sorted(queries) == sorted(env.legal_actions())
    assert env.random_action(rng) in env.legal_actions()
    assert make("HiddenRule-v0", length=9).legal_actions() is None


def test_random_policy(harness):
    rng = random.Random(0)
    curve = harness.mean_curve(make("HiddenRule-v0", episodes=3), lambda t: t.random_action(rng), seeds=600)
    assert curve == pytest.approx([1 / 8] * 3, abs=4 * 0.0135)


@pytest.mark.parametrize("length", [3, 7])
def test_oracle_survives_contradictions_and_illegal_turns(length):
    """Under the control `shuffled` it sees another task's episodes."""
    env = make("HiddenRule-v0", length=length, style="terse")
    env.horizon = 3
    zeros, ones = " ".join("0" * length), " ".join("1" * length)
    shown = [Turn(zeros, f"{zeros} test {ones}", 0.0), Turn(ones, "right", 1.0)]
    lost = [Turn("x", f"invalid test {ones}", 0.0, False), Turn("y", "invalid", 0.0, False)]
    now = [Turn(zeros, f"{ones} test {zeros}", 0.0)]
    known = env.oracle([Episode("", shown), Episode("", lost), Episode("", now[:0])])
    assert known in (env.legal_actions() or [known])
    assert env.oracle([Episode("", shown), Episode("", now)]) == ones
    twice = [Turn(zeros, f"{zeros} test {zeros}", 0.0), Turn(zeros, "wrong", 0.0)]
    assert env.oracle([Episode("", twice), Episode("", now)]) == ones


def test_tasks():
    env = make("HiddenRule-v0")
    tasks = list(env.all_tasks())
    assert len(tasks) == len({str(task) for task in tasks}) == 48
    assert make("HiddenRule-v0", length=7).all_tasks() is None
    assert env.new_task(1).params in tasks


@pytest.mark.parametrize("kwargs", [{}, {"length": 4, "queries": 3}])
def test_contract(harness, kwargs):
    harness.check_contract("HiddenRule-v0", lambda params: str(params["order"]), **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "field"), [({"length": 1}, "length=1"), ({"queries": 0}, "queries=0"), ({"length": 2.5}, "length=2.5")]
)
def test_bad_arguments(kwargs, field):
    with pytest.raises(ConfigError, match=field):
        make("HiddenRule-v0", **kwargs)
