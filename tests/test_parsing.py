"""parse_action: one rule for every environment."""

from __future__ import annotations

import doctest
import time

import pytest

from metarlgym import parse_action, parsing


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


def test_docstring():
    assert doctest.testmod(parsing).failed == 0


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "[a" * 100_000, "]" * 200_000, "[" + "a" * 200_000, "<think>" * 50_000]
)
def test_long_junk_takes_linear_time(text):
    """Some milliseconds. Rules of quadratic time take minutes; the bound is for loaded machines."""
    start = time.perf_counter()
    parse_action(text)
    assert time.perf_counter() - start < 10
