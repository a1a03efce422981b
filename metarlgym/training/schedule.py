"""Schedules written as text: `"0:0.05, 300:0.01"` is 0.05 at step 0, 0.01 from step 300 on, and linear in between."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from metarlgym.datatypes import ConfigError


@dataclass(frozen=True)
class Schedule:
    """A piecewise linear function of the optimizer step, constant before the first and after the last point."""

    points: tuple[tuple[float, float], ...]

    @classmethod
    def parse(cls, name: str, text: str | float | int) -> Schedule:
        """Parse a number, or comma-separated points `step:value`.

        Raises:
            ConfigError: if the text is not a valid schedule; the message refers to the field `name`.
        """
        try:
            if isinstance(text, int | float) or ":" not in text:
                points: tuple[tuple[float, float], ...] = ((0.0, float(text)),)
            else:
                pairs = [part.split(":") for part in text.split(",") if part.strip()]
                points = tuple((float(step), float(value)) for step, value in pairs)
            if not all(math.isfinite(number) for point in points for number in point):
                raise ValueError
        except ValueError:
            raise ConfigError(
                f'{name}={text!r} is not a schedule: write a number, or points such as "0:0.05, 300:0.01".'
            ) from None
        if any(b[0] <= a[0] for a, b in itertools.pairwise(points)):
            raise ConfigError(f"{name}={text!r}: the steps of a schedule must increase.")
        return cls(points)

    def __call__(self, step: float) -> float:
        points = self.points
        if step <= points[0][0]:
            return points[0][1]
        for (a, u), (b, v) in itertools.pairwise(points):
            if step < b:
                return u + (v - u) * (step - a) / (b - a)
        return points[-1][1]

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(value for _, value in self.points)
