"""Tables of things and their attributes for TwentyQuestions: the shipped ones, and the user's own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from metarlgym.datatypes import ConfigError
from metarlgym.envs.twenty_questions_solver import Rows

SIXTEEN = (
    "dog",
    "cow",
    "duck",
    "shark",
    "bee",
    "snake",
    "apple",
    "carrot",
    "bread",
    "spoon",
    "chair",
    "television",
    "car",
    "airplane",
    "sock",
    "stone",
)
"""Things of the default table."""
_NAME = re.compile(r"[a-z0-9]+( [a-z0-9]+)*")


class Table(NamedTuple):
    """What can be hidden and asked."""

    things: tuple[str, ...]
    questions: dict[str, str]
    """Attribute -> its question."""
    keys: dict[str, tuple[str, ...]]
    """Attribute -> key words, one of which a question must contain."""
    rows: Rows


@cache
def shipped(name: str) -> Table:
    """The table `things` (64 things, 24 attributes) or `things16` (16 of them, the attributes in which they differ)."""
    data = json.loads((Path(__file__).parent / "data" / "things.json").read_text("utf-8"))
    things = tuple(data["things"]) if name == "things" else SIXTEEN
    about = {
        attribute: details
        for attribute, details in data["attributes"].items()
        if len({attribute in data["things"][thing] for thing in things}) > 1
    }
    return Table(
        things,
        {attribute: details["question"] for attribute, details in about.items()},
        {attribute: tuple(details["keys"]) for attribute, details in about.items()},
        tuple(tuple(attribute in data["things"][thing] for attribute in about) for thing in things),
    )


def check_table(table: str | Mapping[str, Mapping[str, bool]]) -> Table:
    """A shipped table by name, or the user's own.

    Raises:
        ConfigError: not a table.
    """
    if table in ("things", "things16"):
        return shipped(str(table))
    if not isinstance(table, Mapping) or len(table) < 2:
        raise ConfigError(f"table={table!r} must be things, things16, or at least two things with their attributes.")
    first = next(iter(table.values()))
    for thing, row in table.items():
        if not isinstance(row, Mapping) or not row or set(row) != set(first):
            raise ConfigError(f"table[{thing!r}] must have the attributes of the other things, each true or false.")
        if wrong := [a for a, holds in row.items() if not isinstance(holds, bool)]:
            raise ConfigError(f"table[{thing!r}][{wrong[0]!r}]={row[wrong[0]]!r} must be true or false.")
    for name in [*table, *first]:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(f"table has the name {name!r}: use lower-case words of a to z and digits.")
        if name in table and name in first:
            raise ConfigError(f"table has {name!r} both as a thing and as an attribute: rename one.")
    return Table(
        tuple(table),
        {attribute: f"Is it {attribute}?" for attribute in first},
        {attribute: (attribute,) for attribute in first},
        tuple(tuple(row[attribute] for attribute in first) for row in table.values()),
    )
