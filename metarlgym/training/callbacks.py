"""Trial samples and live progress of a training run."""

from __future__ import annotations

import json
import time
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
from metarlgym.rollout.records import Decode, record
from metarlgym.runtime.log_lines import Lines
from metarlgym.runtime.memory_watch import MemoryWatch
from metarlgym.runtime.ticker import Ticker
from metarlgym.training.phases import EVALUATION, ROLLOUT, TRAIN, WAIT, WEIGHTS, PhaseClock

BLOCKS = " ▁▂▃▄▅▆▇█"
WORDS = {
    TRAIN: "update",
    ROLLOUT: "rollout",
    WAIT: "waiting for the rollout",
    WEIGHTS: "weights to the policy",
    EVALUATION: "evaluation",
}
PHASES = (ROLLOUT, WAIT, TRAIN, WEIGHTS)
LONG, EVERY = 5.0, 10.0
"""Without a terminal: seconds of a phase after which a line says what is going on, and seconds between such lines."""
LOWER = "per_device_train_batch_size, rollout_concurrency or max_action_tokens, or set gradient_checkpointing"


class TrialSamples:
    """Writes a few trials of a rollout to `trials.jsonl` in readable form.

    Args:
        folder: the run's folder.
        every: write each time after this many steps; 0: never.
        count: number of trials to write.
        notify: called with a message when writing fails; default: a warning.
        rules: the rules as the policy sees them.
        decode: if given, the contexts are written too; see `rollout.records.record`.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        count: int,
        notify: Callable[[str], None] = warnings.warn,
        rules: str = "",
        decode: Decode | None = None,
    ) -> None:
        self.lines = Lines(folder / "trials.jsonl", notify)
        self.every, self.count, self.rules, self.decode = every, count, rules, decode

    def __call__(self, step: int, trajectories: list[MetaTrajectory]) -> None:
        if not self.every or step % self.every:
            return
        records = (record(trajectory, self.rules, self.decode) for trajectory in trajectories[: self.count])
        self.lines.write(*({"step": step, **_writable(trial)} for trial in records))


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
    """A progress bar with the return and the return curve over episodes; plain lines without a terminal.

    Both also say what is going on within a step, and warn once when memory is near its end.

    Args:
        console: where to print.
        optimum: of the trials, if it is known.
    """

    def __init__(self, console: Console, optimum: Optimum | None) -> None:
        self.console = console
        self.optimum = optimum
        self.clock: PhaseClock | None = None
        """The trainer's clock; set it once there is a trainer, to see what goes on within a step."""
        self.ticker: Ticker | None = None
        self._told = 0.0
        self._place = ""
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
        self._place = f"step {state.global_step + 1}/{state.max_steps}"
        self._told = time.monotonic()
        memory = MemoryWatch(self._warn, LOWER)

        def tick() -> None:
            memory()
            self._tell()

        self.ticker = Ticker(tick, 1.0, 1.0)
        self.ticker.__enter__()
        if self.console.is_terminal:
            self.live = Live(self, console=self.console, refresh_per_second=4)
            self.live.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.task is not None:
            self.bar.update(self.task, completed=state.global_step)
            self._place = f"step {state.global_step + 1}/{state.max_steps}"

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
        if self.ticker is not None:
            self.ticker.close()
            self.ticker = None
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", style="yellow", highlight=False, soft_wrap=True)

    def _tell(self) -> None:
        """Without a terminal, say what is going on if it takes long."""
        clock, now = self.clock, time.monotonic()
        if clock is None or self.live is not None or clock.age < LONG or now - self._told < EVERY:
            return
        self._told = now
        self.console.print(f"{self._place}  {self.activity()}", highlight=False, soft_wrap=True)

    def activity(self) -> str:
        """What is going on now, and for how long."""
        if self.clock is None:
            return ""
        phase, meter = self.clock.phase, self.clock.meter
        text = f"{WORDS[phase]}, {self.clock.age:.0f} s"
        if phase in (ROLLOUT, WAIT, EVALUATION):
            text += f": {meter.ended()}, {meter.summary()}"
        elif ahead := self.clock.background:
            text += f"; next rollout: {ahead.ended()}, {ahead.summary()}"
        return text

    def times(self) -> str:
        """Seconds of the latest steps by phase, and the tokens that a second of rollout sampled."""
        seconds = [(WORDS[phase], float(self.latest.get(f"time/{phase}", 0))) for phase in PHASES]
        parts = [f"{word} {value:.1f} s" for word, value in seconds if value >= 0.05]
        if parts and (rate := float(self.latest.get("rollout/tokens_per_second", 0))):
            parts.append(f"{rate:,.0f} tokens/s")
        return ", ".join(parts)

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
            f"invalid {invalid:.1%}  entropy {entropy:.2f}  {self.times()}"
        ).rstrip()

    def __rich__(self) -> Group:
        table = Table.grid()
        if self.latest:
            table.add_row(self.line())
        if activity := self.activity():
            table.add_row(activity)
        return Group(self.bar, table)
