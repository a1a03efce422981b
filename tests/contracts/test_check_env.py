"""check_env: the registry keeps every contract, and each contract catches an environment that breaks it."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
from broken_envs import BROKEN, OpensWithSecret, Safe

from metarlgym import Trial, check_env, list_envs, make
from metarlgym.contracts.check_env import CONTRACTS, ContractError, run_checks
from metarlgym.contracts.leaks import revealed


@pytest.mark.parametrize("env_id", [spec.env_id for spec in list_envs()])
def test_registry_keeps_the_contracts(env_id):
    check_env(env_id)


def test_good_environment_passes_as_class_instance_and_factory():
    assert [problem for _, problem in run_checks(Safe) if problem] == []
    check_env(Safe(style="terse"))
    check_env(lambda: Safe())


def test_class_of_a_function_passes():
    """Neither pickle nor another process finds such a class; those contracts are passed over."""

    class Local(Safe):
        pass

    check_env(Local)


@pytest.mark.parametrize("kwargs", [{}, {"max_total_turns": 5}, {"stop_on_success": True, "free_shots": 2}])
def test_trials_keep_the_contracts(kwargs):
    check_env(Trial(Safe(), 3, **kwargs))
    check_env(make("Doors-v0", episodes=3, **kwargs))


@pytest.mark.parametrize(("contract", "cls"), BROKEN, ids=[f"{name}-{cls.__name__}" for name, cls in BROKEN])
def test_each_contract_is_enforced(contract, cls):
    with pytest.raises(ContractError) as caught:
        check_env(cls)
    message = str(caught.value)
    assert message.startswith(f"contract '{contract}' broken by {cls.__name__}: ")
    assert "\n" not in message
    assert isinstance(caught.value, AssertionError)


def test_every_contract_has_an_environment_that_breaks_it():
    assert {name for name, _ in CONTRACTS} - {name for name, _ in BROKEN} == {"cheap"}


def test_each_contract_says_what_it_wants():
    assert all(function.__doc__ and "\n" not in function.__doc__ for _, function in CONTRACTS)


def test_slow_start_is_reported_but_passes():
    class Slow(Safe):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            if slow:
                time.sleep(0.06)

    slow = True
    cheap = dict(CONTRACTS)["cheap"]
    from metarlgym.contracts.subject import Subject

    with pytest.warns(UserWarning, match="Slow: constructor and reset take"):
        assert cheap(Subject(Slow, trials=1)) is None


def test_visible_task_may_show_itself():
    class Question(OpensWithSecret):
        visible_task = True

    assert [problem for _, problem in run_checks(Question) if problem] == []


def test_instance_is_not_played():
    env = Safe()
    env.reset(seed=3)
    before = dict(vars(env))
    check_env(env)
    assert vars(env) == before


def test_globals_are_left_alone():
    random.seed(1)
    np.random.seed(1)
    expected = random.getstate(), np.random.get_state()[1].tolist()
    list(run_checks("Doors-v0"))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == expected


def test_unknown_id():
    with pytest.raises(ValueError, match=r"Doors-v0"):
        check_env("Dors-v0")


def test_told_needs_every_pair():
    """Feedback that happens to hold the value is no leak."""
    pairs = [({"n": n}, f"it was {n}.", {"n": n + 20}, f"it was {n + 20}.") for n in range(5)]
    assert revealed(pairs) == "params['n']"
    assert revealed([*pairs, ({"n": 1}, "3 right", {"n": 2}, "2 right")]) is None
    assert revealed(pairs[:3]) is None
    plus = [({"n": n}, f"door {n + 1}", {"n": n + 3}, f"door {n + 4}") for n in range(5)]
    assert revealed(plus) == "params['n']"
    codes = [({"code": [n, 2, 3]}, f"code: {n}, 2, 3!", {"code": [n, 5, 3]}, f"code: {n}, 5, 3!") for n in range(4)]
    assert revealed(codes) in ("params['code']", "params['code'][1]")
