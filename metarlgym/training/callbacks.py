"""Trial samples and live progress of a training run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from transformers import TrainerCallback

from metarlgym.author_values import encodable
from metarlgym.datatypes import MetaTrajectory, Optimum
from metarlgym.runtime.log_lines import Lines

BLOCKS = " ▁▂▃▄▅▆▇█"


class TrialSamples:
    """Writes a few trials of a rollout to `trials.jsonl` in readable form; see `MetricsFile` for the arguments."""

    def __init__(self, folder: Path, every: int, count: int, notify: Callable[[str], None] = warnings.warn) -> None:
        self.lines = Lines(folder / "trials.jsonl", notify)
        self.every, self.count = every, count

    def __call__(self, step: int, trajectories: list[MetaTrajectory]) -> None:
        if not self.every or step % self.every:
            return
        self.lines.write(*({"step": step, **_writable(t.to_dict())} for t in trajectories[: self.count]))


def _writable(trial: dict[str, Any]) -> dict[str, Any]:
    """The trial with lone surrogates, in actions or task parameters, replaced by "?" so that UTF-8 can encode it."""
    text = json.dumps(trial, ensure_ascii=False)
    return trial if encodable(text) else json.loads(text.encode("utf-8", "replace"))


def sparkline(curve: list[float], top: float) -> str:
    """A curve with one character per value; a full block stands for `top`."""
    top = top or 1.0
    return "".join(BLOCKS[max(0, min(8, round(8 * value / top)))] for value in curve)


def _tasks_of(args: Any, steps: int) -> int:
    """Number of tasks played in `steps` optimizer steps, over all processes."""
    micro_batches = max(1, steps) * args.gradient_accumulation_steps
    rollouts = max(1, micro_batches // (args.steps_per_generation * args.num_iterations))
    return rollouts * args.generation_batch_size // args.num_generations


class LiveProgress(TrainerCallback):
    """A progress bar with the return and the return curve over episodes; plain lines without a terminal."""

    def __init__(self, console: Console, optimum: Optimum | None) -> None:
        self.console = console
        self.optimum = optimum
        self.latest: dict[str, float] = {}
        self.tasks = 0
        """Number of tasks over which the latest values are averaged."""
        self.logged_step = 0
        self.bar = Progress(
            TextColumn("[bold]train"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self.task: Any = None
        self.live: Live | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        self.logged_step = state.global_step
        self.task = self.bar.add_task("train", total=state.max_steps, completed=state.global_step)
        if self.console.is_terminal:
            self.live = Live(self, console=self.console, refresh_per_second=4)
            self.live.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.task is not None:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if self.task is None or not logs or "trial_return" not in logs:
            return
        self.latest = logs
        self.tasks = _tasks_of(args, state.global_step - self.logged_step)
        self.logged_step = state.global_step
        if self.live is None:
            self.console.print(f"step {state.global_step}/{state.max_steps}  {self.line()}", highlight=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.close()

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def curve(self) -> list[float]:
        values: list[float] = []
        while (value := self.latest.get(f"episode_{len(values) + 1}/return")) is not None:
            values.append(float(value))
        return values

    def line(self) -> str:
        curve = self.curve()
        peak = max([1e-9, *curve, *((self.optimum.curve or ()) if self.optimum else ())])
        best = ""
        if self.optimum and self.optimum.total is not None:
            # These few tasks may be easier than average, so the return can exceed the mean optimum.
            best = f" on {self.tasks} task{'s' * (self.tasks != 1)} (mean optimum {self.optimum.total:.2f})"
        shown = " ".join(f"{value:.2f}" for value in (curve if len(curve) <= 10 else [*curve[:5], *curve[-5:]]))
        value, invalid, entropy = (float(self.latest.get(k, 0)) for k in ("trial_return", "invalid_rate", "entropy"))
        return (
            f"return {value:.3f}{best}  {sparkline(curve, peak)}  [{shown}]  "
            f"invalid {invalid:.1%}  entropy {entropy:.2f}"
        )

    def __rich__(self) -> Group:
        table = Table.grid()
        if self.latest:
            table.add_row(self.line())
        return Group(self.bar, table)
