"""Credit: every rule against numbers worked by hand, the identities between rules, and the traps.

The example of most tests is one group of three trials of two episodes, gamma .5:

    A  1 0        G (return-to-go)   A  1  0        (1 + .5 x 0, 0)
    B  0 1                           B .5  1        (0 + .5 x 1, 1)
    C  0 0                           C  0  0
"""

from __future__ import annotations

import math

import pytest
import torch

from metarlgym import ConfigError
from metarlgym.training import credit

NAN = math.nan
RETURNS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
ONE_GROUP = torch.zeros(3, dtype=torch.long)


def advantages(rule, returns=RETURNS, groups=ONE_GROUP, **kwargs):
    return credit.episode_advantages(rule, returns, groups, **kwargs)


def close(actual, expected, atol=1e-6):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), atol=atol, rtol=0)


def scaled(values):
    """Divided by their root mean square."""
    values = torch.tensor(values)
    return values / values.square().mean().sqrt()


# ---------------------------------------------------------------------- the rules, by hand


def test_return_to_go():
    # Episode 1: A 1 - (.5 + 0)/2 = .75, B .5 - (1 + 0)/2 = 0, C 0 - (1 + .5)/2 = -.75.
    # Episode 2: A 0 - (1 + 0)/2 = -.5, B 1 - 0 = 1, C 0 - (0 + 1)/2 = -.5.
    # Mean square (.5625 x 2 + .25 + 1 + .25) / 6 = .4375.
    root = math.sqrt(0.4375)
    expected = [[0.75 / root, -0.5 / root], [0.0, 1 / root], [-0.75 / root, -0.5 / root]]
    close(advantages("return_to_go", gamma=0.5), expected)


def test_trial_rloo():
    # Totals 1 1 0: A 1 - .5 = .5, B .5, C 0 - 1 = -1. Mean square (.25 + .25 + 1)/3 = .5. gamma plays no part.
    root = math.sqrt(0.5)
    expected = [[0.5 / root] * 2, [0.5 / root] * 2, [-1 / root] * 2]
    close(advantages("trial_rloo", gamma=0.5), expected)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        # Totals 1 1 0 | 4 0 2. Means 2/3 and 2; variances (1/9 + 1/9 + 4/9)/2 = 1/3 and (4 + 4 + 0)/2 = 4.
        ("none", [1 / 3, 1 / 3, -2 / 3, 2, -2, 0]),
        ("group", [1 / 3 / 0.57745, 1 / 3 / 0.57745, -2 / 3 / 0.57745, 2 / 2.0001, -2 / 2.0001, 0]),
        # All totals: mean 8/6 = 4/3, variance (1/9 + 1/9 + 16/9 + 64/9 + 16/9 + 4/9)/5 = 102/45, root 1.505545.
        ("batch", [1 / 3 / 1.505645, 1 / 3 / 1.505645, -2 / 3 / 1.505645, 2 / 1.505645, -2 / 1.505645, 0]),
    ],
)
def test_trial(scale, expected):
    returns = torch.cat([RETURNS, torch.tensor([[4.0, 0.0], [0.0, 0.0], [1.0, 1.0]])])
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    close(advantages("trial", returns, groups, scale_rewards=scale), [[a, a] for a in expected], atol=1e-5)


def test_trial_wants_groups_in_order():
    with pytest.raises(ConfigError, match="one after the other"):
        advantages("trial", torch.zeros(4, 1), torch.tensor([0, 1, 0, 1]))


def test_return_to_go_zscore():
    # Episode 1: G 1 .5 0, mean .5, std .5: 1 0 -1. Episode 2: G 0 1 0, mean 1/3, std .57735: -.57735 1.1547 -.57735.
    # Mean square (2 + 1/3 + 4/3 + 1/3)/6 = 2/3, root .81650. The eps under each std moves it by 1e-4.
    expected = [[1.22474, -0.70711], [0.0, 1.41421], [-1.22474, -0.70711]]
    close(advantages("return_to_go_zscore", gamma=0.5), expected, atol=2e-4)


def test_final_episode():
    # Last returns 0 1 0: A 0 - .5 = -.5, B 1 - 0 = 1, C -.5. Mean square .5.
    root = math.sqrt(0.5)
    close(advantages("final_episode"), [[-0.5 / root] * 2, [1 / root] * 2, [-0.5 / root] * 2])


def test_differential():
    # Changes: A 1 -1, B 0 1, C 0 0. To go at gamma .5: A .5 -1, B .5 1, C 0 0.
    # Episode 1: A .5 - .25 = .25, B .25, C 0 - .5 = -.5. Episode 2: A -1 - .5 = -1.5, B 1 + .5 = 1.5, C 0.
    # Mean square (.0625 + .0625 + .25 + 2.25 + 2.25)/6 = .8125.
    root = math.sqrt(0.8125)
    expected = [[0.25 / root, -1.5 / root], [0.25 / root, 1.5 / root], [-0.5 / root, 0.0]]
    close(advantages("differential", gamma=0.5), expected)


def test_gigpo():
    # One episode of two turns; A earns 0 1, B earns 0 0; gamma_step .5. To go: A .5 1, B 0 0.
    # Episode term: less the other's start. A .5 - 0, 1 - 0; B 0 - .5, 0 - .5.
    # Anchor term: turn 1 is the same observation: A .5 - 0 = .5, B 0 - .5 = -.5; the second turns are alone: 0.
    # Sum: A 1 1, B -1 -.5. Mean square (1 + 1 + 1 + .25)/4 = .8125.
    root = math.sqrt(0.8125)
    rewards = torch.tensor([[[0.0, 1.0]], [[0.0, 0.0]]])
    anchors = torch.tensor([[[7, 8]], [[7, 9]]])
    actual = credit.turn_advantages(
        rewards, torch.zeros(2, dtype=torch.long), torch.tensor([True, True]), torch.ones(1), 1.0, 0.5, anchors
    )
    close(actual, [[[1 / root, 1 / root]], [[-1 / root, -0.5 / root]]])


def test_gigpo_anchors_count_only_other_trials_of_the_same_group():
    # Trial A meets anchor 7 twice, B (same group) once, C (another group) once. gamma_step 0: G = r.
    rewards = torch.tensor([[[4.0, 2.0]], [[1.0, NAN]], [[9.0, NAN]]])
    anchors = torch.tensor([[[7, 7]], [[7, -1]], [[7, -1]]])
    groups = torch.tensor([0, 0, 1])
    cells = ~torch.isnan(rewards)
    actual = credit._anchor_advantages(rewards, groups, cells, anchors)
    # A: 4 - 1 and 2 - 1 (its own other visit is left out); B: 1 - (4 + 2)/2; C: nobody of its group.
    close(actual, [[[3.0, 1.0]], [[-2.0, 0.0]], [[0.0, 0.0]]])


def test_every_rule_is_tested_here():
    tested = {name[5:] for name in globals() if name.startswith("test_")}
    assert set(credit.RULES) <= tested


def test_unknown_rule_names_the_known_ones():
    with pytest.raises(ConfigError, match="return_to_go"):
        advantages("mc")


# ---------------------------------------------------------------------- sums, discounts, weights


def test_return_to_go_sums():
    # gamma .5: 4 + .5 x 2 + .25 x 1 = 5.25, 2 + .5 = 2.5, 1.
    close(credit.return_to_go(torch.tensor([[4.0, 2.0, 1.0]]), 0.5, torch.ones(3)), [[5.25, 2.5, 1.0]])
    close(credit.return_to_go(torch.tensor([[4.0, 2.0, 1.0]]), 1.0, torch.ones(3)), [[7.0, 3.0, 1.0]])
    close(credit.return_to_go(torch.tensor([[4.0, 2.0, 1.0]]), 0.0, torch.ones(3)), [[4.0, 2.0, 1.0]])


def test_free_shots_weigh_nothing_but_are_credited_with_what_follows():
    # w = 0 1. A: w G = 0 + 1 x 0 = 0 in both; B: 0 + 1 = 1 in episode 1, 1 in episode 2.
    weights = torch.tensor([0.0, 1.0])
    close(credit.return_to_go(RETURNS, 1.0, weights), [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    actual = advantages("return_to_go", weights=weights)
    close(actual, scaled([[-0.5, -0.5], [1.0, 1.0], [-0.5, -0.5]]))


@pytest.mark.parametrize("rule", [r for r in credit.RULES if r != "gigpo"])
def test_the_return_of_a_free_shot_never_matters(rule):
    generator = torch.Generator().manual_seed(1)
    returns = torch.rand(8, 3, generator=generator)
    changed = returns.clone()
    changed[:, 0] = torch.rand(8, generator=generator)
    groups, weights = torch.arange(8) // 4, torch.tensor([0.0, 1.0, 1.0])
    before = advantages(rule, returns, groups, weights=weights, gamma=0.9)
    close(advantages(rule, changed, groups, weights=weights, gamma=0.9), before)


def test_turn_returns_to_go_discount_later_episodes_once():
    # Episode 2: 3. Episode 1, turn 2: 2 + .5 x 3 = 3.5; turn 1: 1 + .1 x 2 + .5 x 3 = 2.7, not 1 + .1 x 3.5.
    rewards = torch.tensor([[[1.0, 2.0], [3.0, NAN]]])
    actual = credit.turn_returns_to_go(rewards, torch.ones(2), gamma=0.5, gamma_step=0.1)
    close(actual[0, 0], [2.7, 3.5])
    close(actual[0, 1, :1], [3.0])
    assert torch.isnan(actual[0, 1, 1])


def test_turn_returns_to_go_skip_the_weight_of_free_shots():
    rewards = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    actual = credit.turn_returns_to_go(rewards, torch.tensor([0.0, 1.0]), gamma=1.0, gamma_step=1.0)
    close(actual, [[[7.0, 7.0], [7.0, 4.0]]])


def test_turn_advantages_use_the_start_of_the_episode_as_baseline():
    # A takes two turns (0 1), B one (0). gamma_step 1: G of A 1 1, of B 0. A: less 0; B: less 1.
    rewards = torch.tensor([[[0.0, 1.0]], [[0.0, NAN]]])
    actual = credit.turn_advantages(
        rewards, torch.zeros(2, dtype=torch.long), torch.tensor([True, True]), torch.ones(1), 1.0, 1.0
    )
    close(actual, [[[1.0, 1.0]], [[-1.0, 0.0]]])  # three turns were taken, mean square 1


def test_turn_credit_of_one_turn_episodes_is_return_to_go():
    returns = torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    groups, alive, weights = torch.arange(8) // 4, torch.ones(8, dtype=torch.bool), torch.ones(3)
    by_turn = credit.turn_advantages(returns[:, :, None], groups, alive, weights, 0.7, 0.3)
    close(by_turn[:, :, 0], advantages("return_to_go", returns, groups, gamma=0.7))


# ---------------------------------------------------------------------- identities


def test_leaving_one_out_is_centring_times_g_over_g_minus_1():
    values = torch.rand(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    groups, alive = torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.bool)
    left_out = values - credit.leave_one_out(values, groups, alive)
    close(left_out, 4 / 3 * (values - values.mean(0)), atol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.6, 1.0])
def test_differential_is_mages_identity(gamma):
    # sum_{m>=n} g^(m-n) (R_m - R_{m-1}) = -R_{n-1} + (1-g) sum_{m=n}^{N-1} g^(m-n) R_m + g^(N-n) R_N, with R_{-1} = 0.
    returns = torch.rand(1, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    last = 4
    expected = torch.zeros(5, dtype=torch.float64)
    for n in range(5):
        expected[n] = -returns[0, n - 1] if n else 0.0
        for m in range(n, last):
            expected[n] += (1 - gamma) * gamma ** (m - n) * returns[0, m]
        expected[n] += gamma ** (last - n) * returns[0, last]
    # Against a trial without any return the advantage is the sum itself, up to the one scale.
    both = torch.cat([returns, torch.zeros_like(returns)])
    actual = advantages("differential", both, torch.zeros(2, dtype=torch.long), gamma=gamma)
    close(actual[0], expected / expected.square().mean().sqrt(), atol=1e-12)


def test_with_one_episode_all_centered_rules_agree():
    returns = torch.rand(8, 1, generator=torch.Generator().manual_seed(0))
    groups = torch.arange(8) // 4
    first = advantages("return_to_go", returns, groups)
    for rule in ("trial_rloo", "final_episode", "differential"):
        close(advantages(rule, returns, groups), first)
    unscaled = advantages("trial", returns, groups, scale_rewards="none")
    close(unscaled / unscaled.square().mean().sqrt(), first)


@pytest.mark.parametrize("rule", [r for r in credit.RULES if r not in ("gigpo", "trial")])
def test_one_scale_for_the_whole_batch(rule):
    returns = torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    groups = torch.arange(8) // 4
    actual = advantages(rule, returns, groups)
    assert float(actual.square().mean()) == pytest.approx(1.0, abs=1e-5)
    close(advantages(rule, 7 * returns, groups), actual, atol=1e-3)  # z-scores have an eps
