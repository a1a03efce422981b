"""The action parser shared by all environments."""

from __future__ import annotations

import re

_BRACKET = re.compile(r"\[([^\[\]]*)\]")


def spoken(text: str) -> str:
    """A policy's message without its reasoning: what follows the last `</think>`; empty if a thought is unfinished."""
    if "<" in text:
        _, mark, tail = text.rpartition("</think>")
        if mark:
            return tail
        if "<think>" in text:
            return ""
    return text


def parse_action(text: str) -> str:
    """The action in a policy's message: the last `[bracket]`, else the last non-empty line, after any `</think>`.

    Reasoning around the action is always allowed. An unfinished thought contains no action: a message with `<think>`
    but no `</think>` parses to the empty string.

    >>> parse_action("<think>[1] or [2]?</think> I open [2].")
    '2'
    >>> parse_action("higher than 5, so\\n7")
    '7'
    """
    text = spoken(text)
    if "[" in text:
        found = _BRACKET.findall(text)
        if found:
            return found[-1].strip()
    text = text.strip()
    return text.rsplit("\n", 1)[-1].strip() if "\n" in text else text
