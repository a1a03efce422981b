"""Meter: what rollouts have played so far, counted as it happens."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class Meter:
    """Counts over one or more rollouts. Written by the rollout, may be read from any thread meanwhile.

    The counts are plain integers that one thread increments, so that counting costs a rollout nothing measurable.
    """

    def __init__(self) -> None:
        self.trials = 0
        """Trials that ended."""
        self.planned = 0
        """Trials of the rollouts that were started; 0 where they go on without end."""
        self.turns = 0
        """Actions that the policy chose."""
        self.sampled_tokens = 0
        """Tokens of these actions; 0 for policies that work on text."""
        self._busy = 0.0
        """Seconds spent in rollouts that ended."""
        self._encoded = 0
        self._policy: Any = None
        self._began: float | None = None
        self._in_flight: Callable[[], float] = _nothing

    def begin(self, trials: int, policy: Any, in_flight: Callable[[], float]) -> None:
        """A rollout starts.

        Args:
            trials: number of its trials.
            policy: the policy; its `encoded_tokens`, if it has any, is read while it plays.
            in_flight: number of trials that are done by parts, such as 1.5 for three trials in mid-play.
        """
        self.planned += trials
        self._encoded -= _encoded_by(policy) or 0
        self._policy, self._in_flight, self._began = policy, in_flight, time.monotonic()

    def end(self) -> None:
        """The rollout is over."""
        self._encoded += _encoded_by(self._policy) or 0
        if self._began is not None:
            self._busy += time.monotonic() - self._began
        self._policy, self._in_flight, self._began = None, _nothing, None

    @property
    def seconds(self) -> float:
        """Seconds spent in rollouts."""
        began = self._began
        return self._busy + (0.0 if began is None else time.monotonic() - began)

    @property
    def encoded_tokens(self) -> int:
        """Tokens that the model read, prompts and own actions; 0 if the policy does not count them."""
        return self._encoded + (_encoded_by(self._policy) or 0)

    @property
    def in_flight(self) -> float:
        """The trials in flight, each by the fraction of its episodes that are over."""
        return self._in_flight()

    @property
    def tokens_per_second(self) -> float:
        """Sampled tokens per second of rollout."""
        return self.sampled_tokens / max(self.seconds, 1e-9)

    def ended(self) -> str:
        """Trials that ended, such as `23 of 64 trials`."""
        return f"{self.trials:,} of {self.planned:,} trials" if self.planned else f"{self.trials:,} trials"

    def summary(self) -> str:
        """Turns and tokens in words, such as `190 turns, 1,140 tokens sampled (58/s), 9,000 encoded (460/s)`."""
        parts = [f"{self.turns:,} turns"]
        if self.sampled_tokens or self.encoded_tokens:
            parts.append(f"{self.sampled_tokens:,} tokens sampled ({self.tokens_per_second:,.0f}/s)")
        if self.encoded_tokens:
            parts.append(f"{self.encoded_tokens:,} encoded ({self.encoded_tokens / max(self.seconds, 1e-9):,.0f}/s)")
        return ", ".join(parts)


def _nothing() -> float:
    return 0.0


def _encoded_by(policy: Any) -> int | None:
    return getattr(policy, "encoded_tokens", None)
