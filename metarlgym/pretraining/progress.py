"""Terminal output of a pretraining run."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback


class PretrainProgress(TrainerCallback):
    """A progress bar with the loss and the gap to the floor; without a terminal, one line per evaluation."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = Progress(
            TextColumn("[bold]train"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[losses]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self.task: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.task = self.bar.add_task("train", total=state.max_steps, completed=state.global_step, losses="")
            if self.console.is_terminal:
                self.bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.task is not None:
            self.bar.update(self.task, completed=state.global_step)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        if self.task is None or not metrics:
            return
        gap = metrics["eval_gap"]
        losses = f"loss {metrics['eval_loss']:.4f}, floor {metrics['eval_floor']:.4f}"
        losses += "" if gap is None else f", gap {gap:.1%}"
        self.bar.update(self.task, losses=losses)
        if not self.console.is_terminal:
            self.console.print(f"step {state.global_step}/{state.max_steps}  {losses}", highlight=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.close()

    def close(self) -> None:
        if self.bar.live.is_started:
            self.bar.stop()
