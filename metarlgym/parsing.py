"""The action parser shared by all environments."""

from __future__ import annotations

import re
from collections.abc import Container

_BRACKET = re.compile(r"\[([^\[\]]*)\]")
_SEPARATORS = re.compile(r"(?:[\s,;/|\"'`*]|\b(?:or|and|to)\b)*", re.IGNORECASE)
"""What stands between the brackets of a list."""
_BOXED = re.compile(r"\\f?boxed\s*\{([^{}]*)\}")
_ANSWER = re.compile(r"<answer>([^<]*)</answer>", re.IGNORECASE)
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")
_TOKEN = re.compile(r"[-+.]?\w+(?:[.'-]\w+)*")
"""A word or a number; -7, 2.5, 1-2 and I'll are one each."""
_CLAUSE = re.compile(r"\n|(?<=[.!?;])\s|\b(?:because|since)\b[^\n.!?;]*")
"""Where one clause ends and another begins; a reason goes with the end."""
_FENCE = re.compile(r"^[ \t]*(?:```|~~~).*$", re.MULTILINE)
_LIST_ITEM = re.compile(r"^[ \t]*\d+[.)][ \t]+\S", re.MULTILINE)
_ITEM_MARK = re.compile(r"^[ \t]*\d+[.)](?=\s|$)", re.MULTILINE)
"""The number of an item of a list, which names no action."""
_AROUND = " \t\r\n.,;:!?\"'`*()$"
"""Punctuation and Markdown that models write around an action."""
_INTRODUCE = frozenset(
    re.findall(
        r"\S+",
        """
        a action again an answer arm be button cell choice choose chose code direction do door final for go going guess
        here here's i i'd i'll i'm is it it's lever let let's machine me move movement my next now number of okay ok
        on open opening option pick play please press prediction pull reply room say select selected selecting slot so
        stick sure symbol take the then this to token try turn walk want will with would you your
        """,
    )
)
"""Words that may stand beside an unmarked action. Any other leaves doubt: "not 1 but 2", "2 doors", "step 3"."""
LONGEST = 4_000
"""An unmarked action is looked for at the end of a message only, this many characters."""


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
            return "" if "<think>" in tail else tail
        if "<think>" in text:
            return ""
    return text


def parse_action(text: str, legal: Container[str] | None = None, strict: bool = False) -> str:
    r"""The action in a policy's message.

    It is the last `[bracket]`; without one, the last `\boxed{}` or `<answer>`; without those, the last non-empty line.
    Reasoning around the action is always allowed. An unfinished thought contains no action: a message with `<think>`
    but no `</think>` parses to the empty string.

    With `legal`, a bracket that is the whole first line counts even if an explanation below mentions others. Other ways
    to name one of the actions are understood as well: in any case, with punctuation, Markdown and words that introduce
    it ("Door 2.", "(2)", "**2**", "I choose 2 because 1 was empty"). Where doubt is left, no action is: "not 1 but 2",
    "2 doors", or a list of brackets such as "[1], [2] or [safe]".

    Args:
        text: the message.
        legal: the legal actions, in lower case.
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
    text = spoken(text)
    found, marked = _marked(text, strict)
    if legal is None:
        return found
    plain = found.lower()
    if marked and not strict and "\n" in text and (first := _explained(text, legal)):
        return first
    if marked and _ends_in_list(text):
        return text.strip()
    if strict or plain in legal:
        return plain
    return (_named(plain, legal) if marked else _unmarked(text[-LONGEST:].lower().replace("’", "'"), legal)) or plain


def _marked(text: str, strict: bool) -> tuple[str, bool]:
    """What stands where an action should, and whether it is marked as an action."""
    if "[" in text and (found := _BRACKET.findall(text)):
        return found[-1].strip(), True
    if strict:
        return "", False
    for mark, pattern in (("boxed", _BOXED), ("<answer>", _ANSWER)):
        if mark in text.lower() and (found := pattern.findall(_LATEX_TEXT.sub(r"\1", text))):
            return found[-1].strip(), True
    return _last_line(text), False


def _last_line(text: str) -> str:
    text = text.strip()
    return text.rsplit("\n", 1)[-1].strip() if "\n" in text else text


def parse_terse(text: str) -> str:
    """The action in a message of the terse style: the last bracket, or the last non-empty line."""
    text = spoken(text)
    if "[" in text and (found := _BRACKET.findall(text)):
        return found[-1].strip()
    return _last_line(text)


def _ends_in_list(text: str) -> bool:
    """Whether the last bracket belongs to a list of different ones, as when a model repeats the choices."""
    last = second = None
    for bracket in _BRACKET.finditer(text):
        second, last = last, bracket
    if last is None or second is None or last[1].strip().lower() == second[1].strip().lower():
        return False
    return _SEPARATORS.fullmatch(text, second.end(), last.start()) is not None


def _explained(text: str, legal: Container[str]) -> str | None:
    """The bracket that is the whole first line, above an explanation that may mention other actions in brackets."""
    first, *rest = text.strip().split("\n")
    found = _BRACKET.fullmatch(first.strip(_AROUND))
    if found is None or found[1].strip().lower() not in legal:
        return None
    ends_alone = _BRACKET.fullmatch(rest[-1].strip(_AROUND)) if rest else None
    return None if ends_alone else found[1].strip().lower()


def _named(clause: str, legal: Container[str]) -> str | None:
    """The one legal action in a clause in which everything else introduces it."""
    if (plain := clause.strip(_AROUND)) in legal:
        return plain
    named = set()
    for token in _TOKEN.findall(clause):
        if token in legal:
            named.add(token)
        elif token not in _INTRODUCE:
            return None
    return named.pop() if len(named) == 1 else None


def _unmarked(text: str, legal: Container[str]) -> str | None:
    """The action that the last clause names; or the first clause, if nothing else names another."""
    text = _FENCE.sub("", text)
    if _LIST_ITEM.search(text):
        text = _ITEM_MARK.sub("", text)
    clauses = [clause for clause in _CLAUSE.split(text) if clause.strip(_AROUND)]
    if not clauses:
        return None
    named = [_named(clause, legal) for clause in clauses]
    if len(set(named) - {None}) != 1:
        return None
    if named[-1] is not None or named[0] is None:
        return named[-1]
    others = {token for clause in clauses[1:] for token in _TOKEN.findall(clause) if token in legal}
    return named[0] if others <= {named[0]} else None
