"""How the texts of the chat style name the legal actions.

Every legal action is shown, or the first and the last of a range. One example would favor its action: with "for
example: [2]", SmolLM2-135M opens door 2 first three times as often.
"""

from __future__ import annotations

MOST_NAMED = 5
"""Up to this many numbers are named one by one; of more, the first and the last."""


def choices(numbers: int, *words: str, quoted: bool = False) -> str:
    """The actions from 1 to `numbers`, and those of `words`, as an enumeration.

    >>> choices(2, "safe")
    '[1], [2] or [safe]'
    >>> choices(20)
    '[1] to [20]'
    >>> choices(0, "up", "down", quoted=True)
    '"[up]" or "[down]"'
    """
    mark = '"' if quoted else ""

    def write(action: object) -> str:
        return f"{mark}[{action}]{mark}"

    named = [write(n) for n in range(1, numbers + 1)]
    if numbers > MOST_NAMED:
        named = [f"{named[0]} to {named[-1]}"]
    named += map(write, words)
    return " or ".join(filter(None, (", ".join(named[:-1]), named[-1])))
