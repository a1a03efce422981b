"""The action parser shared by all environments."""

from __future__ import annotations

import re
from collections.abc import Container

_BRACKET = re.compile(r"\[([^\[\]]*)\]")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_ANSWER = re.compile(r"<answer>([^<]*)</answer>", re.IGNORECASE)
_WORD = re.compile(r"(?<![\w.-])\w+(?!\w|\.\d)")
"""A word; not a part of -7 or of 2.5."""
_AROUND = " \t\r\n.,;:!?\"'`*()$"
"""Punctuation and Markdown that models write around an action."""


class Numbers:
    """The whole numbers from `low` to `high` as words: legal actions without a list of them."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    def __contains__(self, word: object) -> bool:
        digits = isinstance(word, str) and word.isascii() and word.isdigit() and len(word) <= len(str(self.high))
        return digits and self.low <= int(str(word)) <= self.high


def spoken(text: str) -> str:
    """A policy's message without its reasoning: what follows the last `</think>`; empty if a thought is unfinished."""
    if "<" in text:
        _, mark, tail = text.rpartition("</think>")
        if mark:
            return tail
        if "<think>" in text:
            return ""
    return text


def parse_action(text: str, legal: Container[str] | None = None, strict: bool = False) -> str:
    r"""The action in a policy's message.

    It is the last `[bracket]`; without one, the last `\boxed{}` or `<answer>`; without those, the last non-empty line.
    Reasoning around the action is always allowed. An unfinished thought contains no action: a message with `<think>`
    but no `</think>` parses to the empty string.

    Args:
        text: the message.
        legal: the legal actions, in lower case. Then case, punctuation and words around a legal action are forgiven, if
            the message leaves no doubt which one is meant: "Door 2.", "(2)" and "**2**" are all 2.
        strict: accept brackets only.

    Returns:
        One of `legal`, or else what stands where an action should.

    >>> parse_action("<think>[1] or [2]?</think> I open [2].")
    '2'
    >>> parse_action("higher than 5, so\n7")
    '7'
    >>> parse_action("I open Door 2.", {"1", "2", "safe"})
    '2'
    """
    found = _marked(spoken(text), strict)
    if legal is None or strict:
        return found if legal is None else found.lower()
    plain = found.lower()
    if plain in legal:
        return plain
    plain = plain.strip(_AROUND)
    if plain in legal:
        return plain
    named = {word for word in _WORD.findall(plain) if word in legal}
    return named.pop() if len(named) == 1 else plain


def _marked(text: str, strict: bool) -> str:
    """What stands where an action should."""
    if "[" in text and (found := _BRACKET.findall(text)):
        return found[-1].strip()
    if strict:
        return ""
    for mark, pattern in (("\\boxed{", _BOXED), ("<answer>", _ANSWER)):
        if mark in text.lower() and (found := pattern.findall(text)):
            return found[-1].strip()
    text = text.strip()
    return text.rsplit("\n", 1)[-1].strip() if "\n" in text else text
