"""What every task group is tested on, and how a trial is played in these tests."""

import copy
import pickle
import random
from types import SimpleNamespace

import pytest

import metarlgym
from metarlgym import Task


def play(trial, task, seed=0, policy=None):
    """Play a trial with a policy of (trial) -> action, by default the oracle; returns its `result()`."""
    trial.reset(options={"task": task, "episode_seed": seed})
    while trial.live:
        trial.step(trial.oracle(trial.history) if policy is None else policy(trial))
    return trial.result()


def mean_curve(trial, policy=None, seeds=None):
    """Mean return of each episode: over all tasks, or over `seeds` drawn tasks."""
    if seeds is None:
        tasks = [Task(trial.env_id, params) for params in trial.all_tasks()]
        runs = [play(trial, task, 0, policy)["returns"] for task in tasks]
    else:
        runs = [play(trial, trial.env.new_task(i), i, policy)["returns"] for i in range(seeds)]
    return [sum(column) / len(runs) for column in zip(*runs)]


def check_contract(env_id, secret, **kwargs):
    """Both styles: repeatable, copyable, silent about the secret, no global randomness, invalid actions never pay.

    `secret` is a function of (params) -> a text that must not be told before the end.
    """
    for style in ("chat", "terse"):
        trial = metarlgym.make(env_id, episodes=4, style=style, **kwargs)
        state = random.getstate()
        for number in range(3):
            task = trial.env.new_task("contract", number)
            assert task == trial.env.new_task("contract", number)
            logs = []
            for player in (
                trial,
                trial,
                copy.deepcopy(trial),
                metarlgym.make(env_id, episodes=4, style=style, **kwargs),
            ):
                rng = random.Random(number)
                paid = False
                log = [player.reset(options={"task": task, "episode_seed": number})]
                for turn in range(10**6):
                    if not player.live:
                        break
                    if turn == 2:
                        player = pickle.loads(pickle.dumps(player))
                    bad = turn % 5 == 4
                    action = "no such action" if bad else player.random_action(rng)
                    step = player.step(action)
                    assert step.info["valid"] is not bad
                    assert isinstance(step.info["success"], bool)
                    assert not (bad and step.reward > 0), "an invalid action paid"
                    paid = paid or step.reward > 0
                    if not paid:
                        assert secret(task.params) not in step.observation
                        assert secret(task.params) not in repr(step.info)
                    log.append(step)
                logs.append((log, player.result()))
            assert all(log == logs[0] for log in logs), "a second reset, a copy or a fresh environment differs"
        assert random.getstate() == state
        assert trial.env.rules()
        if style == "terse" and trial.env.action_words:
            words = {len(trial.env.random_action(random.Random(i)).split()) for i in range(20)}
            assert words == {trial.env.action_words}


@pytest.fixture(scope="session")
def harness():
    return SimpleNamespace(play=play, mean_curve=mean_curve, check_contract=check_contract)
