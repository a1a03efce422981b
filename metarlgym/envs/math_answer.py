"""The number that a message ends with, and whether it is the one asked for.

The answer is found here, by patterns that are quick on any text of this length, and only a short string that is
plainly one number goes on to math-verify, which reads it and compares it. Math-verify's own search of whole messages is
not used: its patterns and its algebra can run for ever on hostile text (`9^9^9^9`), and the alarm signal that it guards
itself with works on a process's main thread only, while rollouts may run on others.
"""

from __future__ import annotations

import importlib
import logging
import re
import threading
from collections.abc import Iterator
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any

from metarlgym.parsing import spoken

TAIL = 2_000
"""Characters at the end of a message in which its answer is looked for."""
LONGEST = 200
"""Characters of the longest text that is tried as one number."""
LONGEST_NUMBER = 40
"""Characters of the longest number."""

_DECIMAL = re.compile(r"(-?)0*([0-9]*)(\.[0-9]+)?(%?)")
_FRACTION = re.compile(r"(-?)(?:([0-9]+) +)?([0-9]+)/([0-9]+)")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac *(?:\{ *([0-9]+) *\}|([0-9])) *(?:\{ *([0-9]+) *\}|([0-9]))")
_THOUSANDS = re.compile(r"-?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?%?")

_WRAPPED = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}")
_SEPARATOR = re.compile(r"(?<=[0-9])(?:\\[,!;: ]|\{,\}|[ ~\u00a0\u202f])(?=[0-9]{3}(?![0-9/]))")
_NOISE = re.compile(
    r"\\[()\[\]!,;: ]|\\(?:left|right|displaystyle|degree)(?![a-z])|\^\{?\\circ\}?|\\?[$€£¥]|\*\*|~|\\(?=%)"
)
_LEADING_WORDS = re.compile(r"^[A-Za-z][A-Za-z' ]*:? *(?=[-+.0-9\\])")
_UNIT = re.compile(r" *[A-Za-z°](?:[A-Za-z°²³ ./'-]|\^\{?[23]\}?)*$")
_EQUALS = re.compile(r"=|≈|\\approx(?![a-z])")

_BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
_HASHES = re.compile(r"####[ \t]*(?=[-+.0-9\\$€£¥*])([^\n]*)")
_PHRASE = re.compile(r"\banswers?\b[^.\n:=]{0,60}?(?:\bis\b|[:=])[\s*:]*", re.IGNORECASE)
_SENTENCE = re.compile(r"\n|[.,](?=\s|$)|;")
_SUM = re.compile(r"[-+*/×÷0-9().,$ ]+=")
_NUMBER = re.compile(
    r"(?<![A-Za-z_0-9])(?:(?<![)\]}])-)?\\?[$€£¥]?(?:"
    r"\\[dt]?frac\{[0-9.]+\}\{[0-9.]+\}|"
    r"(?:[0-9]+(?:,[0-9]{3}(?![0-9]))*(?:\.[0-9]+)?|\.[0-9]+)(?:/[0-9]+)?(?: ?\\?%)?)"
)

_LOCK = threading.Lock()  # nobody promises that math-verify's and sympy's caches stand several threads at once


def last_answer(message: str) -> str | None:
    r"""The number that a message gives as its answer, in the form `read_number` returns; None if there is none.

    The last complete `\boxed{...}` or `#### ...` counts; without either, what follows the last "answer is" or
    "answer:"; without that, the last number. A box that holds anything but one number is no answer. What is thought
    between `<think>` and `</think>` does not count.

    >>> last_answer(r"<think>\boxed{7}</think> So it is \boxed{1} or rather \boxed{\$1,018.00}.")
    '1018.00'
    """
    text = spoken(message)[-TAIL:].replace("−", "-")
    for marked in _marked(text):
        return read_number(marked)
    for phrase in reversed(list(_PHRASE.finditer(text))):
        told = _SENTENCE.split(text[phrase.end() : phrase.end() + LONGEST], maxsplit=1)[0]
        while sum_ := _SUM.match(told):  # 9 + 9 = 18
            told = told[sum_.end() :]
        number = read_number(told) or next((read_number(found[0]) for found in _NUMBER.finditer(told)), None)
        if number is not None:
            return number
    numbers = _NUMBER.findall(text)
    return read_number(numbers[-1]) if numbers else None


def _marked(text: str) -> Iterator[str]:
    """What is marked as an answer by a box or by ####, the last first."""
    marks = [(m.start(), m) for pattern in (_BOX, _HASHES) for m in pattern.finditer(text)]
    for _, mark in sorted(marks, key=lambda place: place[0], reverse=True):
        if mark.re is _BOX:
            content = _braced(text, mark.end())
            if content is not None and content.strip():
                yield content
        elif read_number(mark[1]) is not None:  # else a heading of Markdown
            yield mark[1]


def _braced(text: str, start: int) -> str | None:
    """The text from `start` to the brace that closes it; None if it is cut off."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place]
    return None


def read_number(text: str) -> str | None:
    r"""A text that is one number and perhaps a unit, as the bare number: `12.5`, `-3`, `3/2` or `50%`.

    None where it is no number, or more than one.

    >>> read_number(r"x = 1{,}250 \text{ km}"), read_number(r"1\frac{1}{2}"), read_number("17 or 18")
    ('1250', '3/2', None)
    """
    if len(text) > LONGEST:
        return None
    text = _EQUALS.split(_WRAPPED.sub(r" \1 ", text.replace("−", "-")))[-1]
    text = _NOISE.sub(" ", _SEPARATOR.sub("", text)).lstrip(" \t\n,;:*").rstrip(" \t\n.,;:!?*")
    while len(text) > 1 and text[0] + text[-1] in ("()", "[]", "{}"):
        text = text[1:-1].strip()
    text = _LATEX_FRACTION.sub(r" \1\2/\3\4", text)
    text = _UNIT.sub("", _LEADING_WORDS.sub("", text)).strip().removeprefix("+")
    text = re.sub(r"^- +", "-", text).replace(" %", "%")
    if len(text) > LONGEST_NUMBER:
        return None
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    if (found := _DECIMAL.fullmatch(text)) and any(c.isdigit() for c in text):
        sign, whole, decimals, percent = found.groups(default="")
        return f"{sign}{whole or 0}{decimals}{percent}"
    if (found := _FRACTION.fullmatch(text)) and int(found[4]):
        value = int(found[2] or 0) + Fraction(int(found[3]), int(found[4]))
        return str(-value if found[1] else value)
    return None


@lru_cache(maxsize=65_536)
def compare(answer: str, gold: str) -> int:
    """How an answer stands to the right one, both as `read_number` returns them; safe on any thread.

    Returns:
        0 where they are equal, 1 where the answer is too high, -1 where it is too low. A percentage equals both its
        share and its figure: `50%` is 0.5, and 50 where a question asks "what percentage".
    """
    library = _math_verify()
    with _LOCK:
        mine, right = (
            library.parse(text, [library.ExprExtractionConfig()], parsing_timeout=None, raise_on_error=True)
            for text in (answer, gold)
        )
        if library.verify(right, mine, timeout_seconds=None, raise_on_error=True):
            return 0
    value, target = Fraction(answer.rstrip("%")), Fraction(gold.rstrip("%"))
    if answer.endswith("%") and abs(target) < 1:
        value /= 100
    return 1 if value > target else -1


@cache
def _math_verify() -> Any:
    """The package, imported when first needed: it takes a second."""
    library = importlib.import_module("math_verify")
    # It warns once that its alarms are off, which is meant: see the top.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return library
