"""Checks and converts values from a file or the command line to the declared types of their settings."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Sequence
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

from metarlgym.datatypes import ConfigError

NUMBERS_AS_TEXT = {"gamma", "free_shots", "entropy_schedule", "exploration_coef", "rollouts_ahead"}
"""Text settings that also accept a number: schedules, and numbers that may be a word."""
FILES = {"accelerator_config", "deepspeed", "fsdp_config"}
"""Mappings that may also be the path of a file."""
EXAMPLES = {"chat_template_kwargs": '{"enable_thinking": false}', "env_args": '{"doors": 4}'}
"""How to write settings that are mappings."""
_EXAMPLE = '{"name": value}'
MOST_PARTS = 100_000
"""Maximum number of values in one setting; more come from YAML anchors that contain each other."""
TRUE, FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")


class Misfit(Exception):
    """A value of the wrong type; the message says what the setting must be."""


def show(value: Any) -> str:
    """Format a value for messages, on one line of bounded length."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"<a whole number of {value.bit_length()} bits>"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # integers of thousands of digits; lists that contain themselves
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 120 else f"{text[:100]}...{text[-10:]}"


def fit(name: str, kind: Any, value: Any, command_line: bool = False) -> Any:
    """Convert `value` to the type `kind`.

    Text is parsed as the declared type (numbers, true and false, JSON), and an integer is accepted for a float. Nothing
    else is converted.

    Args:
        name: name of the setting.
        kind: annotation of the field.
        value: value parsed from YAML or JSON, or text from the command line.
        command_line: whether the value is text from the command line, which has no quotes.

    Raises:
        ConfigError: if it has the wrong type; the message gives the setting, the value and the fix.
    """
    try:
        return _fit(name, _alternatives(kind), value, command_line)
    except Misfit as misfit:
        raise ConfigError(f"{name}={show(value)} {misfit}") from None


def accepts(kind: Any, wanted: type) -> bool:
    """Whether an annotation includes a type: `accepts(int | None, int)`."""
    return any(found is wanted or get_origin(found) is wanted for found in _alternatives(kind))


def _alternatives(kind: Any) -> Sequence[Any]:
    if get_origin(kind) in (Union, types.UnionType):
        return [part for each in get_args(kind) for part in _alternatives(each)]
    return [kind]


def _fit(name: str, kinds: Sequence[Any], value: Any, command_line: bool) -> Any:
    plain = {found for found in kinds if isinstance(found, type) and get_origin(found) is None}
    if value is None:
        if type(None) in plain:
            return None
        raise Misfit(f"must be {_wanted(kinds)}; leave {name} out for its default.")
    if str in plain and _mapping(kinds, plain) and name not in FILES:
        return _mapping_or_json(name, value)
    if isinstance(value, bool):
        return _bool(kinds, plain, value)
    if isinstance(value, int):
        return _int(name, kinds, plain, value)
    if isinstance(value, float):
        return _float(name, kinds, plain, value)
    if isinstance(value, str):
        return _text(name, kinds, plain, value, command_line)
    if isinstance(value, list):
        return _list(name, kinds, value, command_line)
    if isinstance(value, dict) and _mapping(kinds, plain):
        _check_parts(value)
        return value
    quotes = ": write it in quotes" if str in plain and not isinstance(value, dict) else ""
    what = "a mapping" if isinstance(value, dict) else f"a {type(value).__name__}"
    raise Misfit(f"is {what} and must be {_wanted(kinds)}{quotes}.")


def _bool(kinds: Sequence[Any], plain: set[Any], value: bool) -> Any:
    if bool in plain or any(get_origin(kind) is Literal and value in get_args(kind) for kind in kinds):
        return value
    if str in plain:
        raise Misfit("must be text: YAML reads yes, no, on, off, true and false as truth values; write it in quotes.")
    raise Misfit(f"must be {_wanted(kinds)}.")


def _int(name: str, kinds: Sequence[Any], plain: set[Any], value: int) -> Any:
    if int in plain:
        return value
    if float in plain:
        if abs(value) > 10**300:
            raise Misfit("is too large.")
        # A float number of steps may mean a fraction of all steps, so integers stay integers.
        return value if name.endswith(("_steps", "_delay")) else float(value)
    if name in NUMBERS_AS_TEXT:
        return value
    if bool in plain and value in (0, 1):
        raise Misfit(f"must be true or false: write {'true' if value else 'false'}.")
    raise Misfit(f"must be {_wanted(kinds)}{': write it in quotes' if str in plain else ''}.")


def _float(name: str, kinds: Sequence[Any], plain: set[Any], value: float) -> Any:
    if not math.isfinite(value) and (int in plain or float in plain):
        raise Misfit(f"must be a finite {'number' if float in plain else 'whole number'}.")
    if float in plain:
        return value
    if int in plain:
        raise Misfit(f"must be a whole number{f': write {int(value)}' if value == int(value) else ''}.")
    if name in NUMBERS_AS_TEXT:
        return value
    raise Misfit(f"must be {_wanted(kinds)}{': write it in quotes' if str in plain else ''}.")


def _text(name: str, kinds: Sequence[Any], plain: set[Any], value: str, command_line: bool) -> Any:
    _check_characters(value)
    lists = next((kind for kind in kinds if get_origin(kind) is list), None)
    if str in plain or any(issubclass(kind, Enum) for kind in plain):
        if value.lstrip().startswith("{") and _mapping(kinds, plain):
            _json(value)
        return value
    if bool in plain:
        if value.lower() in TRUE + FALSE:
            return value.lower() in TRUE
        raise Misfit("must be true or false.")
    if int in plain or float in plain:
        return _number(kinds, plain, value)
    if _mapping(kinds, plain):
        return _json(value)
    if lists is not None and (command_line or get_args(lists) == (str,)):  # `all-linear` means `[all-linear]`
        return _list(name, kinds, [value], command_line)
    raise Misfit(f"must be {_wanted(kinds)}.")


def _check_characters(value: str) -> None:
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise Misfit("holds a character that text cannot hold: a NUL or half of a surrogate pair.")


def _number(kinds: Sequence[Any], plain: set[Any], value: str) -> Any:
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise Misfit(f"must be {_wanted(kinds)}.") from None
    if not math.isfinite(number):
        raise Misfit(f"must be a finite {'number' if float in plain else 'whole number'}.")
    if float in plain:
        return number
    try:
        return int(value)
    except ValueError:
        fix = f": write {int(number)}" if number == int(number) and abs(number) < 2**53 else ""
        raise Misfit(f"must be {_wanted(kinds)}{fix}.") from None


def _list(name: str, kinds: Sequence[Any], value: list[Any], command_line: bool) -> Any:
    kind = next((found for found in kinds if get_origin(found) is list), None)
    if kind is None:
        raise Misfit(f"must be {_wanted(kinds)}, not a list.")
    if len(value) > MOST_PARTS:
        raise Misfit("holds too many values.")
    fitted = []
    for part in value:
        try:
            fitted.append(_fit(name, _alternatives(get_args(kind)[0]), part, command_line))
        except Misfit as misfit:
            raise Misfit(f"holds {show(part)}, which {misfit}") from None
    return fitted


def _mapping(kinds: Sequence[Any], plain: set[Any]) -> bool:
    return dict in plain or any(get_origin(kind) is dict for kind in kinds)


def _mapping_or_json(name: str, value: Any) -> dict[str, Any]:
    """A mapping, or that in the text of a JSON object. transformers would read "false" in such a text as False."""
    like = f"write it like {EXAMPLES.get(name, _EXAMPLE)}"
    if isinstance(value, str):
        _check_characters(value)
        return _json(value, like)
    if not isinstance(value, dict):
        raise Misfit(f"is not a JSON object: {like}.")
    _check_parts(value)
    return value


def _json(text: str, like: str = f"write {_EXAMPLE}") -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for i, (key, _) in enumerate(pairs):
            if any(key == earlier for earlier, _ in pairs[:i]):
                raise Misfit(f"sets {key!r} twice: keep one of them.")
        return dict(pairs)

    try:
        found = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise Misfit(f"is not valid JSON ({error}): {like}.") from None
    if not isinstance(found, dict):
        raise Misfit(f"is not a JSON object: {like}.")
    _check_parts(found)
    return found


def _check_parts(value: Any) -> None:
    """Refuse values that config.yaml cannot represent: non-text keys, dates, NaN, self-referencing anchors."""
    waiting, seen = [value], 0
    while waiting:
        part = waiting.pop()
        seen += 1
        if seen > MOST_PARTS:
            raise Misfit("holds too many values, or contains itself.")
        if isinstance(part, dict):
            for key in part:
                if not isinstance(key, str):
                    raise Misfit(f"has the key {show(key)}: keys must be text; write it in quotes.")
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
        elif isinstance(part, float):
            if not math.isfinite(part):
                raise Misfit(f"holds {part}: numbers must be finite.")
        elif part is not None and not isinstance(part, str | int):
            raise Misfit(f"holds {show(part)}, a {type(part).__name__}: write it in quotes.")


def _wanted(kinds: Sequence[Any]) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "a mapping"}
    found = []
    for kind in kinds:
        origin = get_origin(kind)
        if kind is type(None):
            continue
        if origin is list:
            inner = get_args(kind)[0]
            found.append(f"a list{f' of {_plural[inner]}' if inner in _plural else ''}")
        elif origin is Literal:
            found.append(" or ".join(map(str, get_args(kind))))
        elif isinstance(kind, type) and issubclass(kind, Enum):
            found.append("text")
        else:
            found.append(words.get(dict if origin is dict else kind, getattr(kind, "__name__", str(kind))))
    return " or ".join(dict.fromkeys(found))


_plural = {int: "whole numbers", float: "numbers", str: "texts"}
