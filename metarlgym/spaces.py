"""A gymnasium text space with constant-time checks.

`gymnasium.spaces.Text` scans every character and needs an explicit alphabet; environments here use free text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np


class AnyText(gymnasium.Space[str]):
    """The set of all strings. `sample` draws from `examples`, for instance an environment's legal actions."""

    def __init__(self, examples: Sequence[str] = ("",), seed: int | np.random.Generator | None = None) -> None:
        super().__init__(shape=(), dtype=np.dtype(object), seed=seed)
        self.examples = tuple(examples)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        return self.examples[int(self.np_random.integers(len(self.examples)))]

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "AnyText()"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnyText)

    def __hash__(self) -> int:
        return hash(AnyText)
