"""quick_check: one line before a run for an environment that breaks a contract, in bounded time."""

from __future__ import annotations

import random
import re
import time

import gymnasium
import numpy as np
import pytest
from broken_envs import BROKEN, KeepsScore, OwnNoise, Safe

from metarlgym import ConfigError, Step, TaskGroup, Trial, list_envs, register, registry
from metarlgym.contracts.quick_check import quick_check
from metarlgym.contracts.subject import global_state


@pytest.fixture
def group_of(monkeypatch):
    """Registers a class for the time of a test; returns its task group."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    before = dict(gymnasium.registry)

    def make(cls, env_id="Tried-v0", **args):
        register(env_id, cls)
        return TaskGroup(env_id, args)

    yield make
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


def check(group, **kwargs):
    """What quick_check says, or None."""
    problem = quick_check(group, lambda: Trial(group.make_env(), 3), **kwargs)
    assert problem is None or (isinstance(problem, ConfigError) and "\n" not in str(problem))
    return problem and str(problem)


@pytest.mark.parametrize("style", ["chat", "terse"])
@pytest.mark.parametrize("env_id", [spec.env_id for spec in list_envs() if spec.env_id != "Tried-v0"])
def test_the_groups_pass(env_id, style):
    assert check(TaskGroup(env_id, {"style": style})) is None


def test_it_is_quick():
    group = TaskGroup("Doors-v0")
    start = time.process_time()  # other processes do not count
    check(group)
    assert time.process_time() - start < 1.0


FOUND = {
    "NoText": "interface",
    "PlainTuple": "interface",
    "SuccessIsReward": "interface",
    "RewardOutOfRange": "rewards",
    "NanReward": "rewards",
    "NumpyParams": "interface",
    "KeepsScore": "second_reset",
    "OwnNoise": "second_reset",
    "IllegalRandomAction": "legal_actions",  # which does not list it
    "MoreWords": "styles",
    "ListsTooFew": "legal_actions",
    "ListsTooMany": "legal_actions",
    "ListsActionsTwice": "legal_actions",
    "ListsOneText": "legal_actions",
    "ListsAGenerator": "legal_actions",
}


@pytest.mark.parametrize("cls", [cls for _, cls in BROKEN if cls.__name__ in FOUND], ids=lambda cls: cls.__name__)
def test_broken_environments_are_named(group_of, cls):
    style = "terse" if cls.__name__ == "MoreWords" else "chat"
    problem = check(group_of(cls, style=style))
    assert problem.startswith(f"contract {FOUND[cls.__name__]!r} broken by Tried-v0: ")
    assert problem.endswith("`metarlgym check Tried-v0` says more.")
    assert not re.search(r"(?<!\.)\.\.(?!\.)", problem)


def test_all_of_them_are_among_the_broken():
    assert FOUND.keys() <= {cls.__name__ for _, cls in BROKEN}


def test_an_environment_that_breaks_sometimes_may_be_trained_on(group_of):
    class Fragile(Safe):
        def on_step(self, action):
            if "3" in action:
                raise OSError("no line")
            return super().on_step(action)

    class Broken(Safe):
        def on_step(self, action):
            raise OSError("no line")

    assert check(group_of(Fragile)) is None
    assert "every one of 6 random trials raised, the first OSError: no line" in check(group_of(Broken, "Again-v0"))


def test_an_environment_that_waits_need_not_repeat_itself(group_of):
    class Blocking(OwnNoise):
        blocking = True

    assert check(group_of(Blocking)) is None
    assert "'second_reset'" in check(group_of(KeepsScore, "Again-v0"))


@pytest.mark.parametrize("sleep", [0.1, 30])
def test_slow_environments_take_no_longer_than_the_limit(group_of, sleep):
    class Slow(Safe):
        def on_step(self, action):
            time.sleep(sleep)
            return super().on_step(action)

    group = group_of(Slow)
    start = time.monotonic()
    assert check(group, seconds=0.3, patience=0.3) is None
    assert time.monotonic() - start < 10  # one step takes 30 s; the rest is for loaded machines


def test_the_global_generators_are_left_alone(group_of):
    class Greedy(Safe):
        def on_step(self, action):
            random.random()
            np.random.random()
            return super().on_step(action)

    group = group_of(Greedy)
    before = global_state()
    check(group)
    assert global_state() == before


def test_a_run_is_refused_before_its_folder_is_made(group_of, tmp_path):
    from metarlgym.training.arguments import parse
    from metarlgym.training.run import run_training

    class Texts(Safe):
        def on_step(self, action):
            return Step("text", "1.0")

    group_of(Texts)
    settings = parse(["--env_id", "Tried-v0", "--max_steps", "1", "--output_dir", str(tmp_path / "run")])
    with pytest.raises(ConfigError, match=r"contract 'rewards' broken by Tried-v0: on_step returned reward='1\.0'"):
        run_training(settings)
    assert not (tmp_path / "run").exists()
