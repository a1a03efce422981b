import random
from functools import cache

import pytest

from metarlgym import ConfigError, Episode, Task, Turn, make
from metarlgym.envs import blackjack_solver

CARDS = [(card, (4 if card == 10 else 1) / 13) for card in range(1, 11)]
TASKS = [(stand, tie) for stand in range(15, 20) for tie in (1, -1, 0)]


def count(cards):
    """As gymnasium counts a hand: (total, whether an ace counts 11)."""
    soft = 1 in cards and sum(cards) + 10 <= 21
    return sum(cards) + 10 * soft, soft


def brute_force(hands, episodes, free, turns=None):
    """Best expected sum of the counted hands. Beliefs are sets of tasks, and a hand is known by its sum and its ace."""

    @cache
    def dealt(small, ace, stands):
        """{(standing totals that stop here, total): chance}: a dealer's hand as all `stands` would play it."""
        total = small + 10 if ace and small + 10 <= 21 else small
        stops = frozenset(stand for stand in stands if total >= stand)
        ends = {(stops, min(total, 22)): 1.0} if stops else {}
        if rest := stands - stops:
            for card, chance in CARDS:
                for end, likely in dealt(small + card, ace or card == 1, rest).items():
                    ends[end] = ends.get(end, 0.0) + chance * likely
        return ends

    @cache
    def start(done, left, tasks):
        """A new hand with `left` turns: `done` hands are over in all."""
        if done % hands == 0:
            left = turns
        if done == hands * episodes:
            return 0.0
        total = 0.0
        for one, a in CARDS:
            for other, b in CARDS:
                for first, c in CARDS:
                    hand = one + other, 1 in (one, other)
                    total += a * b * c * inside(done, left, tasks, first, *hand)
        return total

    @cache
    def inside(done, left, tasks, first, small, ace):
        weight = done // hands >= free
        if left == 0:
            missing = hands - done % hands
            return -weight * missing + start(done + missing, None, tasks)
        left = None if left is None else left - 1
        hit = 0.0
        for card, chance in CARDS:
            if small + card > 21:
                hit += chance * (-weight + next_hand(done, left, tasks))
            else:
                hit += chance * inside(done, left, tasks, first, small + card, ace or card == 1)
        return max(hit, stand(done, left, tasks, first, small + 10 * (ace and small + 10 <= 21)))

    def next_hand(done, left, tasks):
        if left == 0 and (done + 1) % hands:
            missing = hands - (done + 1) % hands
            return -(done // hands >= free) * missing + start(done + 1 + missing, None, tasks)
        return start(done + 1, left, tasks)

    @cache
    def stand(done, left, tasks, first, total):
        weight = done // hands >= free
        stands = frozenset(stand for stand, _ in tasks)
        value = 0.0
        for (stops, final), chance in dealt(first, first == 1, stands).items():
            seen = {}
            for task in tasks:
                if task[0] in stops:
                    result = task[1] if final == total else 1 if final > 21 or total > final else -1
                    seen.setdefault((result, final == total), []).append(task)
            for (result, _), cell in seen.items():
                share = chance * len(cell) / len(tasks)
                value += share * (weight * result + next_hand(done, left, tuple(cell)))
        return value

    return start(0, turns, tuple(TASKS))


@pytest.mark.parametrize(
    ("hands", "episodes", "free", "turns"),
    [(1, 1, 0, None), (1, 2, 1, None), (2, 1, 0, 3)],
)
def test_optimum_is_brute_force(hands, episodes, free, turns):
    optimum = make("Blackjack-v0", hands=hands, turns=turns).optimal_returns(episodes, free)
    assert optimum.kind == "exact"
    assert optimum.total == pytest.approx(brute_force(hands, episodes, free, turns), abs=1e-9)
    assert sum(optimum.curve[free:]) == pytest.approx(optimum.total)


def test_default_is_exact_and_pays_to_remember():
    env = make("Blackjack-v0")
    optimum = env.optimal_returns(3)
    assert optimum.kind == "exact"
    assert optimum.curve == pytest.approx((-0.0087028917, 0.0667380205, 0.0825010390))
    assert env.no_memory_bound(3) < optimum.total < 3 * blackjack_solver.bound(5, None)


def test_free_shots_pay_for_watching():
    env = make("Blackjack-v0", hands=2)
    free, all_count = env.optimal_returns(2, 1), env.optimal_returns(2)
    assert free.total > all_count.curve[1]
    assert free.curve[0] < all_count.curve[0]


def test_a_long_trial_has_a_bound(harness, monkeypatch):
    monkeypatch.setattr(blackjack_solver, "WORK_LIMIT", 8)
    blackjack_solver.plan.cache_clear()
    trial = make("Blackjack-v0", episodes=4, hands=2)
    optimum = trial.optimal_returns()
    assert optimum.kind == "upper_bound"
    assert optimum.total == pytest.approx(8 * blackjack_solver.bound(1, None))
    assert make("Blackjack-v0", hands=5, turns=50).optimal_returns(1).kind == "none"
    assert len(harness.mean_curve(trial, seeds=5)) == 4
    assert len(harness.mean_curve(make("Blackjack-v0", episodes=2, hands=9), seeds=5)) == 2
    blackjack_solver.plan.cache_clear()


@pytest.mark.parametrize(("style", "turns"), [("chat", None), ("terse", None), ("chat", 3)])
def test_oracle_reaches_the_optimum(harness, style, turns):
    trial = make("Blackjack-v0", hands=2, turns=turns, episodes=3, style=style)
    runs = [harness.play(trial, trial.env.new_task(i), i)["returns"] for i in range(300)]
    totals = list(map(sum, runs))
    mean = sum(totals) / len(totals)
    error = (sum((total - mean) ** 2 for total in totals) / len(totals) ** 2) ** 0.5
    assert mean == pytest.approx(trial.optimal_returns().total, abs=4 * error)


def test_counting():
    for cards in [(1, 1), (1, 10), (10, 10, 1), (5, 5, 1), (1, 5, 10), (1, 1, 9, 10), (2, 3)]:
        assert blackjack_solver.count(cards) == count(cards)
    rng = random.Random(0)
    for _ in range(200):
        cards = [rng.randint(1, 10) for _ in range(rng.randint(2, 5))]
        if sum(cards) <= 21:
            assert blackjack_solver.count(cards) == count(cards)


def test_what_a_dealer_shows():
    learn, everything = blackjack_solver.learn, blackjack_solver.EVERYTHING
    seen = learn(everything, (10, 6, 2), None)
    assert blackjack_solver.RANGES[seen[0]] == (17, 18)
    assert blackjack_solver.RANGES[learn(seen, (1, 6, 10, 9), None)[0]] == (18, 18)
    assert learn(seen, (10, 6), None) is None
    tied = learn(everything, (10, 10), 1)
    assert tied[1] == 1
    assert learn(tied, (10, 10), 0) is None


def cards(env, player, dealer):
    env._cards, env._dealer = list(player), list(dealer)


def test_texts():
    task = Task("Blackjack-v0", {"stand": 17, "tie": "loses"})
    env = make("Blackjack-v0", hands=6)
    env.reset(options={"task": task, "episode_seed": 0})
    cards(env, (10, 8), (9, 9))
    step = env.step("I will [stand]")
    assert step.observation.startswith(
        "You stand at 18. The dealer holds 9 and 9: total 18, a tie. A tie loses: -1 point. Hand 2 of 6: you hold "
    )
    assert step.reward == -1.0
    cards(env, (1, 6), (10, 7))
    step = env.step("[fold]")
    assert step.observation == (
        'That is no move: the turn is lost. Reply "[hit]" or "[stand]". Hand 2 of 6: you hold ace and 6, total 17, '
        "with an ace as 11. The dealer shows 10. [hit] or [stand]?"
    )
    assert (step.reward, step.info["valid"]) == (0.0, False)
    cards(env, (10, 9), (10, 7))
    assert "The dealer holds 10 and 7: total 17. You win: 1 point. Hand 3 of 6" in env.step("[stand]").observation
    cards(env, (10, 6), (10, 7))
    assert "The dealer holds 10 and 7: total 17. You lose: -1 point." in env.step("[stand]").observation
    cards(env, (10, 10, 1), (10, 7))
    step = env.step("[hit]")
    assert "above 21. You lose: -1 point. Hand 5 of 6" in step.observation
    assert "dealer holds" not in step.observation
    terse = make("Blackjack-v0", hands=2, style="terse")
    terse.reset(options={"task": task, "episode_seed": 0})
    cards(terse, (10, 8), (9, 9))
    assert terse.step("stand").observation.startswith("9 9 tie loses ")
    cards(terse, (10, 8), (1, 6))
    step = terse.step("stand")
    assert (step.observation, step.terminated, step.info["success"]) == ("ace 6 win", True, False)


def test_hands_left_at_the_end_of_the_turns_are_lost(harness):
    trial = make("Blackjack-v0", hands=3, turns=4, episodes=1)
    assert trial.env.reward_range == (-3.0, 1.0)
    result = harness.play(trial, trial.env.new_task(0), policy=lambda t: "no")
    assert result["returns"] == [-3.0]
    assert trial.history[0].turns[-1].observation.endswith("No turn is left. Unfinished hands: -3 points.")
    # Stalling is worth less than any way to play.
    stalled = make("Blackjack-v0", hands=2, episodes=1)
    assert harness.play(stalled, stalled.env.new_task(0), policy=lambda t: "no")["returns"] == [-2.0]


def test_success_is_a_return_above_zero(harness):
    trial = make("Blackjack-v0", hands=3, episodes=1)
    for number in range(30):
        result = harness.play(trial, trial.env.new_task(number), number)
        assert result["success"] is (result["returns"][0] > 0)


def test_no_hand_is_longer_than_its_turns():
    env = make("Blackjack-v0", hands=1)
    env.reset(seed=0)
    cards(env, (1, 1), (2, 2))
    env._card = lambda: 1
    for _ in range(19):
        assert env.step("[hit]").reward == 0.0
    assert blackjack_solver.count(env._cards) == (21, False)
    assert env.step("[hit]").reward == -1.0


def test_oracle_survives_contradictions_and_illegal_turns():
    """Under the control `shuffled` it sees another task's episodes."""
    env = make("Blackjack-v0", hands=2, style="terse")
    env.horizon = 3
    early = [Turn("stand", "10 5 win h12 d2", 1.0), Turn("x", "invalid h12 d2", 0.0, False)]
    late = [Turn("stand", "10 8 10 win h19 d10", 1.0)]
    assert env.oracle([Episode("h10 d2", early), Episode("h14 d10", late)]) == "stand"
    assert env.oracle([Episode("h10 d2", early), Episode("h10 d10", late + early)]) in ("hit", "stand")
    assert env.oracle([Episode("h10 d2", early), Episode("h8 dace")]) == "hit"


def test_random_policy(harness):
    rng = random.Random(0)
    trial = make("Blackjack-v0", episodes=1)
    curve = harness.mean_curve(trial, lambda t: t.random_action(rng), seeds=300)
    assert -2.4 < curve[0] < -1.3


@pytest.mark.parametrize("kwargs", [{}, {"hands": 1, "turns": 4}])
def test_contract(harness, kwargs):
    harness.check_contract("Blackjack-v0", lambda params: str(params), **kwargs)
    assert len(make("Blackjack-v0").all_tasks()) == 15


@pytest.mark.parametrize(
    ("kwargs", "field"), [({"hands": 0}, "hands=0"), ({"turns": 0}, "turns=0"), ({"hands": 1.5}, "hands=1.5")]
)
def test_bad_arguments(kwargs, field):
    with pytest.raises(ConfigError, match=field):
        make("Blackjack-v0", **kwargs)
