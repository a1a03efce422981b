"""The listed legal actions of the task groups, and how texts name them."""

import doctest

import pytest

from metarlgym import make
from metarlgym.envs import wording

MOVES = ["up", "down", "left", "right", "stay"]


@pytest.mark.parametrize(
    ("name", "args", "terse"),
    [
        ("Doors-v0", {"doors": 2}, ["1", "2", "safe"]),
        ("Bandit-v0", {"arms": 3}, ["1", "2", "3"]),
        ("GuessNumber-v0", {"numbers": 4}, ["1", "2", "3", "4"]),
        ("DarkRoom-v0", {}, MOVES),
        ("Mastermind-v0", {"length": 2, "symbols": 2}, ["1 2", "2 1"]),
        ("RLM-v0", {}, [*"12345678"]),
    ],
)
def test_all_are_listed(name, args, terse):
    assert sorted(make(name, style="terse", **args).legal_actions()) == sorted(terse)
    chat = [f"[{action.replace(' ', '')}]" for action in terse]
    assert sorted(make(name, **args).legal_actions()) == sorted(chat)
    assert sorted(make(name, episodes=3, **args).legal_actions()) == sorted(chat)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("GuessNumber-v0", {"numbers": 501}),
        ("Mastermind-v0", {"length": 4, "repeats": True}),
        ("RLM-v0", {"answer": "probabilities"}),
        ("GSM8K-v0", {}),
    ],
)
def test_too_many_to_list(name, args):
    assert make(name, **args).legal_actions() is None


def test_wording():
    assert doctest.testmod(wording).failed == 0
    assert wording.choices(0, "safe") == "[safe]"
    assert wording.choices(6, "safe") == "[1] to [6] or [safe]"
