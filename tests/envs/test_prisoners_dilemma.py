import random
from itertools import product

import pytest

from metarlgym import ConfigError, Episode, Task, Turn, make

PD = "PrisonersDilemma-v0"
NAMES = ["all_c", "all_d", "tit_for_tat", "grim", "pavlov", "suspicious_tft"]
WORDS = {"C": "cooperate", "D": "defect"}
PAYOFF = {"CC": 3, "CD": 0, "DC": 5, "DD": 1}


def answer(name, mine, its):
    """The opponent's move from the definitions, in letters."""
    match name:
        case "all_c":
            return "C"
        case "all_d":
            return "D"
        case "tit_for_tat":
            return mine[-1:] or "C"
        case "suspicious_tft":
            return mine[-1:] or "D"
        case "grim":
            return "D" if "D" in mine else "C"
        case "pavlov":
            return "C" if not mine or mine[-1] == its[-1] else "D"


def brute_force(names, rounds, episodes, free):
    """Best weighted sum of fifths over all opponents, by a recursion over whole histories."""

    def value(alive, episode, mine, its):
        if len(mine) == rounds:
            return value(alive, episode + 1, "", "") if episode + 1 < episodes else 0
        options = []
        for a in "CD":
            cells = {}
            for name in alive:
                cells.setdefault(answer(name, mine, its), []).append(name)
            options.append(
                sum(
                    len(cell) * PAYOFF[a + b] * (episode >= free) + value(cell, episode, mine + a, its + b)
                    for b, cell in cells.items()
                )
            )
        return max(options)

    return value(names, 0, "", "") / len(names) / 5


@pytest.mark.parametrize(("rounds", "episodes", "total"), [(3, 1, 53 / 30), (3, 3, 167 / 30), (5, 3, 271 / 30)])
def test_reference_values(rounds, episodes, total):
    optimum = make(PD, rounds=rounds).optimal_returns(episodes)
    assert optimum.kind == "exact"
    assert optimum.total == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("names", [NAMES, ["tit_for_tat", "grim", "pavlov"], ["suspicious_tft", "all_d"]])
@pytest.mark.parametrize(("rounds", "episodes", "free"), [(1, 5, 0), (1, 5, 3), (2, 3, 0), (3, 2, 1), (5, 1, 0)])
def test_optimum_is_brute_force_and_oracle_reaches_it(harness, names, rounds, episodes, free):
    trial = make(PD, rounds=rounds, opponents=names, episodes=episodes, free_shots=free)
    optimum = trial.optimal_returns()
    assert optimum.total == pytest.approx(brute_force(names, rounds, episodes, free), abs=1e-9)
    assert harness.mean_curve(trial) == pytest.approx(list(optimum.curve))


@pytest.mark.parametrize("style", ["chat", "terse"])
def test_oracle_reaches_the_optimum_of_the_default(harness, style):
    trial = make(PD, episodes=3, style=style)
    assert harness.mean_curve(trial) == pytest.approx(list(trial.optimal_returns().curve))


def test_exploration_costs_something_first():
    trial = make(PD, episodes=3)
    one = trial.optimal_returns(1).total
    assert trial.no_memory_bound() == pytest.approx(3 * one)
    curve = trial.optimal_returns().curve
    assert curve[0] < one < curve[1]
    assert curve == pytest.approx((2.7, 95 / 30, 95 / 30))


def test_large_sizes():
    assert make(PD, rounds=20).optimal_returns(6).kind == "exact"
    optimum = make(PD, rounds=60).optimal_returns(3, 1)
    assert (optimum.kind, optimum.total) == ("upper_bound", 120)


def test_random_policy(harness):
    rng = random.Random(0)
    curve = harness.mean_curve(make(PD, rounds=1, opponents=["all_c"], episodes=2), lambda t: t.random_action(rng), 500)
    assert curve == pytest.approx([0.8, 0.8], abs=4 * 0.2 / 500**0.5)


def begin(style="chat", opponent="all_c", **kwargs):
    env = make(PD, style=style, **kwargs)
    env.reset(options={"task": Task(PD, {"opponent": opponent}), "episode_seed": 0})
    return env


@pytest.mark.parametrize("name", NAMES)
def test_opponents_are_as_defined(name):
    for mine in product("CD", repeat=5):
        env = begin("terse", name)
        its = ""
        for i, move in enumerate(mine):
            its += answer(name, "".join(mine[:i]), its)
            step = env.step(WORDS[move])
            assert step.observation == WORDS[its[-1]]
            assert step.reward == pytest.approx(PAYOFF[move + its[-1]] / 5)
        assert step.terminated
        total = sum(PAYOFF[a + b] for a, b in zip(mine, its))
        assert env.success is (total >= 15)


def test_texts():
    env = begin(rounds=2)
    assert env.get_observation() == "Round 1 of 2: [cooperate] or [defect]?"
    assert env.step("I will [cooperate]").observation == (
        "You: cooperate. Opponent: cooperate. 0.6 points.\nRound 2 of 2: [cooperate] or [defect]?"
    )
    assert env.step("Defect.").observation == "You: defect. Opponent: cooperate. 1 point."


@pytest.mark.parametrize("style", ["chat", "terse"])
def test_an_illegal_move_forfeits_the_round_and_the_opponent_does_not_see_it(style):
    env = begin(style, "grim")
    step = env.step("[betray]")
    assert (step.reward, step.info["valid"], step.terminated) == (0.0, False, False)
    assert "opponent" not in step.observation.lower()
    assert env.step("cooperate").reward == pytest.approx(0.6)
    env = begin(style, "suspicious_tft")
    env.step("junk")
    assert env.step("cooperate").reward == 0.0  # its first move


def test_oracle_survives_contradictions_and_illegal_turns():
    env = make(PD, style="terse")
    env.horizon = 3
    other = Episode("", [Turn("cooperate", "cooperate", 0.6)] * 5)
    now = Episode("", [Turn("junk", "invalid", 0, False), Turn("cooperate", "defect", 0)])
    assert env.oracle([other, now]) in ("cooperate", "defect")
    now.turns[1:] = [Turn("cooperate", "defect", 0), Turn("cooperate", "defect", 0)]
    assert env.oracle([other, now]) == "defect"  # all_d
    now.turns[1:] = [Turn("cooperate", "defect", 0), Turn("defect", "cooperate", 1), Turn("defect", "cooperate", 1)]
    assert env.oracle([other, now]) in ("cooperate", "defect")


def test_contract(harness):
    harness.check_contract(PD, lambda params: "\0")


@pytest.mark.parametrize(
    ("kwargs", "field"), [({"rounds": 0}, "rounds=0"), ({"opponents": ["tft"]}, "'tft'"), ({"opponents": 3}, "=3")]
)
def test_bad_arguments(kwargs, field):
    with pytest.raises(ConfigError, match=field):
        make(PD, **kwargs)
