"""Random settings for property tests: any value for any setting, the fitting ones and those at the edges often."""

from __future__ import annotations

import dataclasses
import json
import math

from hypothesis import strategies as st

from metarlgym.settings.flat import _kinds
from metarlgym.settings.ranges import BOUNDS, choices
from metarlgym.settings.value_types import accepts

EDGES = [-1, 0, 1, 2, 3, 8, 64, 2**31, 2**32 - 1, 2**32, 5_000_000_000, 2**63, 2**64, 10**30, -(10**30), 10**400]
WORDS = ["", " ", "none", "null", "auto", "true", "no", "1e-3", "1e3", "2.0", "nan", "inf", "-1", "0x10", "1_000", "{}"]
WORDS += ["0:5, 8:1", "0:0.4", "last_2", "a b", "{", '{"a": 1}', '{"a": 1, "a": 2}', '{"a": NaN}', "[1, 2]", "~", "/"]
WORDS += ["--x", "-", "é", "\n", "\t", "%s", "[bold]", "x" * 300]
numbers = st.one_of(
    st.integers(-3, 20),
    st.sampled_from(EDGES),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -0.0, 0.5, 1.0, 2.0, 2.5, -1.0, 1e-300, 1e300, math.nan, math.inf, -math.inf]),
)
words = st.one_of(st.sampled_from(WORDS), st.text(max_size=8))
scalars = st.one_of(st.none(), st.booleans(), numbers, words)
anything = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.dictionaries(st.one_of(words, st.integers(0, 3)), scalars, max_size=3),
    st.dictionaries(words, st.lists(scalars, max_size=2), max_size=2),
)


def fitting(name, kind, named):
    """Values of the right type, within the range."""
    if name in named:
        return st.sampled_from(named[name])
    if accepts(kind, bool):
        return st.booleans()
    if name not in BOUNDS:
        return st.sampled_from(["a", "none"]) if accepts(kind, str) else st.none()
    bound = BOUNDS[name]
    near = [bound.low, bound.low + 1, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, min(bound.high, 32.0)]
    near = [int(value) if accepts(kind, int) or accepts(kind, list) else value for value in near if bound.holds(value)]
    near = [value for value in near if bound.holds(value)] or [1]
    return st.lists(st.sampled_from(near), max_size=3) if accepts(kind, list) else st.sampled_from(near)


def at_the_edge(name, kind):
    """Numbers next to the ends of the range."""
    if name not in BOUNDS:
        return anything
    ends = [end for end in BOUNDS[name][:2] if math.isfinite(end)]
    near = [end + step for end in ends for step in (-1, -0.5, 0, 0.5, 1)]
    return st.sampled_from([*near, *(int(value) for value in near)]) if near else anything


def settings_of(groups, base, fixed=()):
    """Draws 1 to 4 random settings over a base that runs."""
    kinds = _kinds(tuple(groups))
    named = {name: values for group in groups for name, values in choices(group).items()}
    values = {
        name: st.one_of(*[fitting(name, kind, named)] * 4, at_the_edge(name, kind), anything)
        for name, kind in kinds.items()
        if name not in fixed
    }
    own = [item.name for group in groups for item in dataclasses.fields(group) if item.name in group.__annotations__]
    names = st.lists(
        st.one_of(st.sampled_from(sorted(values)), st.sampled_from(sorted(set(own) & set(values)))),
        min_size=1,
        max_size=4,
        unique=True,
    )
    return names.flatmap(lambda drawn: st.fixed_dictionaries({name: values[name] for name in drawn})).map(
        lambda drawn: {**base, **drawn}
    )


def command_line(content):
    """The settings as options of a command line."""
    parts = []
    for name, value in content.items():
        values = value if isinstance(value, list) else [value]
        parts += [f"--{name}", *(v if isinstance(v, str) else _text(v) for v in values)]
    return parts


def _text(value):
    try:
        return json.dumps(value) if isinstance(value, dict) else str(value)
    except ValueError:  # more digits than Python prints
        return hex(value)
