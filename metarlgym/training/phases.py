"""PhaseClock: where the time of a training step goes, and what is being done now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback

from metarlgym.rollout.meter import Meter

TRAIN, ROLLOUT, WAIT, WEIGHTS, EVALUATION = "train", "rollout", "wait_for_rollout", "weight_update", "evaluation"


class PhaseClock:
    """Sums the seconds of each phase. A phase inside another interrupts it, so that the sums add up to the whole.

    Written by the training thread; `phase`, `age` and `meter` may be read from another.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.meter = Meter()
        """What the latest rollout or evaluation has played."""
        self.background: Meter | None = None
        """What a rollout in the background has played; None if there is none."""
        self.played_behind: list[float] = []
        """Seconds of each rollout that was taken from the background since the last step; they are part of no phase."""
        self._phases = [TRAIN]
        self._mark = self._since = time.monotonic()

    @property
    def phase(self) -> str:
        """The phase of this moment."""
        return self._phases[-1]

    @property
    def age(self) -> float:
        """Seconds since this phase began or was taken up again."""
        return time.monotonic() - self._since

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Everything inside belongs to `phase`."""
        self._settle()
        self._phases.append(phase)
        try:
            yield
        finally:
            self._settle()
            self._phases.pop()

    def restart(self) -> dict[str, float]:
        """The seconds of each phase since the last restart."""
        self._settle()
        taken, self.seconds = self.seconds, {}
        return taken

    def _settle(self) -> None:
        now = time.monotonic()
        self.seconds[self.phase] = self.seconds.get(self.phase, 0.0) + now - self._mark
        self._mark = self._since = now


class StepTimes(TrainerCallback):
    """Logs the seconds of each step as `time/rollout`, `time/train` and `time/weight_update`.

    Where rollouts are played ahead, `time/rollout` is beside the others and not part of the step, and there is more:
    `time/wait_for_rollout`, and the shares of the step in which trainer and players had nothing to do, `idle/trainer`
    and `idle/rollout`.

    Args:
        clock: the clock.
        log: called with the name and the value of a metric.
        ahead: whether rollouts are played ahead.
    """

    def __init__(self, clock: PhaseClock, log: Callable[[str, float], None], ahead: bool = False) -> None:
        self.clock, self.log, self.ahead = clock, log, ahead
        self._since_taken = 0.0
        """Seconds of the steps since a rollout was last taken."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.clock.restart()  # what lies between steps, such as an evaluation, belongs to none
        self.clock.played_behind.clear()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        seconds = self.clock.restart()
        rollout = seconds.get(ROLLOUT, 0.0) + sum(self.clock.played_behind)
        self.log(f"time/{ROLLOUT}", rollout)
        for phase in (TRAIN, WEIGHTS):
            self.log(f"time/{phase}", seconds.get(phase, 0.0))
        if self.ahead:
            whole = max(sum(seconds.values()), 1e-9)
            self.log(f"time/{WAIT}", seconds.get(WAIT, 0.0))
            self.log("idle/trainer", (seconds.get(WAIT, 0.0) + seconds.get(ROLLOUT, 0.0)) / whole)
            self._since_taken += whole
            if self.clock.played_behind:  # one rollout may serve several steps
                self.log("idle/rollout", max(0.0, 1 - rollout / self._since_taken))
                self._since_taken = 0.0
