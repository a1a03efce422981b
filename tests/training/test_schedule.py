"""Schedules written as text."""

from __future__ import annotations

import pytest

from metarlgym import ConfigError
from metarlgym.training.schedule import Schedule


@pytest.mark.parametrize("text", [0.5, "0.5", " 0.5 ", "0:0.5"])
def test_a_number_is_a_constant(text):
    schedule = Schedule.parse("gamma", text)
    assert [schedule(step) for step in (0, 10, 1e6)] == [0.5, 0.5, 0.5]


def test_points_are_joined_by_lines():
    schedule = Schedule.parse("entropy_schedule", "10:1.0, 20:0.0, 30:0.5")
    assert [schedule(step) for step in (0, 10, 15, 20, 25, 30, 99)] == [1.0, 1.0, 0.5, 0.0, 0.25, 0.5, 0.5]
    assert schedule.values == (1.0, 0.0, 0.5)


@pytest.mark.parametrize("text", ["", "a", "0:1:2", "0:1, 5", "0:, 5:1", "0:x", ","])
def test_what_is_no_schedule_is_refused_by_name(text):
    with pytest.raises(ConfigError, match=f"free_shots={text!r} is not a schedule"):
        Schedule.parse("free_shots", text)


@pytest.mark.parametrize("text", ["5:1, 5:2", "5:1, 0:2"])
def test_steps_must_increase(text):
    with pytest.raises(ConfigError, match="must increase"):
        Schedule.parse("gamma", text)


@pytest.mark.parametrize("text", ["nan", "0:inf, 5:1", "nan:1, 5:2"])
def test_values_must_be_finite(text):
    with pytest.raises(ConfigError, match="gamma="):
        Schedule.parse("gamma", text)
