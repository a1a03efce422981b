"""TwentyQuestions against brute force."""

import copy
import random
import re
from functools import cache
from itertools import product

import pytest

from metarlgym import ConfigError, Episode, Task, Turn, make
from metarlgym.envs import guess_search, twenty_questions_solver
from metarlgym.envs.twenty_questions_table import shipped


def bits(number):
    """All rows of `number` bits."""
    return {
        "thing " + "".join(map(str, row)): {f"bit {i}": bool(bit) for i, bit in enumerate(row)}
        for row in product((0, 1), repeat=number)
    }


def some_table(seed, things, attributes):
    rng = random.Random(seed)
    return {f"t{i}": {f"a{k}": rng.random() < 0.4 for k in range(attributes)} for i in range(things)}


def brute_force(table, turns, episodes, free):
    """Best sum of counted wins: all questions and guesses in all states, episode by episode."""
    attributes = list(next(iter(table.values())))

    @cache
    def value(left, turn, episode):
        if episode == episodes or not left:
            return 0
        if turn == turns:
            return value(left, 0, episode + 1)
        top = 0
        for thing in table:
            rest = tuple(t for t in left if t != thing)
            won = (episode >= free) + value((thing,), 0, episode + 1) if thing in left else 0
            top = max(top, won + value(rest, turn + 1, episode))
        for attribute in attributes:
            yes = tuple(t for t in left if table[t][attribute])
            no = tuple(t for t in left if not table[t][attribute])
            top = max(top, value(yes, turn + 1, episode) + value(no, turn + 1, episode))
        return top

    return value(tuple(table), 0, 0) / len(table)


@pytest.mark.parametrize(("number", "turns", "episodes", "total"), [(3, 3, 1, 0.5), (3, 3, 3, 2.5), (4, 3, 2, 1.25)])
def test_exact_values(harness, number, turns, episodes, total):
    trial = make("TwentyQuestions-v0", table=bits(number), turns=turns, episodes=episodes)
    optimum = trial.optimal_returns()
    assert optimum.kind == "exact"
    assert optimum.total == pytest.approx(total, abs=1e-9)
    assert harness.mean_curve(trial) == pytest.approx(list(optimum.curve), abs=1e-9)


@pytest.mark.parametrize("style", ["chat", "terse"])
def test_default(harness, style):
    trial = make("TwentyQuestions-v0", episodes=3, style=style)
    assert trial.optimal_returns().curve == pytest.approx((0.25, 1.0, 1.0))
    assert harness.mean_curve(trial) == pytest.approx([0.25, 1.0, 1.0])
    assert trial.env.no_memory_bound(3) == pytest.approx(0.75)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("turns", "episodes", "free"), [(1, 3, 0), (1, 4, 2), (2, 2, 0), (2, 2, 1), (3, 2, 0)])
def test_optimum_is_brute_force_and_oracle_reaches_it(harness, seed, turns, episodes, free):
    table = some_table(seed, 6 + seed % 2, 2 + seed)
    trial = make("TwentyQuestions-v0", table=table, turns=turns, episodes=episodes, free_shots=free)
    optimum = trial.optimal_returns()
    assert optimum.kind == "exact"
    assert optimum.total == pytest.approx(brute_force(table, turns, episodes, free), abs=1e-9)
    assert harness.mean_curve(trial) == pytest.approx(list(optimum.curve), abs=1e-9)


def test_a_search_too_long(harness, monkeypatch):
    table = some_table(9, 12, 3)
    exact = make("TwentyQuestions-v0", table=table, turns=2).optimal_returns(3)
    monkeypatch.setattr(guess_search, "WORK_LIMIT", 20)
    for cached in (twenty_questions_solver.plan, twenty_questions_solver.optimum):
        cached.cache_clear()
    trial = make("TwentyQuestions-v0", table=table, turns=2, episodes=3)
    optimum = trial.optimal_returns()
    assert optimum.kind == "upper_bound"
    assert optimum.lower - 1e-9 <= exact.total <= optimum.total + 1e-9
    assert sum(harness.mean_curve(trial)) == pytest.approx(optimum.lower)
    for cached in (twenty_questions_solver.plan, twenty_questions_solver.optimum):
        cached.cache_clear()


def test_shipped_table():
    """Every row differs, and each question has the key words of its own attribute only."""
    table = shipped("things")
    assert (len(table.things), len(table.questions)) == (64, 24)
    for one in (table, shipped("things16")):
        assert len(set(one.rows)) == len(one.things) == len(set(one.things))
        keys = [key for words in one.keys.values() for key in words]
        assert len(set(keys)) == len(keys)
        for attribute, question in one.questions.items():
            words = set(re.findall("[a-z]+", question.lower()))
            assert [a for a, own in one.keys.items() if words & set(own)] == [attribute]
            assert not words & set(one.things)
        assert not set(keys) & set(one.things)
    assert len(shipped("things16").things) == 16
    assert set(shipped("things16").things) < set(table.things)


def test_all_64_things(harness):
    trial = make("TwentyQuestions-v0", table="things", turns=6, episodes=3)
    optimum = trial.optimal_returns()
    assert (optimum.kind, optimum.total) == ("exact", pytest.approx(2.5))
    assert harness.mean_curve(trial) == pytest.approx([0.5, 1.0, 1.0])


def test_texts():
    env = make("TwentyQuestions-v0", turns=20)
    env.reset(options={"task": Task(env.env_id, {"thing": "duck"}), "episode_seed": 0})
    for action, text in [
        ("[Is it alive?]", "Is it alive? Yes."),
        ("[alive]", "Is it alive? Yes."),
        ("Is it made of metal?", "Is it mostly metal? No."),
        ("I want to know if it can fly.\n[Can the thing fly?]", "Can it fly? Yes."),
        ("[Is it a cow?]", "cow is not the hidden thing."),
        ("[COW]", "cow is not the hidden thing."),
        ("[Is it metal or wood?]", "That is more than one question or thing: the turn is lost."),
        ("[Is the dog alive?]", "That is more than one question or thing: the turn is lost."),
        ("[dog] or [cow]", "That is more than one question or thing: the turn is lost."),
        ("[zebra]", "That is no question or thing of the rules: the turn is lost."),
        ("", "That is no question or thing of the rules: the turn is lost."),
        ("[Is it a duck?]", "duck is the hidden thing! 1 point."),
    ]:
        step = env.step(action)
        assert step.observation.startswith(text)
        assert step.info["valid"] is ("lost" not in text)
    assert step.terminated
    assert step.info["success"]
    assert step.reward == 1.0


def test_terse_texts():
    env = make("TwentyQuestions-v0", turns=20, style="terse")
    env.reset(options={"task": Task(env.env_id, {"thing": "duck"}), "episode_seed": 0})
    actions = ["alive", "metal", "cow", "Is it alive", "junk", "[Is it alive?]", "duck"]
    assert [env.step(a).observation for a in actions] == ["yes", "no", "wrong", "invalid", "invalid", "yes", "right"]


def test_random_play_makes_no_move_twice():
    env = make("TwentyQuestions-v0", turns=40)
    rng = random.Random(0)
    for number in range(20):
        env.reset(seed=number)
        seen = []
        while env.live:
            seen.append(env.random_action(rng))
            env.step(seen[-1])
        assert len(set(seen)) == len(seen)
        assert env.success


def test_a_copy_plays_on():
    env = make("TwentyQuestions-v0", turns=5)
    env.reset(seed=0)
    env.step("[Is it alive?]")
    copied = copy.deepcopy(env)
    for seed in range(4):
        action = env.random_action(random.Random(seed))
        assert copied.random_action(random.Random(seed)) == action
        assert env.step(action) == copied.step(action)
        if not env.live:
            break


def test_oracle_survives_contradictions():
    """Under the control `shuffled` it sees another task's episodes."""
    env = make("TwentyQuestions-v0", style="terse")
    env.horizon = 3
    other = Episode("", [Turn("cow", "right", 1.0)])
    assert env.oracle([other, Episode("")]) == "cow"
    assert env.oracle([other, Episode("", [Turn("cow", "wrong", 0.0), Turn("x", "invalid", 0.0, False)])]) != "cow"
    assert env.oracle([Episode("", [Turn("alive", "yes", 0.0), Turn("alive", "no", 0.0)])]) in env.legal_actions()


def test_contract(harness):
    harness.check_contract("TwentyQuestions-v0", lambda params: f"{params['thing']} is the")
    harness.check_contract("TwentyQuestions-v0", lambda params: params["thing"], table=bits(3))


@pytest.mark.parametrize(
    ("kwargs", "field"),
    [
        ({"turns": 0}, "turns=0"),
        ({"table": "animals"}, "table='animals' must be things"),
        ({"table": {"cat": {"red": True}}}, "at least two things"),
        ({"table": {"cat": {"red": True}, "dog": {"blue": True}}}, "'dog'.* attributes of the other things"),
        ({"table": {"cat": {"red": True}, "dog": {"red": 1}}}, "'red'.*=1 must be true or false"),
        ({"table": {"Cat": {"red": True}, "dog": {"red": False}}}, "'Cat'"),
        ({"table": {"red": {"red": True}, "dog": {"red": False}}}, "'red' both"),
    ],
)
def test_bad_arguments(kwargs, field):
    with pytest.raises(ConfigError, match=field):
        make("TwentyQuestions-v0", **kwargs)
