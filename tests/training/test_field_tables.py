"""Every setting of `train` has an effect that a test sees, or is refused in one line when it is given.

`field_tables` names every field once. A field that a new TRL adds is in none of its tables, and the first test fails.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from field_tables import NEEDS_A_GPU, SHOWN_BY, WEIGHTS

from metarlgym.training.arguments import GROUPS
from metarlgym.training.refused_fields import REFUSED

TESTS = Path(__file__).parents[1]


def test_every_field_is_in_one_table():
    names = [item.name for group in GROUPS for item in dataclasses.fields(group)]
    assert len(names) == len(set(names))
    shown = " ".join(SHOWN_BY.values()).split()
    named = [*WEIGHTS, *shown, *NEEDS_A_GPU, *REFUSED]
    assert sorted(set(names) - set(named)) == [], "new fields: show their effect in a test, or refuse them"
    assert sorted(set(named) - set(names)) == [], "these are no fields any more"
    assert sorted(name for name in named if named.count(name) > 1) == []


def test_the_tests_that_are_named_exist():
    for place in SHOWN_BY:
        path, name = place.split("::")
        assert f"\ndef {name}(" in (TESTS / path).read_text(), place
