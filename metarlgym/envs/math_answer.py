"""Extract the final number of a message and compare it with the correct answer.

The answer is extracted here, by patterns that are fast on any text of this length; only a short string that is clearly
one number is passed to math-verify, which parses and compares it. Math-verify's own search of whole messages is not
used: its patterns and its algebra can run forever on adversarial text (`9^9^9^9`), and its timeout signal works only on
a process's main thread, while rollouts may run on others.
"""

from __future__ import annotations

import importlib
import logging
import re
import threading
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any

from metarlgym.parsing import spoken

TAIL = 2_000
"""Number of characters at the end of a message that are searched for its answer."""
LONGEST = 200
"""Maximum length of a text that is parsed as one number."""
LONGEST_NUMBER = 40
"""Maximum length of a number."""

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

_LOCK = threading.Lock()  # math-verify's and sympy's caches are not documented as thread-safe


def last_answer(message: str, strict: bool = False) -> str | None:
    r"""The number that a message gives as its answer, in the form `read_number` returns; None if there is none.

    The last complete `\boxed{...}` or `#### ...` counts; without either, what follows the last "answer is" or
    "answer:"; without that, the last number. A box that contains anything but one number is not an answer. Text between
    `<think>` and `</think>` does not count. With `strict`, only `\boxed{...}` does.

    >>> last_answer(r"<think>\boxed{7}</think> So it is \boxed{1} or rather \boxed{\$1,018.00}.")
    '1018.00'
    """
    text = spoken(message)[-TAIL:].replace("−", "-")
    for marked in _marked(text, (_BOX,) if strict else (_BOX, _HASHES)):
        return read_number(marked)
    if strict:
        return None
    for phrase in reversed(list(_PHRASE.finditer(text))):
        told = _SENTENCE.split(text[phrase.end() : phrase.end() + LONGEST], maxsplit=1)[0]
        while sum_ := _SUM.match(told):  # 9 + 9 = 18
            told = told[sum_.end() :]
        number = read_number(told) or next((read_number(found[0]) for found in _NUMBER.finditer(told)), None)
        if number is not None:
            return number
    numbers = _NUMBER.findall(text)
    return read_number(numbers[-1]) if numbers else None


def _marked(text: str, patterns: Iterable[re.Pattern[str]]) -> Iterator[str]:
    """The texts marked as an answer by a box or by ####, last first."""
    marks = [(m.start(), m) for pattern in patterns for m in pattern.finditer(text)]
    for _, mark in sorted(marks, key=lambda place: place[0], reverse=True):
        if mark.re is _BOX:
            content = _braced(text, mark.end())
            if content is not None and content.strip():
                yield content
        elif read_number(mark[1]) is not None:  # otherwise it is a Markdown heading
            yield mark[1]


def _braced(text: str, start: int) -> str | None:
    """The text from `start` to the matching closing brace; None if it is cut off."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place]
    return None


def read_number(text: str) -> str | None:
    r"""Parse a text that is one number, optionally with a unit, as the bare number: `12.5`, `-3`, `3/2` or `50%`.

    None if it is not a number, or more than one.

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
    """Compare an answer with the correct one, both as returned by `read_number`; thread-safe.

    Returns:
        0 if they are equal, 1 if the answer is too high, -1 if it is too low. A percentage equals both its fraction and
        its number: `50%` is 0.5, and also 50 for questions that ask "what percentage".
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
    """The package, imported on first use: it takes a second."""
    library = importlib.import_module("math_verify")
    # It warns once that its timeouts are disabled, which is intended: see the module docstring.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return library
