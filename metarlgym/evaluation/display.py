"""EvalDisplay: how far an evaluation is, over all its passes, from its first seconds on."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from metarlgym.datatypes import MetaTrajectory
from metarlgym.evaluation.choice import FIRST, Choice, duration
from metarlgym.evaluation.watch import Watch
from metarlgym.runtime.memory_watch import MemoryWatch
from metarlgym.runtime.ticker import Ticker

PASSES = {
    "main": "held-out trials",
    "random": "random play",
    "no_memory": "control: no memory",
    "shuffled": "control: another task's history",
}
FIRST_LINE, EVERY = 5.0, 10.0
"""Seconds to the first line without a terminal, and between later ones."""


class EvalDisplay(Watch):
    """Bars for the passes on a terminal, plain lines elsewhere, and a warning when memory is near its end.

    Args:
        console: where to print.
        controls: whether the controls are played too.
        on_trial: called with the index and the trajectory of each trial of the main pass as it ends.
        lower: names the settings that need less memory when lowered.
    """

    def __init__(
        self,
        console: Console,
        controls: bool,
        on_trial: Callable[[int, MetaTrajectory], None] | None = None,
        lower: str = "--concurrency",
    ) -> None:
        super().__init__()
        self.console, self.on_trial, self.lower = console, on_trial, lower
        self.passes = ["main", "no_memory", "shuffled"] if controls else ["main"]
        """The passes of the model. Random play takes no time beside it."""
        self.name = ""
        self.total = 0
        self.done = 0
        """Trials of this pass that ended."""
        self.start = time.monotonic()
        self.bars = Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"))
        self.live: Live | None = None
        self.ticker: Ticker | None = None

    def __enter__(self) -> EvalDisplay:
        self.start = time.monotonic()
        memory = MemoryWatch(self._warn, self.lower)
        if self.console.is_terminal:
            self.live = Live(self, console=self.console, refresh_per_second=4)
            self.live.start()
            tick: Callable[[], None] = memory
        else:

            def tick() -> None:
                memory()
                self.console.print(self.line(), highlight=False, soft_wrap=True)

        self.ticker = Ticker(tick, FIRST_LINE, EVERY)
        self.ticker.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self.ticker is not None:
            self.ticker.close()
        if self.live is not None:
            self.live.stop()
            self.live = None
        if self.meter.turns:
            seconds = time.monotonic() - self.start
            self.console.print(f"played {self.meter.summary()} in {duration(seconds)}", highlight=False, soft_wrap=True)

    def _warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", style="yellow", highlight=False, soft_wrap=True)

    # ------------------------------------------------------------------ told by the evaluation

    def begin(self, name: str, trials: int) -> None:
        self._update()
        self.name, self.total, self.done = name, trials, 0
        self.bars.add_task(PASSES[name], total=trials or None, count="")

    def trial(self, name: str, index: int, trajectory: MetaTrajectory) -> None:
        self.done += 1
        if name == "main" and self.on_trial is not None:
            self.on_trial(index, trajectory)

    def chosen(self, choice: Choice) -> None:
        self.total = choice.trials
        self.bars.update(self.bars.tasks[-1].id, total=choice.trials)
        self.console.print(str(choice), highlight=False, soft_wrap=True)

    # ------------------------------------------------------------------ shown

    def share(self) -> float:
        """Fraction of the whole evaluation that is done; 0 while unknown."""
        if not self.total or self.name == "":
            return 0.0
        if self.name not in self.passes:  # random play, right after the main pass
            return 1 / len(self.passes)
        within = min(1.0, (self.done + self.meter.in_flight) / self.total)
        return (self.passes.index(self.name) + within) / len(self.passes)

    def left(self) -> str:
        """The time that is left, in words; empty while unknown."""
        share = self.share()
        return f"{duration(self.meter.seconds * (1 - share) / share)} left" if share else ""

    def line(self) -> str:
        """How far it is."""
        if not self.name:
            return "preparing"
        place = f"{self.done:,} of {self.total:,} trials" if self.total else f"{self.done} of the first {FIRST} trials"
        if self.done > FIRST and not self.total:
            place = f"{self.done:,} trials"
        return ", ".join(part for part in (f"{PASSES[self.name]}: {place}", self.meter.summary(), self.left()) if part)

    def _update(self) -> None:
        if self.bars.tasks:
            count = f"{self.done:,}/{self.total:,}" if self.total else f"{self.done:,}"
            self.bars.update(self.bars.tasks[-1].id, completed=self.done, count=count)

    def __rich__(self) -> Group:
        self._update()
        parts = [duration(time.monotonic() - self.start), self.meter.summary(), self.left()]
        return Group(self.bars, Text(", ".join(part for part in parts if part), style="dim"))
