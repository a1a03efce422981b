"""Collapse: all trials of a task score alike, in every group, so that nothing is learned any more."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

WARN_AFTER = 5
"""Rollouts in a row without any signal after which a warning is given, once."""


class CollapseWatch(TrainerCallback):
    """Counts rollouts in a row in which no group has a learning signal; warns, and ends the run if asked to.

    Args:
        stop_after: end the run after this many such rollouts; None to warn only.
        optimum: gives the optimal return of a trial, named in the message; None if unknown.
        notify: called with the warning.
    """

    def __init__(
        self, stop_after: int | None, optimum: Callable[[], float | None], notify: Callable[[str], None] = warnings.warn
    ) -> None:
        self.stop_after = stop_after
        self.optimum = optimum
        self.notify = notify
        self.quiet = 0
        """Such rollouts in a row; the count starts anew when a run is resumed."""

    def note(self, zero_signal_groups: float, trial_return: float) -> None:
        """Called after each rollout that is learned from, with the batch's metrics; they are equal on all processes."""
        if zero_signal_groups < 1.0:
            self.quiet = 0
            return
        self.quiet += 1
        if self.quiet == min(WARN_AFTER, self.stop_after or WARN_AFTER):
            optimum = self.optimum()
            best = "" if optimum is None else f", the optimum {optimum:.2f}"
            end = "" if self.stop_after is None else f" The run ends after {self.stop_after} such rollouts."
            self.notify(
                f"for {self.quiet} rollouts in a row all trials of a task scored alike, so nothing is being learned "
                f"(return {trial_return:.2f}{best}). Unless it is the optimum, the policy has stopped exploring: raise "
                f"exploration_coef, play more tasks or trials_per_task, or lower learning_rate.{end}"
            )

    @property
    def ends_run(self) -> bool:
        return self.stop_after is not None and self.quiet >= self.stop_after

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.ends_run:
            self.notify(f"the run ends at step {state.global_step}: {self.quiet} rollouts in a row without a signal.")
            control.should_save = control.should_training_stop = True
