"""Values returned by environment code, validated and converted to Python's own types: text, numbers and flags."""

from __future__ import annotations

import inspect
import numbers
from typing import Any

from metarlgym.datatypes import MetaRLGymError, Step


class RewardError(MetaRLGymError):
    """A reward that is not a number, or lies outside `reward_range`."""


def checked_step(env_id: str, step: Any) -> Step:
    """`step` with its parts as str, float and bool; numbers and flags may come from NumPy or torch.

    Raises:
        RewardError: the reward is not a number.
        MetaRLGymError: it is not a `Step`, or another part has the wrong type; one line with the name and the fix.
    """
    if not isinstance(step, Step):
        raise MetaRLGymError(f"{env_id}: on_step returned {_describe(step)}: return a metarlgym.Step.")
    observation, reward, terminated, truncated, info = step
    if info is not None and not isinstance(info, dict):
        raise MetaRLGymError(f"{env_id}: on_step returned info={_shown(info)}: it must be a dict or None.")
    return Step(
        checked_text(env_id, "on_step returned the observation", observation),
        _number(env_id, reward),
        checked_flag(env_id, "terminated", terminated),
        checked_flag(env_id, "truncated", truncated),
        info,
    )


def checked_text(env_id: str, what: str, value: Any) -> str:
    """`value` as a plain str that can be encoded as UTF-8; subclasses of str are accepted.

    Raises:
        MetaRLGymError: another type, or a text with a lone surrogate, which no tokenizer accepts.
    """
    if isinstance(value, str):
        text = str(value)
        if not encodable(text):
            raise MetaRLGymError(
                f"{env_id}: {what} {_shown(value)}, which holds a lone surrogate and cannot be encoded as UTF-8: "
                "decode the text with errors='replace'."
            )
        return text
    raise MetaRLGymError(f"{env_id}: {what} {_describe(value)}: return a str, which may be empty.")


def encodable(text: str) -> bool:
    """Whether a text can be encoded as UTF-8, that is, contains no lone surrogate."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def checked_flag(env_id: str, name: str, value: Any) -> bool:
    """`value` as a bool; NumPy and torch bools and the integers 0 and 1 are accepted.

    Raises:
        MetaRLGymError: anything else.
    """
    plain = _scalar(value)
    if isinstance(plain, bool) or (isinstance(plain, numbers.Integral) and plain in (0, 1)):
        return bool(plain)
    raise MetaRLGymError(f"{env_id}: on_step returned {name}={_shown(value)}: it must be True or False.")


def _number(env_id: str, value: Any) -> float:
    plain = _scalar(value)
    if isinstance(plain, numbers.Real):
        return float(plain)
    raise RewardError(f"{env_id}: on_step returned reward={_shown(value)}, which is not a number: return a float.")


def _scalar(value: Any) -> Any:
    """The Python value of a NumPy scalar or a zero-dimensional array or tensor; anything else unchanged."""
    return value.item() if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)) else value


def _describe(value: Any) -> str:
    """Describe a value of the wrong type."""
    if inspect.iscoroutine(value):
        value.close()  # otherwise Python warns later that it was never awaited
        return "a coroutine (environments are not async: write `def`, and set `blocking = True` where it waits)"
    return "None" if value is None else f"{_shown(value)} of type {type(value).__name__}"


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
