"""Detect leaks of the hidden task in an environment's public state and texts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from metarlgym.contracts.subject import inner
from metarlgym.env import Env

_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")


def public_state(env: Env) -> dict[str, Any]:
    """Everything readable from an environment without an underscore: attributes, properties, `repr`."""
    env = inner(env)
    state = {name: plain(value) for name, value in vars(env).items() if not name.startswith("_")}
    for cls in type(env).__mro__:
        if cls is Env:
            break
        for name, member in vars(cls).items():
            if isinstance(member, property | cached_property) and not name.startswith("_"):
                state[name] = plain(getattr(env, name))
    for name, text in (("repr()", repr(env)), ("str()", str(env)), ("rules()", env.rules())):
        state[name] = _ADDRESS.sub("", text)
    return state


def plain(value: Any, depth: int = 4) -> Any:
    """A value as nested plain data that can be compared; objects become their public attributes."""
    if isinstance(value, str | int | float | bool | bytes | type(None)):
        return value
    if depth == 0:
        return type(value).__name__
    if isinstance(value, dict):
        return {str(k): plain(v, depth - 1) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(v, depth - 1) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(repr(v) for v in value)
    public = {k: plain(v, depth - 1) for k, v in getattr(value, "__dict__", {}).items() if not k.startswith("_")}
    return [type(value).__name__, public]


def renderings(params: Any) -> dict[tuple[str, str], str]:
    """The ways in which a text might reveal a task's parameters, by (path in the parameters, notation)."""
    found: dict[tuple[str, str], str] = {}
    for path, value in _leaves("params", params):
        if len(found) > 500:
            break
        if isinstance(value, list):
            for ways, shown in (("", value), ("+1 ", [v + 1 for v in value if type(v) is int])):
                if shown:
                    for mark in ("", " ", ", ", "-"):
                        found[path, f"{ways}joined by {mark!r}"] = mark.join(map(str, shown))
        elif isinstance(value, float):
            found |= {(path, way): format(value, way) for way in ("", "g", ".2f", ".0%")}
        else:
            found[path, ""] = str(value)
            if type(value) is int:
                found[path, "+1"] = str(value + 1)
    return {place: text.casefold() for place, text in found.items() if text.strip()}


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(f"{path}[{key!r}]", item)
    elif isinstance(value, list):
        if value and not any(isinstance(item, list | dict) for item in value):
            yield path, value
        for i, item in enumerate(value):
            yield from _leaves(f"{path}[{i}]", item)
    elif value is not None:
        yield path, value


def revealed(texts: Sequence[tuple[Any, str, Any, str]], least: int = 4) -> str | None:
    """The parameter that the texts reveal, if any.

    Args:
        texts: (params, text, other params, other text), the two texts from the same actions on two tasks.
        least: minimum number of pairs. A parameter counts as revealed if, in every pair in which it differs, each text
            contains its own value and not the other's; a coincidence does not recur in every pair.
    """
    score: dict[tuple[str, str], int] = {}
    for params, text, other_params, other_text in texts:
        words, other_words = _padded(text), _padded(other_text)
        others = renderings(other_params)
        for place, shown in renderings(params).items():
            other = others.get(place)
            if other is None or other == shown or score.get(place) == -1:
                continue
            mine, its = _padded(shown), _padded(other)
            reveals = mine in words and its in other_words and mine not in other_words and its not in words
            score[place] = score.get(place, 0) + 1 if reveals else -1
    places = [place for place, count in score.items() if count >= least]
    return places[0][0] if places else None


def _padded(text: str) -> str:
    """The words of a text separated by single spaces, for whole-word search."""
    words = "".join(c if c.isalnum() or c in ".-" else " " for c in text.casefold()).split()
    return " " + " ".join(word.rstrip(".-").lstrip(".") for word in words) + " "
