"""Hangman against brute force."""

import copy
import random
from functools import cache
from string import ascii_lowercase

import pytest

from metarlgym import ConfigError, Episode, MetaRLGymError, Task, Turn, make
from metarlgym.envs import hangman_solver
from metarlgym.envs.word_lists import RHYMES, shipped

SHORT = ["cat", "car", "can", "cab", "dog", "dot", "don", "log", "lot", "pig", "pin", "pit"]
SMALL = ["cat", "cot", "oat", "tot", "at", "to"]


def brute_force(words, lives, turns, episodes, free):
    """Best sum of counted wins: all letters in all states, repeated and useless ones too."""
    alphabet = [*sorted(set("".join(words))), "-"]

    @cache
    def value(left, tried, misses, turn, episode):
        if episode == episodes or not left:
            return 0
        if misses == lives or turn == turns:
            return value(left, frozenset(), 0, 0, episode + 1)
        top = 0
        for letter in alphabet:
            after = tried | {letter}
            cells = {}
            for word in left:
                board = tuple(a if a in after else "_" for a in word)
                cells.setdefault((board, letter not in tried and letter not in word), []).append(word)
            total = 0
            for (board, missed), cell in cells.items():
                if "_" in board:
                    total += value(tuple(cell), after, misses + missed, turn + 1, episode)
                else:
                    assert len(cell) == 1
                    total += (episode >= free) + value(tuple(cell), frozenset(), 0, 0, episode + 1)
            top = max(top, total)
        return top

    groups = {}
    for word in words:
        groups.setdefault(len(word), []).append(word)
    return sum(value(tuple(group), frozenset(), 0, 0, 0) for group in groups.values()) / len(words)


@pytest.mark.parametrize(
    ("words", "lives", "episodes", "total"),
    [(RHYMES, 2, 1, 5 / 12), (RHYMES, 2, 3, 25 / 12), (SHORT, 3, 3, 8 / 3)],
)
def test_exact_values(harness, words, lives, episodes, total):
    for style in ("chat", "terse"):
        trial = make("Hangman-v0", words=words, lives=lives, episodes=episodes, style=style)
        optimum = trial.optimal_returns()
        assert optimum.kind == "exact"
        assert optimum.total == pytest.approx(total, abs=1e-9)
        assert harness.mean_curve(trial) == pytest.approx(list(optimum.curve), abs=1e-9)
    assert trial.env.no_memory_bound(3) == pytest.approx(3 * trial.env.optimal_returns(1).total)


@pytest.mark.parametrize(("words", "lives"), [(SMALL, 1), (SMALL, 2), (["bat", "cat", "rat", "at"], 1)])
@pytest.mark.parametrize(("turns", "episodes", "free"), [(8, 2, 0), (3, 2, 0), (2, 3, 0), (3, 2, 1)])
def test_optimum_is_brute_force_and_oracle_reaches_it(harness, words, lives, turns, episodes, free):
    trial = make("Hangman-v0", words=words, lives=lives, turns=turns, episodes=episodes, free_shots=free)
    optimum = trial.optimal_returns()
    assert optimum.kind == "exact"
    assert optimum.total == pytest.approx(brute_force(words, lives, turns, episodes, free), abs=1e-9)
    assert harness.mean_curve(trial) == pytest.approx(list(optimum.curve), abs=1e-9)


def test_long_lists_have_bounds(harness):
    trial = make("Hangman-v0", words="common3", lives=6, turns=10, episodes=3)
    optimum = trial.optimal_returns()
    assert optimum.kind == "upper_bound"
    assert 2.4 < optimum.lower < optimum.total == 3.0
    assert trial.env.no_memory_bound(3) is None
    words = shipped("common3")[::40]
    curve = [harness.play(trial, Task(trial.env_id, {"word": word}))["returns"] for word in words]
    assert all(returns[2] >= returns[0] for returns in curve)
    short = make("Hangman-v0", words="common", turns=3).optimal_returns(2)
    assert short.lower < short.total < 1
    many = [a + b + c + d for a in "bcdfghklmnp" for b in "aeiou" for c in "lmnrstpkbd" for d in ascii_lowercase[:19]]
    env = make("Hangman-v0", words=many)
    assert (env.optimal_returns(3).total, env.optimal_returns(3).lower) == (3.0, None)
    with pytest.raises(MetaRLGymError, match="at most 10000 words"):
        env.oracle([Episode("")])


def test_a_search_too_long(harness, monkeypatch):
    monkeypatch.setattr(hangman_solver, "WORK_LIMIT", 5)
    for cached in (hangman_solver.search, hangman_solver.optimum):
        cached.cache_clear()
    trial = make("Hangman-v0", episodes=3)
    optimum = trial.optimal_returns()
    assert optimum.kind == "upper_bound"
    assert optimum.lower <= 25 / 12 + 1e-9 <= optimum.total
    assert sum(harness.mean_curve(trial)) == pytest.approx(optimum.lower)
    for cached in (hangman_solver.search, hangman_solver.optimum):
        cached.cache_clear()


def test_texts():
    env = make("Hangman-v0", words=["papa", "cake"], lives=2)
    task = Task(env.env_id, {"word": "papa"})
    first, _ = env.reset(options={"task": task, "episode_seed": 0})
    assert first == "The word: _ _ _ _. Which letter do you try, in brackets?"
    for action, text, valid in [
        ("I try [A].", "a is in the word. The word: _ a _ a.", True),
        ("[a]", "You tried a before in this episode: the turn is lost. The word: _ a _ a.", True),
        ("[ka]", 'That is not one letter: the turn is lost. Reply "[a]" to "[z]".', False),
        ("", "That is not one letter", False),
        ("e", "e is not in the word: miss 1 of 2. The word: _ a _ a.", True),
        ("[p]", "p is in the word. The word is papa! 1 point.", True),
    ]:
        step = env.step(action)
        assert step.observation.startswith(text)
        assert step.info["valid"] is valid
    assert step.terminated
    assert step.info["success"]
    assert step.reward == 1.0
    env.reset(options={"task": task, "episode_seed": 0})
    env.step("[x]")
    copied = copy.deepcopy(env)
    for game in (env, copied):
        step = game.step("[y]")
        assert step.observation == "y is not in the word: miss 2 of 2. The episode is lost."
        assert (step.terminated, step.reward, step.info["success"]) == (True, 0.0, False)


def test_terse_texts():
    env = make("Hangman-v0", words=["papa", "cake"], lives=2, style="terse")
    assert env.reset(options={"task": Task(env.env_id, {"word": "papa"}), "episode_seed": 0})[0] == "_ _ _ _"
    assert [env.step(a).observation for a in ("a", "a", "1", "e", "p")] == [
        "_ a _ a",
        "again",
        "invalid",
        "miss",
        "solved",
    ]


def test_rules():
    assert ": bake, cake, lake" in make("Hangman-v0").rules()
    assert "turns." not in make("Hangman-v0").rules()
    assert "An episode has at most 10 turns." in make("Hangman-v0", turns=10).rules()
    assert "A common English word of 3 to 8 letters" in make("Hangman-v0", words="common").rules()
    assert "The first letter that is not in the word ends" in make("Hangman-v0", lives=1).rules()


def test_random_play_repeats_no_letter():
    env = make("Hangman-v0", lives=20)
    rng = random.Random(0)
    for number in range(20):
        env.reset(seed=number)
        seen = []
        while env.live:
            seen.append(env.random_action(rng))
            env.step(seen[-1])
        assert len(set(seen)) == len(seen)


def test_oracle_survives_contradictions():
    """Under the control `shuffled` it sees another task's episodes."""
    env = make("Hangman-v0", style="terse")
    env.horizon = 3
    other = Episode("_ _ _ _", [Turn("k", "_ _ k _", 0.0), Turn("c", "miss", 0.0), Turn("w", "lost", 0.0)])
    assert env.oracle([other, Episode("_ _ _ _", [Turn("b", "b _ _ _", 0.0)])]) in "ake"
    assert env.oracle([other, Episode("_ _ _ _", [Turn("k", "miss", 0.0)])]) in ascii_lowercase
    odd = Episode("_ _ _ _", [Turn("z", "z _ _ _", 0.0), Turn("junk", "invalid", 0.0, False)])
    assert env.oracle([odd]) in ascii_lowercase
    assert env.oracle([Episode("_ _", [])]) in ascii_lowercase


def test_contract(harness):
    harness.check_contract("Hangman-v0", lambda params: params["word"])
    harness.check_contract("Hangman-v0", lambda params: params["word"], words="common")


@pytest.mark.parametrize(
    ("kwargs", "field"),
    [
        ({"lives": 0}, "lives=0"),
        ({"turns": 0}, "turns=0"),
        ({"turns": 2}, "turns=2 is too few"),
        ({"words": "uncommon"}, "words='uncommon'"),
        ({"words": ["a-b", "cat"]}, "'a-b'"),
    ],
)
def test_bad_arguments(kwargs, field):
    with pytest.raises(ConfigError, match=field):
        make("Hangman-v0", **kwargs)
