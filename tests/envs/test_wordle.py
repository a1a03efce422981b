"""Wordle against brute force and published values."""

import pickle
import random
from functools import cache

import numpy as np
import pytest

from metarlgym import ConfigError, Episode, MetaRLGymError, Task, Turn, make
from metarlgym.envs import guess_search, wordle_solver
from metarlgym.envs.word_lists import NAMES, RHYMES, check_words, shipped

SMALL = ["cat", "car", "can", "tan", "rat", "tar"]


def answer(guess, secret):
    """Green, yellow and gray by counting letters."""
    told = []
    for i, letter in enumerate(guess):
        if secret[i] == letter:
            told.append("g")
            continue
        free = sum(a == letter and b != letter for a, b in zip(secret, guess))
        earlier = sum(guess[j] == letter and secret[j] != letter for j in range(i))
        told.append("y" if earlier < free else "x")
    return " ".join(told)


def brute_force(words, guesses, episodes, free):
    """Best sum of counted wins, by a recursion over sets of words; no bounds, no shortcuts."""

    @cache
    def value(left, done):
        if done == guesses * episodes:
            return 0
        top = 0
        for guess in words:
            cells = {}
            for word in left:
                cells.setdefault(answer(guess, word), []).append(word)
            won = len(cells.pop("g " * (len(guess) - 1) + "g", ()))
            total = won * (episodes - max(done // guesses, free))
            top = max(top, total + sum(value(tuple(cell), done + 1) for cell in cells.values()))
        return top

    return value(tuple(words), 0) / len(words)


@pytest.mark.parametrize(("guesses", "episodes", "total"), [(2, 1, 5 / 12), (2, 3, 13 / 6), (3, 2, 19 / 12)])
def test_exact_values(harness, guesses, episodes, total):
    trial = make("Wordle-v0", guesses=guesses, episodes=episodes)
    optimum = trial.optimal_returns()
    assert optimum.kind == "exact"
    assert optimum.total == pytest.approx(total, abs=1e-9)
    assert harness.mean_curve(trial) == pytest.approx(list(optimum.curve), abs=1e-9)
    assert trial.env.no_memory_bound(3) == pytest.approx(3 * trial.env.optimal_returns(1).total)


@pytest.mark.parametrize("words", [SMALL, list(RHYMES[:7])])
@pytest.mark.parametrize(("guesses", "episodes", "free"), [(1, 3, 0), (1, 4, 2), (2, 2, 0), (2, 2, 1), (3, 1, 0)])
def test_optimum_is_brute_force_and_oracle_reaches_it(harness, words, guesses, episodes, free):
    trial = make("Wordle-v0", words=words, guesses=guesses, episodes=episodes, free_shots=free)
    optimum = trial.optimal_returns()
    assert optimum.kind == "exact"
    assert optimum.total == pytest.approx(brute_force(words, guesses, episodes, free), abs=1e-9)
    assert harness.mean_curve(trial) == pytest.approx(list(optimum.curve), abs=1e-9)


def test_terse_oracle(harness):
    trial = make("Wordle-v0", episodes=3, style="terse")
    assert sum(harness.mean_curve(trial)) == pytest.approx(13 / 6)


def test_answers():
    rng = random.Random(0)
    words = ["".join(rng.choices("abc", k=4)) for _ in range(60)]
    book = wordle_solver.Book(tuple(dict.fromkeys(words)))
    for guess in book.words:
        for secret in book.words:
            told = wordle_solver.answer(guess, secret)
            assert " ".join("xyg"[code] for code in told) == answer(guess, secret)
            assert book.answers[book.place[guess], book.place[secret]] == sum(c * 3**i for i, c in enumerate(told))


def test_long_list_has_bounds_and_a_playing_oracle(harness):
    """All 1,362 common words of five letters; six guesses are enough for each."""
    trial = make("Wordle-v0", words="common5", guesses=2, episodes=3, style="terse")
    optimum = trial.optimal_returns()
    assert optimum.kind == "upper_bound"
    assert 2.08 < optimum.lower < optimum.total < 2.2
    tasks = [Task(trial.env_id, {"word": word}) for word in shipped("common5")[::150]]
    assert all(harness.play(trial, task)["returns"][1:] == [1.0, 1.0] for task in tasks[:3])
    six = make("Wordle-v0", words="common5", guesses=6).optimal_returns(1)
    assert (six.kind, six.total) == ("exact", pytest.approx(1.0))
    assert trial.env.no_memory_bound(3) == pytest.approx(3 * 153 / 1362)
    assert make("Wordle-v0", words="common5", guesses=3).no_memory_bound(3) is None
    assert trial.legal_actions() is None
    words = [a + b + c + d for a in "bcdfghkl" for b in "aeiou" for c in "lmnrstpk" for d in "abcdefghiklmnop"]
    huge = make("Wordle-v0", words=words, guesses=2)
    assert (huge.optimal_returns(3).total, huge.optimal_returns(3).kind) == (3.0, "upper_bound")
    with pytest.raises(MetaRLGymError, match="at most 4000 words"):
        huge.oracle([Episode("")])


def test_a_search_too_long(harness, monkeypatch):
    monkeypatch.setattr(guess_search, "WORK_LIMIT", 20)
    wordle_solver.search.cache_clear()
    wordle_solver.optimum.cache_clear()
    trial = make("Wordle-v0", guesses=2, episodes=3)
    optimum = trial.optimal_returns()
    wordle_solver.optimum.cache_clear()
    assert optimum.kind == "upper_bound"
    assert optimum.lower <= 13 / 6 + 1e-9 <= optimum.total + 2e-9
    assert sum(harness.mean_curve(trial)) == pytest.approx(optimum.lower)
    wordle_solver.search.cache_clear()


def test_nothing_beats_a_bound():
    """The bounds of the ideal game are no lower than the optimum."""
    rng = random.Random(1)
    for _ in range(20):
        words = tuple(rng.sample(shipped("common3"), 12))
        for turns, episodes in ((1, 3), (2, 2), (3, 1)):
            exact = wordle_solver.optimum(words, turns, episodes, 0)
            most = guess_search.bound(12, wordle_solver.book(words).most_answers(), 0, turns, episodes)
            assert exact.kind == "exact"
            assert all(value <= top + 1e-9 for value, top in zip(exact.curve, most))
            reached = wordle_solver.book(words).heuristic_curve(turns, episodes)
            assert sum(reached) <= exact.total + 1e-9


def test_texts():
    env = make("Wordle-v0", guesses=9)
    env.reset(options={"task": Task(env.env_id, {"word": "care"}), "episode_seed": 0})
    for action, text in [
        ("[rare]", "rare is wrong. r: absent, a: right place, r: right place, e: right place."),
        ("I guess Bake.", "bake is wrong. b: absent, a: right place, k: absent, e: right place."),
        ("[W A K E]", "wake is wrong. w: absent, a: right place, k: absent, e: right place."),
        ("[hello]", "That word does not have 4 letters: the guess is lost. Reply with one word of the list"),
        ("[fare]", "That word is not on the list: the guess is lost."),
        ("[bake cake]", "That word does not have 4 letters"),
        ("", "That is not one word: the guess is lost."),
        ("[care]", "care is the word! 1 point."),
    ]:
        step = env.step(action)
        assert step.observation.startswith(text)
        assert step.info["valid"] is ("lost" not in text and "does not" not in text)
    assert step.terminated
    assert step.info["success"]
    assert step.reward == 1.0
    rules = make("Wordle-v0", words="common5").rules()
    assert "A common English word of 5 letters" in rules
    assert len(rules) < 700


def test_elsewhere():
    env = make("Wordle-v0", words=["abbey", "babes", "kebab"], style="terse")
    env.reset(options={"task": Task(env.env_id, {"word": "abbey"}), "episode_seed": 0})
    assert env.step("k e b a b").observation == "x y g y y"
    assert env.step("[babes]").observation == "y y g g x"


def test_random_play_guesses_no_word_twice():
    env = make("Wordle-v0", guesses=12)
    rng = random.Random(0)
    for number in range(20):
        env.reset(seed=number)
        seen = []
        while env.live:
            seen.append(env.random_action(rng))
            env.step(seen[-1])
        assert len(set(seen)) == len(seen)
        assert env.success


def test_oracle_survives_contradictions():
    """Under the control `shuffled` it sees another task's episodes."""
    env = make("Wordle-v0", style="terse")
    env.horizon = 3
    other = Episode("", [Turn("b a k e", "solved", 1.0)])
    assert env.oracle([other, Episode("")]) == "b a k e"
    assert env.oracle([other, Episode("", [Turn("b a k e", "x g x g", 0.0)])]) != "b a k e"
    mixed = Episode("", [Turn("junk", "invalid", 0.0, False), Turn("b a k e", "x x x x", 0.0)])
    assert "".join(env.oracle([mixed]).split()) in RHYMES


def test_contract(harness):
    harness.check_contract("Wordle-v0", lambda params: params["word"])
    env = make("Wordle-v0", words=SMALL)
    env.reset(seed=1)
    env.step("[cat]")
    assert pickle.loads(pickle.dumps(env))._guessed == {"cat"}


def test_shipped_words():
    for name in NAMES:
        words = shipped(name)
        assert words == tuple(sorted(set(words)))
        assert check_words(name) == words
    assert {len(word) for word in shipped("common")} == set(range(3, 9))
    assert len(shipped("common")) == sum(len(shipped(name)) for name in NAMES[1:])
    assert np.all([word.isascii() and word.isalpha() and word.islower() for word in shipped("common")])


@pytest.mark.parametrize(
    ("kwargs", "field"),
    [
        ({"guesses": 0}, "guesses=0"),
        ({"words": "common9"}, "words='common9' is not a shipped list: use one of common, common3"),
        ({"words": "common"}, "3 to 8 letters: use common5"),
        ({"words": ["bake"]}, "at least two words"),
        ({"words": ["bake", "bar"]}, "3 to 4 letters"),
        ({"words": ["bake", "bake", "cake"]}, "'bake' twice"),
        ({"words": ["Bake", "cake"]}, "'Bake': use the letters a to z"),
        ({"words": 3}, "words=3"),
    ],
)
def test_bad_arguments(kwargs, field):
    with pytest.raises(ConfigError, match=field):
        make("Wordle-v0", **kwargs)
