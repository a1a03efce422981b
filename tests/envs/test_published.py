"""The settings of papers, as ids."""

import random

import gymnasium
import pytest

from metarlgym import Task, make
from metarlgym.envs.published import SETTINGS
from metarlgym.registry import spec
from metarlgym.tasks import TaskGroup
from metarlgym.trial import TrialSettings


@pytest.mark.parametrize("env_id", SETTINGS)
def test_a_trial_has_the_settings_of_the_paper(env_id):
    trial = gymnasium.make(f"metarlgym/{env_id.replace('-v0', '-Trial-v0')}").unwrapped
    wanted = spec(env_id).trial
    assert {name: getattr(trial, name) for name in wanted} == wanted
    rng = random.Random(0)
    trial.reset(options={"task": trial.env.new_task(0), "episode_seed": 0})
    turns = 0
    while trial.live:
        trial.step(trial.random_action(rng))
        turns += 1
    assert turns <= wanted.get("max_total_turns", turns)


def test_an_optimal_player_of_mastermind_finds_every_code_by_the_second_episode(harness):
    """44, 120 and 120 of the 120 codes."""
    trial = make("Mastermind-ORBIT-v0", episodes=3, max_total_turns=None)
    assert trial.optimal_returns().curve == pytest.approx((44 / 120, 1.0, 1.0))
    assert harness.mean_curve(trial) == pytest.approx([44 / 120, 1.0, 1.0])


def test_a_budget_of_turns_buys_episodes():
    trial = make("Mastermind-ORBIT-v0", episodes=9)
    trial.reset(options={"task": Task(trial.env_id, {"code": "123"}), "episode_seed": 0})
    for _ in range(9):
        trial.step("[123]")
    assert not trial.live and trial.result()["returns"] == [1.0] * 9
    settings = TrialSettings(**spec("Mastermind-ORBIT-v0").trial)
    assert TaskGroup("Mastermind-ORBIT-v0").optimum(settings) is None
