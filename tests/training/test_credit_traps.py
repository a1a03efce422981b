"""The traps of credit: episodes that never happened, dead trials, groups too small, no signal. And painting."""

from __future__ import annotations

import math

import pytest
import torch

from metarlgym.training import credit

NAN = math.nan
GROUP_OF_4 = torch.zeros(4, dtype=torch.long)
EPISODE_RULES = [rule for rule in credit.RULES if rule != "gigpo"]


def close(actual, expected, atol=1e-6):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), atol=atol, rtol=0)


# ---------------------------------------------------------------------- episodes that never happened

# Two trials go on and earn 1 in episode 2, two end after episode 1.
STOPPED = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, NAN], [0.0, NAN]])


def test_a_baseline_over_survivors_would_be_blind():
    ours = credit.episode_advantages("return_to_go", STOPPED, GROUP_OF_4)
    survivors = STOPPED[:2, 1]
    naive = survivors - survivors.flip(0)  # each less the mean of the other survivors
    close(naive, [0.0, 0.0])  # going on looks worth nothing
    # Ours: 1 - (1 + 0 + 0)/3 = 2/3 for those who went on, in both episodes; 0 - 2/3 for the first of those who stopped.
    # Mean square over the six cells that happened: (4 + 2) x 4/9 / 6 = 4/9.
    close(ours, [[1.0, 1.0], [1.0, 1.0], [-1.0, 0.0], [-1.0, 0.0]])


@pytest.mark.parametrize("rule", [r for r in EPISODE_RULES if r != "differential"])
def test_an_episode_that_never_happened_is_one_of_return_0(rule):
    # `differential` counts a change of 0 there instead: a success that ends the trial is no fall.
    zeros = credit.episode_advantages(rule, torch.nan_to_num(STOPPED), GROUP_OF_4)
    ours = credit.episode_advantages(rule, STOPPED, GROUP_OF_4)
    happened = ~torch.isnan(STOPPED)
    ratio = zeros[happened] / ours[happened]
    close(ratio, torch.full_like(ratio, float(ratio[0])))  # equal up to the one scale, which skips empty cells
    assert not ours[~happened].any()


def test_an_early_success_is_no_fall_for_differential():
    # Both win in their only episode; the changes are 1 and 0, whatever happens or not afterwards.
    returns = torch.tensor([[1.0, NAN], [1.0, 1.0]])
    assert not credit.episode_advantages("differential", returns, torch.zeros(2, dtype=torch.long)).any()


def test_turns_that_were_not_taken_get_nothing():
    rewards = torch.tensor([[[0.0, 1.0], [1.0, NAN]], [[1.0, NAN], [NAN, NAN]]])
    alive, groups = torch.tensor([True, True]), torch.zeros(2, dtype=torch.long)
    actual = credit.turn_advantages(rewards, groups, alive, torch.ones(2), 1.0, 1.0)
    # Starts: A 2 and 1, B 1 and 0 (never happened). A: 2-1, 2-1 | 1-0; B: 1-2. Mean square 1.
    close(actual, [[[1.0, 1.0], [1.0, 0.0]], [[-1.0, 0.0], [0.0, 0.0]]])


# ---------------------------------------------------------------------- dead trials


@pytest.mark.parametrize("rule", EPISODE_RULES)
def test_a_dead_trial_gets_0_and_leaves_the_baseline(rule):
    returns = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [9.0, 9.0]])
    alive = torch.tensor([True, True, True, False])
    actual = credit.episode_advantages(rule, returns, GROUP_OF_4, alive=alive, gamma=0.5)
    without = credit.episode_advantages(rule, returns[:3], GROUP_OF_4[:3], gamma=0.5)
    close(actual[:3], without)
    assert not actual[3].any()


def test_a_dead_trial_leaves_turn_baselines_and_anchors():
    rewards = torch.tensor([[[0.0, 1.0]], [[0.0, 0.0]], [[9.0, 9.0]]])
    anchors = torch.tensor([[[7, 8]], [[7, 8]], [[7, 8]]])
    arguments = (torch.ones(1), 1.0, 0.5)
    groups = torch.zeros(3, dtype=torch.long)
    actual = credit.turn_advantages(rewards, groups, torch.tensor([True, True, False]), *arguments, anchors)
    without = credit.turn_advantages(rewards[:2], groups[:2], torch.tensor([True, True]), *arguments, anchors[:2])
    close(actual[:2], without)
    assert not actual[2].any()


# ---------------------------------------------------------------------- baselines where the group cannot give one


def test_alone_in_its_group_a_trial_is_compared_with_the_other_tasks():
    values = torch.tensor([3.0, 1.0, 2.0])
    groups, alive = torch.tensor([0, 1, 1]), torch.ones(3, dtype=torch.bool)
    close(credit.leave_one_out(values, groups, alive), [1.5, 2.0, 1.0])


def test_the_last_alive_of_its_group_is_compared_with_the_other_tasks():
    values = torch.tensor([3.0, 100.0, 1.0, 2.0])
    groups, alive = torch.tensor([0, 0, 1, 1]), torch.tensor([True, False, True, True])
    close(credit.leave_one_out(values, groups, alive)[0], 1.5)


def test_alone_in_the_batch_the_baseline_is_0():
    values = torch.tensor([3.0, 100.0])
    groups, alive = torch.tensor([0, 1]), torch.tensor([True, False])
    close(credit.leave_one_out(values, groups, alive)[0], 0.0)


@pytest.mark.parametrize("rule", EPISODE_RULES)
@pytest.mark.parametrize("alive", [True, False])
def test_without_signal_advantages_are_0_and_not_nan(rule, alive):
    returns = torch.full((4, 3), 0.5)
    actual = credit.episode_advantages(rule, returns, GROUP_OF_4, alive=torch.full((4,), alive))
    close(actual, torch.zeros(4, 3))


# ---------------------------------------------------------------------- painting


def test_paint_episodes_onto_tokens():
    # Row 0: action of episode 0, two environment tokens, a two-token action of episode 1. Row 1 is shorter.
    painted = credit.paint(
        torch.tensor([[10.0, 20.0], [30.0, 40.0]]),
        episodes=[[0, 1, 1, 1, 1], [0, 1]],
        turns=[[0, 0, 0, 0, 0], [0, 0]],
        masks=[[1, 0, 0, 1, 1], [1, 0]],
        length=6,
    )
    close(painted, [[10.0, 0.0, 0.0, 20.0, 20.0, 0.0], [30.0, 0.0, 0.0, 0.0, 0.0, 0.0]])


def test_paint_turns_onto_tokens():
    values = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])  # (row, episode, turn)
    painted = credit.paint(values, [[0, 0, 0, 1, 1, 1]], [[0, 1, 1, 0, 0, 1]], [[1, 0, 1, 0, 1, 1]], 6)
    close(painted, [[1.0, 0.0, 2.0, 0.0, 3.0, 4.0]])


def test_paint_knows_the_env_tokens_of_a_turn_nobody_took():
    # The observation after the last turn carries the next turn's index, which the advantages do not have.
    values = torch.tensor([[[1.0, 2.0]]])
    close(credit.paint(values, [[0, 0, 0]], [[0, 1, 2]], [[1, 1, 0]], 3), [[1.0, 2.0, 0.0]])


def test_paint_rows_of_nothing_but_environment():
    close(credit.paint(torch.tensor([[5.0, 6.0]]), [[1]], [[0]], [[0]], 2), [[0.0, 0.0]])
