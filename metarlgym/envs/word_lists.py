"""Lists of words for games: those a user gives, and the common English words that the package ships.

The shipped words are levels 10 and 20 of SCOWL; `data/words/COPYRIGHT` says where they come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from metarlgym.datatypes import ConfigError

RHYMES = ("bake", "cake", "lake", "make", "rake", "take", "wake", "bare", "care", "mare", "rare", "ware")
"""A dozen words that differ in few letters: one episode is too short to tell them apart."""
LENGTHS = range(3, 9)
"""Numbers of letters of the shipped words."""
NAMES = ("common", *(f"common{length}" for length in LENGTHS))
"""The shipped lists: all common words, or those of one length."""
MOST_SHOWN = 30
"""Rules of the chat style name all words of a list up to this size."""


def check_words(words: str | Sequence[str], one_length: bool = False) -> tuple[str, ...]:
    """The words of a list.

    Args:
        words: at least two different words of the letters a to z, or the name of a shipped list.
        one_length: whether all words must have the same number of letters.

    Raises:
        ConfigError: not such a list.
    """
    if isinstance(words, str):
        if words not in NAMES:
            raise ConfigError(f"words={words!r} is not a shipped list: use one of {', '.join(NAMES)}, or give words.")
        found = shipped(words)
    else:
        found = _given(words)
    if one_length and len(lengths := sorted(set(map(len, found)))) > 1:
        advice = "use common5 or another of one length" if isinstance(words, str) else "keep those of one length"
        raise ConfigError(f"words={_short(words)} has words of {lengths[0]} to {lengths[-1]} letters: {advice}.")
    return found


def _given(words: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(words, list | tuple) or len(words) < 2:
        raise ConfigError(f"words={_short(words)} must be a list of at least two words, or one of {', '.join(NAMES)}.")
    for word in words:
        if not (isinstance(word, str) and word.isascii() and word.isalpha() and word.islower()):
            raise ConfigError(f"words holds {_short(word)}: use the letters a to z only, in lower case.")
    if len(set(words)) < len(words):
        twice = next(word for i, word in enumerate(words) if word in words[:i])
        raise ConfigError(f"words holds {twice!r} twice: give each word once.")
    return tuple(words)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@cache
def shipped(name: str) -> tuple[str, ...]:
    """The words of a shipped list in alphabetical order."""
    if name == "common":
        text = (Path(__file__).parent / "data" / "words" / "common.txt").read_text("ascii")
        return tuple(text.split())
    length = int(name.removeprefix("common"))
    return tuple(word for word in shipped("common") if len(word) == length)
