import random
from fractions import Fraction
from functools import cache
from itertools import product

import numpy as np
import pytest

from metarlgym import ConfigError, Episode, Task, Turn, make
from metarlgym.envs import kuhn_poker_solver

KUHN = "KuhnPoker-v0"
CARDS = "jack", "queen", "king"
BITS = list(product((0, 1), repeat=3))


def name_of(bits):
    habits = [name for name, has in zip(("bluffs", "bets_queen", "calls_queen"), bits) if has]
    return "+".join(habits) or "plain"


def answer(bits, card, action):
    jack, queen, calls = bits
    if action == "check":
        return "bet" if (jack, queen, 1)[CARDS.index(card)] else "check"
    return "call" if (0, calls, 1)[CARDS.index(card)] else "fold"


def beats(card, other):
    return 1 if CARDS.index(card) > CARDS.index(other) else -1


def brute_force(tasks, hands, counted):
    """Best expected chips in exact fractions, by a recursion over what is seen, with a weight for each task."""

    @cache
    def value(weights, left):
        """`weights` are not normalized: the probability of what was seen with each task."""
        if left == 0:
            return Fraction(0)
        pays = left <= counted
        total = Fraction(0)
        for card in CARDS:
            others = [c for c in CARDS if c != card]

            def after(seen, other_weights):
                """The value of one thing seen: `other_weights[task, other]`."""
                rest = tuple(sum((w for (t, _), w in other_weights if t == task), Fraction(0)) for task in tasks)
                mass = sum(rest)
                return mass * seen * pays + (value(rest, left - 1) if mass else 0)

            options = []
            for action in ("check", "bet"):
                cells = {}
                for (task, weight), other in product(zip(tasks, weights), others):
                    reply = answer(task, other, action)
                    cells.setdefault(reply, []).append(((task, other), weight / 6))
                worth = Fraction(0)
                for reply, cell in cells.items():
                    shown = [(o, [pair for pair in cell if pair[0][1] == o]) for o in others]
                    if reply == "fold":
                        worth += after(1, cell)
                    elif reply == "bet":
                        worth += max(after(-1, cell), sum(after(2 * beats(card, o), part) for o, part in shown))
                    else:
                        worth += sum(after((2 if reply == "call" else 1) * beats(card, o), part) for o, part in shown)
                options.append(worth)
            total += max(options)
        return total

    return value((Fraction(1, len(tasks)),) * len(tasks), hands)


@pytest.mark.parametrize(("hands", "episodes", "total"), [(1, 1, 1 / 12), (3, 1, 71 / 216), (3, 3, 1206239 / 839808)])
def test_reference_values(hands, episodes, total):
    optimum = make(KUHN, hands=hands).optimal_returns(episodes)
    assert optimum.kind == "exact"
    assert optimum.total == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("tasks", [BITS, BITS[1:4], BITS[5:6], [(0, 1, 0), (1, 0, 0)]])
@pytest.mark.parametrize(("hands", "episodes", "free"), [(1, 1, 0), (2, 1, 0), (1, 3, 0), (1, 3, 2), (1, 2, 1)])
def test_optimum_is_brute_force(tasks, hands, episodes, free):
    env = make(KUHN, hands=hands, opponents=[name_of(bits) for bits in tasks])
    optimum = env.optimal_returns(episodes, free)
    expected = brute_force(tasks, hands * episodes, hands * (episodes - free))
    assert optimum.total == pytest.approx(float(expected), abs=1e-9)
    assert sum(optimum.curve[free:]) == pytest.approx(optimum.total)


@pytest.mark.parametrize(("style", "free"), [("chat", 0), ("terse", 0), ("terse", 2)])
def test_oracle_reaches_the_optimum(harness, style, free):
    trial = make(KUHN, episodes=3, style=style, free_shots=free)
    optimum = trial.optimal_returns()
    returns = []
    for i in range(50):
        for bits in BITS:  # all tasks equally often
            returns.append(harness.play(trial, Task(KUHN, {"opponent": name_of(bits)}), i)["returns"])
    returns = np.array(returns)
    error = 4 * returns.std(0) / len(returns) ** 0.5
    assert (abs(returns.mean(0) - optimum.curve) < error).all()


def test_memory_pays():
    trial = make(KUHN, episodes=3)
    assert trial.no_memory_bound() == pytest.approx(71 / 72)
    assert trial.no_memory_bound() < trial.optimal_returns().total - 0.4
    curve = trial.optimal_returns().curve
    assert curve[0] < 71 / 216 < curve[1] < curve[2]


def test_too_long_a_search_is_a_bound_and_the_oracle_still_plays(harness, monkeypatch):
    # Known, each opponent is worth the mean of the eight best answers: no trial pays more a hand.
    known = sum(brute_force([bits], 1, 1) for bits in BITS) / 8
    monkeypatch.setattr(kuhn_poker_solver, "WORK_LIMIT", 200)
    kuhn_poker_solver.plan.cache_clear()
    kuhn_poker_solver.curve.cache_clear()
    trial = make(KUHN, hands=4, episodes=4, free_shots=1, style="terse")
    optimum = trial.optimal_returns()
    assert (optimum.kind, optimum.total) == ("upper_bound", pytest.approx(float(12 * known)))
    totals = [sum(harness.play(trial, trial.env.new_task(i), i)["returns"]) for i in range(60)]
    assert 0 < np.mean(totals) < 16 * known
    assert make(KUHN, hands=kuhn_poker_solver.LONGEST + 1).optimal_returns(1).kind == "upper_bound"
    kuhn_poker_solver.plan.cache_clear()
    kuhn_poker_solver.curve.cache_clear()


def test_random_policy(harness):
    """Uniformly random play, from the definitions: mean over tasks and deals."""
    expected = Fraction(0)
    for bits, card, other in product(BITS, CARDS, CARDS):
        if card != other:
            win = beats(card, other)
            bet = 2 * win if answer(bits, other, "bet") == "call" else 1
            check = win if answer(bits, other, "check") == "check" else Fraction(2 * win - 1, 2)
            expected += Fraction(bet + check, 2) / 48
    rng = random.Random(0)
    curve = harness.mean_curve(make(KUHN, episodes=2), lambda t: t.random_action(rng), seeds=1000)
    assert curve == pytest.approx([float(3 * expected)] * 2, abs=4 * (3 * 2.2 / 1000) ** 0.5)


def begin(style="chat", bits=(0, 0, 0), card=None, other=None, **kwargs):
    """An episode in which the first deal is `card` against `other`."""
    env = make(KUHN, style=style, **kwargs)
    for seed in range(1000):
        env.reset(options={"task": Task(KUHN, {"opponent": name_of(bits)}), "episode_seed": seed})
        if card in (None, env._card) and other in (None, env._other):
            return env
    raise AssertionError


@pytest.mark.parametrize("style", ["chat", "terse"])
@pytest.mark.parametrize("bits", BITS)
def test_hands_are_paid_as_defined(style, bits):
    for card, other in product(CARDS, repeat=2):
        if card == other:
            continue
        win = beats(card, other)
        for actions in (("bet",), ("check",), ("check", "call"), ("check", "fold")):
            env = begin(style, bits, card, other)
            step = env.step(actions[0])
            reply = answer(bits, other, actions[0])
            if reply == "bet":
                assert (step.reward, env._hand) == (0, 1)
                assert "bet" in step.observation
                if len(actions) == 1:
                    continue
                step = env.step(actions[1])
            told = step.observation.split("\n" if style == "chat" else " deal")[0]
            folded = reply == "fold" or (reply == "bet" and actions[1] == "fold")
            expected = 2 * win if reply in ("call", "bet") else win
            if folded:
                expected = 1 if reply == "fold" else -1
            assert step.reward == expected
            assert env._hand == 2
            assert (other in told) is not folded
            assert not any(c in told for c in CARDS if c != other)


def test_texts():
    env = begin(card="queen", other="jack", bits=(1, 0, 0))
    assert env.get_observation() == "Hand 1 of 3. Your card: queen. [check] or [bet]?"
    assert env.step("I [check].").observation == "You check. The opponent bets. [call] or [fold]?"
    assert env.legal_actions() == ["[call]", "[fold]"]
    step = env.step("Call")
    assert step.observation.startswith(
        "You call. The opponent has the jack. You win 2 points.\nHand 2 of 3. Your card: "
    )
    env = begin("terse", card="queen", other="jack", hands=1)
    assert env.step("bet").observation == "win 1"
    assert env.success
    assert not env.live


@pytest.mark.parametrize("style", ["chat", "terse"])
def test_an_illegal_action_forfeits_the_hand(style):
    env = begin(style, card="jack", other="king")
    for actions in (["call"], ["check", "check"]):  # each legal at another time
        for action in actions:
            step = env.step(action)
            if step.info["valid"]:
                env._other, env._legal = "king", ("call", "fold")  # whatever was dealt: it bets
        assert (step.reward, step.info["valid"]) == (-1.0, False)
        told = step.observation.split("\n" if style == "chat" else " deal")[0]
        assert not any(card in told for card in CARDS)
    step = env.step("[raise]")
    assert (step.reward, step.terminated) == (-1.0, True)


def test_deals_are_uniform_and_do_not_depend_on_play():
    counts = {}
    for seed in range(1500):
        env = make(KUHN, hands=2)
        deals = []
        for action in ("[bet]", "junk"):
            env.reset(options={"task": Task(KUHN, {"opponent": "plain"}), "episode_seed": seed})
            deals.append([(env._card, env._other)])
            env.step(action)
            deals[-1].append((env._card, env._other))
        assert deals[0] == deals[1]
        counts[deals[0][1]] = counts.get(deals[0][1], 0) + 1
    assert len(counts) == 6
    assert all(abs(count / 1500 - 1 / 6) < 0.04 for count in counts.values())


def test_oracle_survives_contradictions_and_illegal_turns():
    env = make(KUHN, style="terse")
    env.horizon = 3
    # The queen was shown after a check, and after a bet: habits that no opponent has together.
    both = [Turn("check", "lose 1 queen deal jack", -1), Turn("check", "bet", 0), Turn("call", "lose 2 queen", -2)]
    assert env.oracle([Episode("deal jack", both), Episode("deal king")]) in ("check", "bet")
    passive = Episode("deal king", [Turn("check", "win 1 queen deal king", 1), Turn("check", "win 1 jack", 1)])
    now = Episode("deal king", [Turn("check", "bet", 0)])
    assert env.oracle([passive, now]) == "call"  # a bet of the jack or the queen, against what was seen before
    now = Episode("deal jack", [Turn("check", "bet", 0), Turn("junk", "lose 1 invalid deal king", -1, False)])
    assert env.oracle([passive, now]) in ("check", "bet")
    env.horizon = 0
    assert env.oracle([passive] * 5 + [now]) in ("check", "bet")


@pytest.mark.parametrize("kwargs", [{}, {"hands": 8}])
def test_contract(harness, kwargs):
    harness.check_contract(KUHN, lambda params: "\0", **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "field"), [({"hands": 0}, "hands=0"), ({"opponents": ["bluffs", "shark"]}, "'shark'")]
)
def test_bad_arguments(kwargs, field):
    with pytest.raises(ConfigError, match=field):
        make(KUHN, **kwargs)
