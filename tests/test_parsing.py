"""parse_action: one rule for every environment."""

from __future__ import annotations

import doctest
import random
import time

import pytest

from metarlgym import ConfigError, list_envs, make, parse_action, parsing


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("", ""),
        ("3", "3"),
        ("  up \n", "up"),
        ("[3]", "3"),
        ("[ 3 ]", "3"),
        ("[]", ""),
        ("first [1], no: [2]", "2"),
        ("[1] is my answer.\nReally.", "1"),
        ("[[2]]", "2"),
        ("[1, 2] [", "1, 2"),
        ("open [", "open ["),
        ("I think so\n\n7\n", "7"),
        ("7\r\n", "7"),
        ("<think>[1] or [2]?</think> I open [3].", "3"),
        ("<think>[1]</think>", ""),
        ("<think>[1]</think>\n4", "4"),
        ("[1]</think>[2]", "2"),
        ("<think>a</think>[1]<think>b</think>[2]", "2"),
        ("<think>[1] and then", ""),
        ("[1] <think>hm", ""),
        ("5 < 7 so [7]", "7"),
        ("2 < 3", "2 < 3"),
        ("[über]", "über"),
        ("[a\nb]", "a\nb"),
    ],
)
def test_rule(text, action):
    assert parse_action(text) == action


DOORS = {"1", "2", "safe"}


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("[2]", "2"),
        ("[Safe]", "safe"),
        ("[Door 2]", "2"),
        ("\\boxed{2}", "2"),
        ("So I say \\boxed{2}. [hm", "2"),
        ("<answer>2</answer>", "2"),
        ("<Answer> door 2 </Answer>", "2"),
        ("Door 2", "2"),
        ("I will open door 2, please.", "2"),
        ("(2)", "2"),
        ("2.", "2"),
        ("**2**", "2"),
        ('"safe"', "safe"),
        ("The SAFE door!", "safe"),
        ("door 1 or door 2", "door 1 or door 2"),  # which?
        ("-2", "-2"),
        ("2.5", "2.5"),
        ("12", "12"),
        ("[3]", "3"),  # no other door is meant
        ("[3] or rather 2", "3"),
        ("[2] because the first was empty", "2"),
        ("[1] was empty, so [2]", "2"),
        ("[2]\n[2]", "2"),
        ("[2]\nDoor [1] was empty, so I leave [1] and [safe].", "2"),
        ("[1] and [2] are left.\nI take [2]", "2"),
        ("[safe door]", "safe"),
        ("$\\boxed{\\text{Safe}}$", "safe"),
        ("```\n2\n```", "2"),
        ("```text\n[2]\n```", "2"),
        ('{"action": 2}', "2"),
        ("The answer is 2.", "2"),
        ("**Final answer:** 2", "2"),
        ("I choose 2", "2"),
        ("I choose door 2, because door 1 was empty.", "2"),
        ("I’ll take door #2", "2"),
        ("2\nThis is a new door.", "2"),
        ("1 was empty.\nI open 2", "2"),
        ("<think>door 2</think>", ""),
        ("<think>[2] is bad", ""),
        ("", ""),
    ],
)
def test_ways_to_name_a_legal_action(text, action):
    assert parse_action(text, DOORS) == action


@pytest.mark.parametrize(
    "text",
    [
        "I will not open 1 but 2",
        "I open 1. No, 2.",
        "2. You have many doors.",
        "1) Think about it.\n\n2)",
        "There are 2 doors",
        "2 doors",
        "Episode 2",
        "1-2",
        "1/2",
        "2/3",
        "3",
        "door 3",
        "[door 3]",
        "[1, 2]",
        "[1], [2] or [safe]",
        'Reply "[1]", "[2]" or "[safe]".',
        "Which door: [1] to [2] or [safe]?",
        "[1]\n[2]",
        "Options:\nDoor 1\nDoor 2",
        "2\nThe right one is the safe door.",
        "The safe door in the next episode plays no role",
        "You landed on the safe door.",
        "\\boxed{1 or 2}",
        "<answer>3</answer> 2",
    ],
)
def test_doubtful_messages_hold_no_action(text):
    assert parse_action(text, DOORS) not in DOORS


@pytest.mark.parametrize(
    ("name", "args", "texts"),
    [
        ("Doors-v0", {}, ["Door 3", "I open door 3.", "3"]),
        ("Bandit-v0", {}, ["machine 3", "Arm 3", "button 3", "I pull the lever of slot machine 3."]),
        ("GuessNumber-v0", {}, ["My guess is 3.", "Is it 3?", "the number 3"]),
        ("DarkRoom-v0", {}, ["move left", "LEFT", "Go left.", "I walk to the left"]),
        ("Mastermind-v0", {}, ["123", "1 2 3", "[1, 2, 3]", "The code is 1-2-3.", "My guess: 1,2,3"]),
        ("RLM-v0", {}, ["3", "The next token is 3", "Token 3."]),
        ("GSM8K-v0", {}, ["3", "The answer is 3."]),
    ],
)
def test_each_group_knows_its_own_words(name, args, texts):
    for strict in (False, True):
        env = make(name, strict=strict, **args)
        for text in texts:
            env.reset(options={"task": env.new_task("train", 0), "episode_seed": 0})
            valid = not strict or "[" in text
            assert env.step(text).info["valid"] == valid, (text, strict)


def test_terse_style_forgives_only_case():
    env = make("Doors-v0", style="terse")
    for text, valid in (("2", True), ("SAFE", True), ("door 2", False), ("2.", False), ("\\boxed{2}", False)):
        env.reset(options={"task": env.new_task("train", 0), "episode_seed": 0})
        assert env.step(text).info["valid"] == valid, text


@pytest.mark.parametrize("text", ["2", "Door 2", "(2)", "\\boxed{2}", "<answer>2</answer>"])
def test_strict(text):
    assert parse_action(text, DOORS, strict=True) == "" == parse_action(text, strict=True)
    assert parse_action(f"{text} [2]", DOORS, strict=True) == "2"


def test_strict_environments():
    for name, args in (("Doors-v0", {}), ("Bandit-v0", {}), ("GuessNumber-v0", {}), ("DarkRoom-v0", {"size": 3})):
        move = "up" if name == "DarkRoom-v0" else "2"
        for strict in (False, True):
            env = make(name, strict=strict, **args)
            for text, valid in ((f"[{move}]", True), (move, not strict), (f"I take {move}.", not strict)):
                env.reset(options={"task": env.new_task("train", 0), "episode_seed": 0})
                assert env.step(text).info["valid"] == valid, (name, strict, text)
    with pytest.raises(ConfigError, match="strict=True has no effect with style='terse'"):
        make("Doors-v0", style="terse", strict=True)


def test_docstring():
    assert doctest.testmod(parsing).failed == 0


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        "[a" * 100_000,
        "]" * 200_000,
        "[" + "a" * 200_000,
        "<think>" * 50_000,
        "because " * 30_000,
        "\n" * 200_000,
        "a " * 99_999,
        "[1] " * 50_000,
    ],
)
def test_long_junk_takes_linear_time(text):
    """Some milliseconds. Rules of quadratic time take minutes; the bound is for loaded machines."""
    start = time.perf_counter()
    parse_action(text)
    parse_action(text, DOORS)
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("env_id", [spec.env_id for spec in list_envs()])
def test_random_play_writes_the_taught_form(env_id):
    env = make(env_id, strict=True)
    for i in range(5):
        env.reset(options={"task": env.new_task("train", i), "episode_seed": i})
        action = env.random_action(random.Random(i))
        assert env.step(action).info["valid"]
        mark = action[: action.index("{" if action.startswith("\\") else "[") + 1]
        assert mark in env.rules(), f"the rules do not show {mark}"


def test_an_unfinished_second_thought_holds_no_action():
    assert parse_action("<think>a</think>So <think>maybe [1], or", {"1", "2"}) == ""
    assert parse_action("<think>a</think>So <think>maybe</think> [2]", {"1", "2"}) == "2"
