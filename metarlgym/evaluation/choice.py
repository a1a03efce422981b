"""The number of trials of an evaluation, from the time that the first ones took."""

from __future__ import annotations

from dataclasses import dataclass

FIRST = 8
"""Trials that are played to learn how long one takes. They are the first of the evaluation, whatever is chosen."""
GROWTH = 4
"""Larger batches are faster per trial, so the number is chosen again from each batch, this many times the last."""


@dataclass(frozen=True)
class Choice:
    """A chosen number of trials."""

    trials: int
    most: int
    seconds: float
    """Expected duration of all passes."""
    seconds_of_most: float
    """The same for `most` trials."""

    def __str__(self) -> str:
        line = f"{self.trials:,} trials, about {duration(self.seconds)}"
        if self.trials < self.most:
            line += f"; --trials {self.most} would take {duration(self.seconds_of_most)}"
        return line


def choose(played: int, each: float, passes: int, budget: float, most: int) -> int:
    """The number of trials whose passes end within the budget.

    Args:
        played: trials played so far, which is the least to return.
        each: seconds of a trial.
        passes: number of times that each trial is played.
        budget: seconds for all passes together.
        most: the most to return.
    """
    return max(played, min(int(budget / max(each * passes, 1e-9)), most))


def duration(seconds: float) -> str:
    """A duration in words, such as `40 s`, `4 min` or `2.5 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
