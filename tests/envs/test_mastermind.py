import random
from functools import cache
from itertools import permutations, product

import pytest

from metarlgym import ConfigError, Episode, MetaRLGymError, Task, Turn, make
from metarlgym.envs import mastermind_search


def answer(guess, code):
    """Exact and misplaced by crossing out, as the game is played on a board."""
    exact = [i for i in range(len(code)) if guess[i] == code[i]]
    rest = [code[i] for i in range(len(code)) if i not in exact]
    misplaced = 0
    for i, symbol in enumerate(guess):
        if i not in exact and symbol in rest:
            rest.remove(symbol)
            misplaced += 1
    return len(exact), misplaced


def brute_force(length, symbols, repeats, guesses, episodes, free):
    """Best sum of counted wins over all codes: all guesses in all states, no symmetry, no bounds."""
    codes = list(product(range(symbols), repeat=length) if repeats else permutations(range(symbols), length))

    @cache
    def value(open_codes, done):
        if done == guesses * episodes or not open_codes:
            return 0
        top = 0
        for guess in codes:
            cells = {}
            for code in open_codes:
                cells.setdefault(answer(guess, code), []).append(code)
            won = bool(cells.pop((length, 0), ()))
            total = won * (episodes - max(done // guesses, free))
            top = max(top, total + sum(value(tuple(cell), done + 1) for cell in cells.values()))
        return top

    return value(tuple(codes), 0) / len(codes)


@pytest.mark.parametrize(("length", "symbols", "repeats"), [(2, 3, False), (2, 4, False), (2, 3, True), (1, 4, False)])
@pytest.mark.parametrize(("guesses", "episodes", "free"), [(1, 3, 0), (1, 4, 2), (2, 2, 0), (2, 2, 1), (3, 1, 0)])
def test_optimum_is_brute_force_and_oracle_reaches_it(harness, length, symbols, repeats, guesses, episodes, free):
    shape = {"length": length, "symbols": symbols, "repeats": repeats, "guesses": guesses}
    trial = make("Mastermind-v0", episodes=episodes, free_shots=free, **shape)
    optimum = trial.optimal_returns()
    assert optimum.kind == "exact"
    assert optimum.total == pytest.approx(brute_force(length, symbols, repeats, guesses, episodes, free))
    assert harness.mean_curve(trial) == pytest.approx(list(optimum.curve))


@pytest.mark.parametrize(
    ("length", "symbols", "solved"),
    [(2, 6, {1: 1, 2: 5, 3: 15, 4: 30}), (3, 4, {2: 6, 3: 18, 4: 24}), (3, 6, {3: 44, 4: 117, 5: 120})],
)
def test_published_single_episodes(length, symbols, solved):
    for guesses, most in solved.items():
        env = make("Mastermind-v0", length=length, symbols=symbols, guesses=guesses)
        assert env.optimal_returns(1).total == pytest.approx(most / env.codes)
        assert env.no_memory_bound(3) == pytest.approx(3 * most / env.codes)


@pytest.mark.parametrize("style", ["chat", "terse"])
def test_three_of_six(harness, style):
    trial = make("Mastermind-v0", episodes=3, style=style)
    assert trial.optimal_returns().curve == pytest.approx((44 / 120, 1.0, 1.0))
    assert harness.mean_curve(trial) == pytest.approx([44 / 120, 1.0, 1.0])


def test_episodes_may_conflict(harness):
    """One guess an episode: the most by guess 3 is 15 of 30, but the best sum has 11 there and all by guess 4."""
    trial = make("Mastermind-v0", length=2, guesses=1, episodes=4)
    assert trial.optimal_returns().curve == pytest.approx((1 / 30, 5 / 30, 11 / 30, 1.0))
    assert harness.mean_curve(trial) == pytest.approx([1 / 30, 5 / 30, 11 / 30, 1.0])


def test_full_mastermind_is_solved_in_five_guesses(harness):
    """4 of 6 with repeats, 1,296 codes (Knuth 1977)."""
    env = make("Mastermind-v0", length=4, repeats=True, guesses=5)
    assert env.optimal_returns(1).total == 1.0
    trial = make("Mastermind-v0", length=4, repeats=True, guesses=5, episodes=1, style="terse")
    tasks = [Task(trial.env_id, params) for params in trial.all_tasks()]
    assert all(harness.play(trial, task)["success"] for task in tasks[::7])


def test_too_long_a_search_is_none_and_the_oracle_still_plays(harness, monkeypatch):
    monkeypatch.setattr(mastermind_search, "WORK_LIMIT", 1000)
    mastermind_search.search.cache_clear()
    trial = make("Mastermind-v0", length=4, symbols=6, episodes=3, guesses=4)
    assert trial.optimal_returns().kind == "none"
    assert trial.optimal_returns().total is None
    assert trial.no_memory_bound() is None
    tasks = [Task(trial.env_id, params) for params in trial.all_tasks()]
    for task in tasks[::15]:
        returns = harness.play(trial, task)["returns"]
        assert returns[1:] == [1.0, 1.0]
        first = {turn.action for episode in trial.history[:1] for turn in episode.turns}
        assert len(first) == len(trial.history[0].turns), "a guess was repeated"
    mastermind_search.search.cache_clear()


def test_letters_and_games_without_a_list(harness):
    trial = make("Mastermind-v0", length=3, symbols=12, episodes=4, guesses=4, style="terse")
    assert harness.play(trial, Task(trial.env_id, {"code": "lba"}))["returns"][-1] == 1.0
    env = make("Mastermind-v0", length=6, symbols=26)
    assert env.all_tasks() is None
    assert env.optimal_returns(3).kind == "none"
    env.reset(seed=0)
    assert env.step(env.random_action(random.Random(0))).info["valid"]
    with pytest.raises(MetaRLGymError, match="500000"):
        env.oracle([Episode("")])


def test_feedback_against_crossing_out():
    for repeats in (False, True):
        env = make("Mastermind-v0", length=4, symbols=5, repeats=repeats, guesses=1, style="terse")
        rng = random.Random(1)
        for _ in range(200):
            guess, code = (env.sample_task(rng)["code"] for _ in range(2))
            env.reset(options={"task": Task(env.env_id, {"code": code}), "episode_seed": 0})
            exact, misplaced = answer(guess, code)
            assert env.step(guess).observation == ("solved" if guess == code else f"e{exact} m{misplaced}")


def test_answers():
    env = make("Mastermind-v0", guesses=12, style="terse")
    env.reset(options={"task": Task(env.env_id, {"code": "135"}), "episode_seed": 0})
    for action, text in [
        ("1 2 3", "e1 m1"),
        ("[531]", "e1 m2"),
        ("[2, 4, 6]", "e0 m0"),
        ("first\n153", "e1 m2"),
        ("1 1 3", "invalid"),
        ("137", "invalid"),
        ("12", "invalid"),
        ("1234", "invalid"),
        ("", "invalid"),
        ("1 3 5", "solved"),
    ]:
        step = env.step(action)
        assert step.observation == text
        assert step.info["valid"] is (text != "invalid")
    assert step.terminated
    assert step.info["success"]
    env = make("Mastermind-v0", repeats=True, guesses=1)
    env.reset(options={"task": Task(env.env_id, {"code": "113"}), "episode_seed": 0})
    step = env.step("[131]")
    assert step.observation.endswith(" is wrong. Right place: 1. Other place: 2.")
    assert step.truncated


def test_oracle_survives_contradictions():
    """Under the control `shuffled` it sees another task's episodes."""
    env = make("Mastermind-v0", style="terse")
    env.horizon = 3
    other = Episode("", [Turn("1 2 3", "solved", 1.0)])
    assert env.oracle([other, Episode("")]) == "1 2 3"
    assert env.oracle([other, Episode("", [Turn("1 2 3", "e0 m0", 0.0)])]) != "1 2 3"


def test_random_policy(harness):
    rng = random.Random(0)
    trial = make("Mastermind-v0", length=2, symbols=3, guesses=1, episodes=3)
    curve = harness.mean_curve(trial, lambda t: t.random_action(rng), seeds=2000)
    assert curve == pytest.approx([1 / 6] * 3, abs=4 * 0.0084)


def test_contract(harness):
    harness.check_contract("Mastermind-v0", lambda params: params["code"])


@pytest.mark.parametrize(
    ("kwargs", "field"),
    [
        ({"length": 0}, "length=0"),
        ({"length": 7}, "length=7"),
        ({"symbols": 27}, "symbols=27"),
        ({"symbols": 1}, "symbols=1"),
        ({"guesses": 1.5}, "guesses=1.5"),
    ],
)
def test_bad_arguments(kwargs, field):
    with pytest.raises(ConfigError, match=field):
        make("Mastermind-v0", **kwargs)
