import random
import statistics
from functools import cache

import pytest

from metarlgym import ConfigError, Episode, Turn, make
from metarlgym.envs import bandit_optimum


def brute_force(arms, pulls, free):
    """Recursion over the ordered records of all arms."""

    @cache
    def value(records, done):
        if done == pulls:
            return 0.0
        options = []
        for arm, (s, f) in enumerate(records):
            p = (s + 1) / (s + f + 2)
            won = value((*records[:arm], (s + 1, f), *records[arm + 1 :]), done + 1)
            lost = value((*records[:arm], (s, f + 1), *records[arm + 1 :]), done + 1)
            options.append(p * (float(done >= free) + won) + (1 - p) * lost)
        return max(options)

    return value(((0, 0),) * arms, 0)


def exact_value_of_oracle(env, arms, pulls, free, invalid_first=False):
    """Expected weighted return of the oracle's play, over all sequences of luck, through its histories."""
    env.horizon, env.horizon_free = pulls, free

    def value(history, records, done):
        if done == pulls:
            return 0.0
        action = env.oracle([*history, Episode("")])
        arm = int(action.strip("[]")) - 1
        s, f = records[arm]
        p = (s + 1) / (s + f + 2)
        total = p * float(done >= free)
        for reward, prob, record in ((1.0, p, (s + 1, f)), (0.0, 1 - p, (s, f + 1))):
            after = [*history, Episode("", [Turn(action, "", reward)])]
            total += prob * value(after, [*records[:arm], record, *records[arm + 1 :]], done + 1)
        return total

    wasted = [Episode("", [Turn("no", "invalid", 0.0, False)])] if invalid_first else []
    return value(wasted, [(0, 0)] * arms, len(wasted))


@pytest.mark.parametrize(
    ("arms", "pulls", "total"),
    [
        (2, 5, 2.8889),
        (2, 10, 6.0218),
        (2, 20, 12.4313),
        (3, 10, 6.4096),
        (5, 10, 6.6600),
        (10, 10, 6.7140),
        (50, 10, 6.7140),
        (5, 15, 10.4315),
        (5, 20, 14.2873),
    ],
)
def test_published_optima(arms, pulls, total):
    optimum = make("Bandit-v0", arms=arms).optimal_returns(pulls)
    assert optimum.kind == "exact"
    assert optimum.total == pytest.approx(total, abs=5.1e-5)
    assert sum(optimum.curve) == pytest.approx(optimum.total)
    assert optimum.curve[0] == pytest.approx(0.5)


@pytest.mark.parametrize(("arms", "pulls"), [(2, 6), (3, 5), (4, 3)])
@pytest.mark.parametrize("free", [0, 1, 2])
def test_optimum_is_brute_force_and_oracle_reaches_it(arms, pulls, free):
    env = make("Bandit-v0", arms=arms, style="terse")
    optimum = env.optimal_returns(pulls, free)
    assert optimum.total == pytest.approx(brute_force(arms, pulls, free))
    assert sum(optimum.curve[free:]) == pytest.approx(optimum.total)
    assert exact_value_of_oracle(env, arms, pulls, free) == pytest.approx(optimum.total)


def test_oracle_after_a_lost_episode():
    env = make("Bandit-v0", arms=3)
    for free in (0, 1, 2):
        best = env.optimal_returns(4, max(0, free - 1)).total
        assert exact_value_of_oracle(env, 3, 5, free, invalid_first=True) == pytest.approx(best)


def test_oracle_in_trials(harness):
    trial = make("Bandit-v0", episodes=10, style="terse")
    totals = [harness.play(trial, trial.env.new_task(i), i)["return"] for i in range(2000)]
    se = statistics.stdev(totals) / len(totals) ** 0.5
    assert statistics.mean(totals) == pytest.approx(trial.optimal_returns().total, abs=4 * se)


def test_gittins_index_is_the_break_even_price():
    table = bandit_optimum.index_table(30)

    def worth(s, f, left, price):
        @cache
        def value(s, f, left):
            if left == 0:
                return 0.0
            p = (s + 1) / (s + f + 2)
            return max(0.0, p - price + p * value(s + 1, f, left - 1) + (1 - p) * value(s, f + 1, left - 1))

        return value(s, f, left)

    for s, f, left in [(0, 0, 1), (0, 0, 2), (0, 0, 30), (3, 1, 10), (1, 6, 20), (12, 0, 18)]:
        low, high = 0.0, 1.0
        for _ in range(40):
            price = (low + high) / 2
            low, high = (price, high) if worth(s, f, left, price) > 0 else (low, price)
        assert table[left, s, f] == pytest.approx(low, abs=1e-4)
    assert table[1, 4, 2] == pytest.approx(5 / 8, abs=1e-6)


def test_long_trials_are_simulated():
    """K = 5, n = 100: 78.69 in our own table, 78.7 for RL^2 and 78.3 for a Gittins approximation in RL^2's table 1."""
    optimum = make("Bandit-v0").optimal_returns(100)
    assert optimum.kind == "simulated"
    assert 0 < optimum.se < 0.03
    assert optimum.total == pytest.approx(78.69, abs=0.1)
    assert len(optimum.curve) == 100
    assert sum(optimum.curve) == pytest.approx(optimum.total)
    assert optimum.curve[0] == pytest.approx(0.5, abs=0.01)
    assert optimum is make("Bandit-v0").optimal_returns(100)


def test_index_play_is_nearly_optimal():
    """Its exact value for n = 10, through the multisets, and the simulation of it."""
    table = bandit_optimum.index_table(10)
    reached, total = {((0, 0),) * 5: 1.0}, 0.0
    for left in range(10, 0, -1):
        following = {}
        for records, prob in reached.items():
            s, f = max(records, key=lambda record: table[left][record])
            p = (s + 1) / (s + f + 2)
            total += prob * p
            rest = list(records)
            rest.remove((s, f))
            for record, share in (((s + 1, f), p), ((s, f + 1), 1 - p)):
                after = tuple(sorted([*rest, record]))
                following[after] = following.get(after, 0.0) + prob * share
        reached = following
    assert total == pytest.approx(bandit_optimum.solve(5, 10).value, abs=1e-6)
    simulated = bandit_optimum.simulate(5, 10)
    assert simulated.total == pytest.approx(total, abs=4 * simulated.se)


def test_beyond_the_tables_there_is_an_upper_bound():
    env = make("Bandit-v0")
    assert env.optimal_returns(500).kind == "upper_bound"
    assert env.optimal_returns(500).total == pytest.approx(0.5 + 499 * 5 / 6)
    assert env.optimal_returns(100, 50).total == pytest.approx(50 * 5 / 6)


def test_long_oracle_plays_well(harness):
    trial = make("Bandit-v0", episodes=60, style="terse")
    totals = [harness.play(trial, trial.env.new_task(i), i)["return"] for i in range(300)]
    se = statistics.stdev(totals) / len(totals) ** 0.5
    assert statistics.mean(totals) == pytest.approx(trial.optimal_returns().total, abs=4 * se)


def test_oracle_without_horizon_or_past_the_table():
    env = make("Bandit-v0", arms=3, style="terse")
    assert env.oracle([Episode("")]) == "1"
    lost = [Episode("", [Turn("1", "lose", 0.0)])]
    assert env.oracle([*lost, Episode("")]) == "2"
    env.horizon = 1000
    won = [Episode("", [Turn("3", "win", 1.0)]) for _ in range(700)]
    assert env.oracle([*won, Episode("")]) == "3"


def test_luck_is_a_tape(harness):
    """What an arm pays in an episode depends on the trial seed alone, not on the play."""
    trial = make("Bandit-v0", episodes=12, style="terse")
    for seed in range(5):
        task = trial.env.new_task(seed)
        tape = [harness.play(trial, task, seed, lambda t, arm=arm: str(arm + 1))["returns"] for arm in range(5)]
        rng = random.Random(seed)
        pulled = []

        def policy(t, rng=rng, pulled=pulled):
            pulled.append(t.random_action(rng))
            return pulled[-1]

        returns = harness.play(trial, task, seed, policy)["returns"]
        assert returns == [tape[int(arm) - 1][i] for i, arm in enumerate(pulled)]
        assert len({tuple(row) for row in tape}) > 1


def test_random_policy(harness):
    rng = random.Random(0)
    trial = make("Bandit-v0", episodes=10)
    curve = harness.mean_curve(trial, lambda t: t.random_action(rng), seeds=2000)
    assert sum(curve) == pytest.approx(5.0, abs=4 * 0.05)
    assert trial.no_memory_bound() == 5.0


def test_answers():
    for style, write in (("chat", "I pull [{}]."), ("terse", "{}")):
        env = make("Bandit-v0", arms=2, style=style)
        task = env.new_task(0)
        task.params["arms"] = [1.0, 0.0]
        for action, reward, valid in (("1", 1.0, True), ("2", 0.0, True), ("3", 0.0, False), ("0", 0.0, False)):
            env.reset(options={"task": task, "episode_seed": 0})
            step = env.step(write.format(action))
            assert (step.reward, step.info["valid"], step.terminated) == (reward, valid, True)
            assert step.info["success"] is (reward == 1.0)
            if style == "terse":
                assert step.observation == ("win" if reward else "lose" if valid else "invalid")


def test_contract(harness):
    harness.check_contract("Bandit-v0", lambda params: str(params["arms"][0])[:5])


@pytest.mark.parametrize("arms", [1, 0, 2.5, "5"])
def test_bad_arguments(arms):
    with pytest.raises(ConfigError, match=f"arms={arms!r}"):
        make("Bandit-v0", arms=arms)
