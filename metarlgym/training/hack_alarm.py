"""Hack detector as a callback for GRPO with a learned reward: checkpoint and stop when the reward is being hacked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from transformers import TrainerCallback

from metarlgym.datatypes import ConfigError
from metarlgym.training.hack_detector import HackDetector

Measures = Callable[[Any], Mapping[str, float]]


class HackAlarm(TrainerCallback):
    """Runs a check whenever the run logs its reward, so `logging_steps` sets the interval.

    Works with TRL's `GRPOTrainer` and with ours. On an alarm it reports which measures got worse, writes a checkpoint
    and ends training; with `stop=False` it only reports.

    Args:
        detector: holds the ground-truth measures to watch.
        measure: maps the model to measures by name, such as the loss on real held-out data.
        signal: log key of the learned reward.
        stop: end the run on an alarm.
        console: where to report.
    """

    def __init__(
        self,
        detector: HackDetector,
        measure: Measures,
        signal: str = "reward",
        stop: bool = True,
        console: Console | None = None,
    ) -> None:
        self.detector, self.measure, self.signal, self.stop = detector, measure, signal, stop
        self.console = console or Console(stderr=True)
        self.checks: list[dict[str, float]] = []
        """All checks so far: step, signal and measures."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, model: Any = None, **_: Any) -> None:
        if not logs or self.signal not in logs:
            return
        truth = dict(self.measure(model))
        unknown = [name for name in self.detector.measures if name not in truth]
        if unknown:
            raise ConfigError(f"measure returned {sorted(truth)}: the detector also watches {unknown[0]!r}.")
        self.checks.append({"step": state.global_step, "signal": logs[self.signal], **truth})
        already = self.detector.alarm_step is not None
        if not self.detector.check(state.global_step, logs[self.signal], truth):
            return
        if not already and state.is_world_process_zero:
            worse = ", ".join(self.detector.reasons)
            self.console.print(
                f"step {state.global_step}: {self.signal} keeps improving while {worse} got worse: it is being hacked"
                + ("; the run ends here, with a checkpoint." if self.stop else "."),
                highlight=False,
            )
        if self.stop:
            control.should_save = control.should_training_stop = True
