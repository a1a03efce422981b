"""Thinking: the control tokens around a chat model's thoughts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Thinking:
    """How a tokenizer marks thoughts. A thought is no part of an action; only what follows it is.

    A renderer has one if `<think>` and `</think>` are one token each.
    """

    start_id: int
    """The id that opens a thought."""
    end_id: int
    """The id that closes it."""
    close_ids: tuple[int, ...]
    """What is appended to a thought that has reached its limit: `end_id` with the blanks the template puts around it.
    """
    opened: bool = False
    """Whether the generation prompt already opens a thought, so that every reply begins inside one."""
