"""Preemption: on request, a run writes a checkpoint at the end of the step and exits with status 75.

The request is a SIGTERM or a file named `STOP` in the run's folder. Launchers give their processes less time after a
SIGTERM than a rollout takes, so batch scripts use the file. Where a cluster sends SIGTERM to everything, it ends the
servers too: the rollout is given up, and the checkpoint is that of the step before it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import TrainerCallback

from metarlgym.runtime.interrupt import Preempted

STOP, STOPPED = "STOP", "STOPPED"


class Preemption(TrainerCallback):
    """Ends training on request, at a step whose checkpoint can be resumed exactly.

    Args:
        folder: the run's folder. A stopped run leaves the file `STOPPED` there, which holds its step.

    Attributes:
        on_signal: called at a SIGTERM, inside the signal handler.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.on_signal: Callable[[], None] = lambda: None
        self.step: int | None = None
        """The step at which the run was stopped."""
        self._signaled = False
        self._before: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            (self.folder / STOPPED).unlink(missing_ok=True)
        try:
            self._before = signal.signal(signal.SIGTERM, self._note)
        except ValueError:
            self._before = None  # not the main thread: only the file can request a stop

    def _note(self, *_: Any) -> None:
        self._signaled = True
        self.on_signal()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        asked = self._signaled or (state.is_world_process_zero and (self.folder / STOP).exists())
        if not any(gather_object([asked])):
            return
        cycle = args.steps_per_generation * args.num_iterations
        if state.global_step < state.max_steps and state.global_step * args.gradient_accumulation_steps % cycle == 0:
            control.should_save = control.should_training_stop = True
            self.step = state.global_step

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        if state.is_world_process_zero:
            (self.folder / STOP).unlink(missing_ok=True)
            if self.step is not None:
                self._leave_step()

    def _leave_step(self) -> None:
        (self.folder / STOPPED).write_text(f"{self.step}\n", encoding="utf-8")

    def check_failure(self, step: int) -> None:
        """After a failure of all processes with a checkpoint at `step`: raise `Preempted` if any got a SIGTERM.

        Collective.
        """
        if not any(gather_object([self._signaled])):
            return
        self.step = step
        if PartialState().is_main_process:
            self._leave_step()
        self.check()

    def check(self) -> None:
        """Raise `Preempted` if the run was stopped early."""
        if self.step is not None:
            # When the first process exits, the launcher kills the others, which may still be writing.
            PartialState().wait_for_everyone()
            raise Preempted(f"stopped after step {self.step} as asked; resume with --resume.")
