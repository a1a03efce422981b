import random
from itertools import product

import numpy as np
import pytest

from metarlgym import ConfigError, Episode, MetaRLGymError, Task, Turn, make
from metarlgym.envs import repeated_game_solver, rock_paper_scissors_solver

RPS = "RockPaperScissors-v0"
BEATS = {"paper": "rock", "scissors": "paper", "rock": "scissors"}
BEATEN_BY = {loser: winner for winner, loser in BEATS.items()}
NAMES = ["rock", "paper", "scissors", "cycle_up", "cycle_down", "copy", "beat", "lose"]


def throw(name, mine, its):
    """The opponent's throw after the rounds with throws `mine` and `its`, from the definitions."""
    last = mine[-1] if mine else "rock"
    table = {
        "cycle_up": BEATEN_BY[its[-1]] if its else "rock",
        "cycle_down": BEATS[its[-1]] if its else "rock",
        "copy": last,
        "beat": BEATEN_BY[last],
        "lose": BEATS[last],
    }
    return table.get(name, name)


def brute_force(names, rounds, noise, episodes, free, majority=False):
    """Best weighted return by a recursion over whole histories, with unnormalized weights of the opponents."""

    def value(weights, episode, mine, its):
        if len(mine) == rounds:
            wins = sum(BEATS[a] == b for a, b in zip(mine, its))
            paid = majority * (2 * wins >= rounds) * (episode >= free) * sum(weights.values())
            return paid + (value(weights, episode + 1, (), ()) if episode + 1 < episodes else 0.0)
        options = []
        for a in BEATS:
            total = 0.0
            for b in BEATS:
                after = {
                    n: w * (noise / 3 + (1 - noise) * (throw(n, mine, its) == b)) for n, w in weights.items() if w > 0
                }
                if mass := sum(after.values()):
                    paid = 0 if majority else mass * ((BEATS[a] == b) - (BEATS[b] == a)) * (episode >= free)
                    total += paid + value(after, episode, (*mine, a), (*its, b))
            options.append(total)
        return max(options)

    return value(dict.fromkeys(names, 1 / len(names)), 0, (), ())


@pytest.mark.parametrize(
    ("rounds", "episodes", "noise", "total"),
    [(3, 1, 0.0, 13 / 8), (3, 3, 0.0, 61 / 8), (5, 3, 0.0, 109 / 8), (2, 2, 0.2, 11413 / 6750)],
)
def test_reference_values(rounds, episodes, noise, total):
    optimum = make(RPS, rounds=rounds, noise=noise).optimal_returns(episodes)
    assert optimum.kind == "exact"
    assert optimum.total == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("majority", [False, True])
@pytest.mark.parametrize(
    ("names", "rounds", "noise", "episodes", "free"),
    [
        (NAMES, 2, 0.0, 2, 0),
        (NAMES, 2, 0.0, 2, 1),
        (NAMES, 1, 0.0, 4, 2),
        (NAMES, 2, 0.3, 1, 0),
        (NAMES, 1, 0.5, 3, 1),
        (["copy", "cycle_up", "lose"], 3, 0.25, 1, 0),
        (["copy", "beat"], 2, 1.0, 1, 0),
    ],
)
def test_optimum_is_brute_force(names, rounds, noise, episodes, free, majority):
    reward = "majority" if majority else "points"
    env = make(RPS, rounds=rounds, noise=noise, opponents=names, reward=reward)
    optimum = env.optimal_returns(episodes, free)
    assert optimum.total == pytest.approx(brute_force(names, rounds, noise, episodes, free, majority), abs=1e-9)


@pytest.mark.parametrize("style", ["chat", "terse"])
@pytest.mark.parametrize("free", [0, 1])
@pytest.mark.parametrize("reward", ["points", "majority"])
def test_oracle_reaches_the_optimum_on_all_tasks(harness, style, free, reward):
    trial = make(RPS, episodes=3, style=style, free_shots=free, reward=reward)
    assert harness.mean_curve(trial) == pytest.approx(list(trial.optimal_returns().curve))


def test_oracle_reaches_the_optimum_with_noise(harness):
    trial = make(RPS, rounds=2, noise=0.2, episodes=2, style="terse")
    totals = [sum(harness.play(trial, trial.env.new_task(i), i)["returns"]) for i in range(600)]
    assert np.mean(totals) == pytest.approx(trial.optimal_returns().total, abs=4 * np.std(totals) / 600**0.5)


def test_memory_pays():
    trial = make(RPS, episodes=3)
    assert trial.no_memory_bound() == pytest.approx(4.875)
    assert trial.optimal_returns().curve == pytest.approx((1.625, 3, 3))
    # With free shots the first episode explores for nothing.
    assert trial.optimal_returns(3, 1).total == pytest.approx(6)


def test_long_trials():
    curve = make(RPS).optimal_returns(40).curve
    assert curve == pytest.approx((1.625, *[3] * 39))
    assert make(RPS, rounds=20).optimal_returns(3).kind == "exact"


def test_too_long_a_search_is_a_bound_and_the_oracle_still_plays(harness, monkeypatch):
    monkeypatch.setattr(repeated_game_solver, "WORK_LIMIT", 300)
    repeated_game_solver.plan.cache_clear()
    repeated_game_solver.curve.cache_clear()
    trial = make(RPS, noise=0.1, episodes=4, style="terse")
    optimum = trial.optimal_returns()
    assert (optimum.kind, optimum.total) == ("upper_bound", pytest.approx(4 * 3 * 0.9))
    assert trial.optimal_returns(4, 3).total == pytest.approx(3 * 0.9)
    assert make(RPS, noise=0.1, rounds=60, reward="majority").optimal_returns(2).total <= 2
    totals = [sum(harness.play(trial, trial.env.new_task(i), i)["returns"]) for i in range(60)]
    assert 4 < np.mean(totals) < optimum.total
    repeated_game_solver.plan.cache_clear()
    repeated_game_solver.curve.cache_clear()


def test_random_policy(harness):
    rng = random.Random(0)
    curve = harness.mean_curve(make(RPS, episodes=2, noise=0.2), lambda t: t.random_action(rng), seeds=600)
    assert curve == pytest.approx([0, 0], abs=4 * (2 / 600) ** 0.5)


# ------------------------------------------------------------------ opponents with a favorite


def favorites(seed, size):
    """`size` draws of the probabilities, from the definition."""
    rng = np.random.default_rng(seed)
    favorite, share = 0.4 + 0.6 * rng.beta(2, 2, size), rng.dirichlet((1, 1), size)
    p = np.stack([favorite, *((1 - favorite) * share.T)], 1)
    place = rng.integers(3, size=size)
    return np.stack([p[np.arange(size), (t - place) % 3] for t in range(3)], 1)


def test_biased_tasks_are_as_defined():
    env = make(RPS, opponents=["biased"])
    drawn = np.array([env.new_task(i).params["probabilities"] for i in range(4000)])
    assert drawn.sum(1) == pytest.approx(np.ones(4000))
    assert drawn.max(1).min() >= 0.4
    assert drawn.mean(0) == pytest.approx([1 / 3] * 3, abs=0.02)
    reference = favorites(0, 40000)
    for power in (2, 3):
        assert (drawn**power).mean(0) == pytest.approx((reference**power).mean(0), abs=0.02)
    assert env.all_tasks() is None


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_chances_after_counts_are_those_of_bayes(noise):
    p = favorites(1, 200_000) * (1 - noise) + noise / 3
    for counts in ((0, 0, 0), (1, 0, 0), (2, 1, 0), (0, 3, 3)):
        weights = (p ** np.array(counts)).prod(1)
        expected = (weights[:, None] * p).sum(0) / weights.sum()
        assert rock_paper_scissors_solver.chances(counts, noise) == pytest.approx(list(expected), abs=0.006)


@pytest.mark.parametrize("reward", ["points", "majority"])
def test_biased_optimum_is_brute_force(reward):
    """By a recursion over sequences of throws, with the chances of each."""
    env = make(RPS, rounds=3, opponents=["biased"], reward=reward)

    def value(its, mine):
        if len(mine) == 3:
            return float(reward == "majority" and sum(BEATS[a] == b for a, b in zip(mine, its)) >= 2)
        chances = rock_paper_scissors_solver.chances(tuple(map(its.count, NAMES[:3])), 0.0)
        return max(
            sum(
                chance * (((BEATS[a] == b) - (BEATS[b] == a)) * (reward == "points") + value((*its, b), (*mine, a)))
                for b, chance in zip(NAMES[:3], chances)
            )
            for a in BEATS
        )

    assert env.optimal_returns(1).total == pytest.approx(value((), ()))


@pytest.mark.parametrize("reward", ["points", "majority"])
def test_oracle_reaches_the_optimum_against_favorites(harness, reward):
    trial = make(RPS, rounds=5, episodes=3, opponents=["biased"], reward=reward, style="terse")
    assert trial.reward_range == ((0, 1) if reward == "majority" else (-1, 1))
    optimum = trial.optimal_returns()
    assert optimum.kind == "exact"
    assert optimum.curve == pytest.approx(
        (0.583616, 0.731576, 0.761063) if reward == "majority" else (1.719897, 2.557532, 2.682294), abs=1e-6
    )
    assert trial.no_memory_bound() == pytest.approx(3 * optimum.curve[0])
    runs = np.array([harness.play(trial, trial.env.new_task(i), i)["returns"] for i in range(500)])
    error = 4 * runs.std(0) / 500**0.5
    assert (abs(runs.mean(0) - optimum.curve) < error).all()


def test_favorites_with_others_have_no_optimum():
    env = make(RPS, opponents=["rock", "biased"])
    assert env.optimal_returns(3).kind == "none"
    assert env.no_memory_bound(3) is None
    assert {env.new_task(i).params["opponent"] for i in range(20)} == {"rock", "biased"}
    with pytest.raises(MetaRLGymError, match="biased"):
        env.oracle([Episode("")])
    assert make(RPS, opponents=["biased"], rounds=100).optimal_returns(1).kind == "none"
    assert "biased" not in make(RPS).opponents


# ------------------------------------------------------------------ play


def begin(style="chat", opponent="rock", **kwargs):
    env = make(RPS, style=style, **kwargs)
    env.reset(options={"task": Task(RPS, {"opponent": opponent}), "episode_seed": 0})
    return env


@pytest.mark.parametrize("name", NAMES)
def test_opponents_are_as_defined(name):
    for mine in product(BEATS, repeat=3):
        env = begin("terse", name)
        its = ()
        for i, move in enumerate(mine):
            expected = throw(name, mine[:i], its)
            assert env.step(move).observation.split()[0] == expected
            its = (*its, expected)


def test_noise_is_uniform():
    env = make(RPS, rounds=1, noise=0.6, opponents=["rock"], style="terse")
    task = Task(RPS, {"opponent": "rock"})
    counts = dict.fromkeys(BEATS, 0)
    for seed in range(3000):
        env.reset(options={"task": task, "episode_seed": seed})
        counts[env.step("rock").observation.split()[0]] += 1
    assert [counts[t] / 3000 for t in NAMES[:3]] == pytest.approx([0.6, 0.2, 0.2], abs=0.035)


def test_texts():
    env = begin()
    assert env.get_observation() == "Round 1 of 3: [rock], [paper] or [scissors]?"
    assert env.step("I throw [Paper].").observation == (
        "You: paper. Opponent: rock. You win: 1 point.\nRound 2 of 3: [rock], [paper] or [scissors]?"
    )
    assert env.step("Scissors!").observation.startswith("You: scissors. Opponent: rock. You lose: -1 point.\n")
    step = env.step("rock")
    assert step.observation == "You: rock. Opponent: rock. You tie: 0 points."
    assert (step.terminated, step.info["success"]) == (True, False)
    assert [begin("terse").step(move).observation for move in NAMES[:3]] == ["rock tie", "rock win", "rock lose"]
    assert "0.2" in make(RPS, noise=0.2).rules()


@pytest.mark.parametrize("style", ["chat", "terse"])
@pytest.mark.parametrize("action", ["", "[lizard]", "[rock paper]"])
def test_an_illegal_throw_forfeits_the_round_and_the_opponent_does_not_see_it(style, action):
    env = begin(style, "copy")
    env.step("paper")
    step = env.step(action)
    assert (step.reward, step.info["valid"], step.terminated) == (-1.0, False, False)
    assert "opponent" not in step.observation.lower()
    assert "paper" in env.step("scissors").observation  # the copy of the last legal throw


def test_majority():
    env = begin(rounds=4, reward="majority")
    steps = [env.step(move) for move in ("paper", "paper", "rock", "scissors")]
    assert [step.reward for step in steps] == [0, 0, 0, 1]
    assert steps[-1].observation == "You: scissors. Opponent: rock. You lose. You won 2 of 4 rounds: 1 point."
    assert env.success
    env = begin(rounds=4, reward="majority")
    for move in ("paper", "paper", "paper", "junk"):
        step = env.step(move)
    assert (step.reward, env.success) == (0, False)
    assert step.observation.endswith("You won 3 of 4 rounds: 0 points.")


def test_oracle_survives_contradictions_and_illegal_turns():
    env = make(RPS, style="terse")
    env.horizon = 3
    other = Episode("", [Turn("rock", "rock tie", 0), Turn("rock", "rock tie", 0), Turn("rock", "rock tie", 0)])
    assert env.oracle([other, Episode("")]) in ("paper", "rock", "scissors")
    now = Episode("", [Turn("rock", "scissors win", 1), Turn("junk", "invalid", -1, False)])
    assert env.oracle([other, now]) == "rock"  # always scissors, or lose, whose answer to rock is scissors
    impossible = Episode("", [Turn("rock", "scissors win", 1), Turn("rock", "paper lose", -1)])
    assert env.oracle([other, impossible]) in ("paper", "rock", "scissors")
    env.horizon = 0
    assert env.oracle([Episode("")] * 9) in ("paper", "rock", "scissors")


@pytest.mark.parametrize("kwargs", [{}, {"noise": 0.3}, {"opponents": ["biased"]}, {"reward": "majority"}])
def test_contract(harness, kwargs):
    harness.check_contract(RPS, lambda params: "\0", **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "field"),
    [
        ({"rounds": 0}, "rounds=0"),
        ({"noise": 1.5}, "noise=1.5"),
        ({"noise": True}, "noise=True"),
        ({"reward": "sum"}, "reward='sum'"),
        ({"opponents": []}, "opponents="),
        ({"opponents": "rock"}, "opponents='rock'"),
        ({"opponents": ["rock", "well"]}, "'well'"),
        ({"opponents": ["rock", "rock"]}, "twice"),
    ],
)
def test_bad_arguments(kwargs, field):
    with pytest.raises(ConfigError, match=field):
        make(RPS, **kwargs)
