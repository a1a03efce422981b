"""`metrics.jsonl`: one line per log call of a trainer."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from metarlgym.runtime.log_lines import SUMMARY, Lines, is_summary


class MetricsFile(TrainerCallback):
    """Appends everything logged to `metrics.jsonl`, one JSON object per line, with `step` and `seconds`.

    Args:
        folder: the run's folder.
        notify: called with a message when writing fails; default: a warning.
    """

    def __init__(self, folder: Path, notify: Callable[[str], None] = warnings.warn) -> None:
        self.lines = Lines(folder / "metrics.jsonl", notify)
        self.start = time.monotonic()
        self.summarized = False
        """Whether this is a finished run, reopened, whose summary line is already in the file."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        nothing_left = state.global_step >= state.max_steps
        self.summarized = nothing_left and self.lines.path.is_file() and any(map(is_summary, self._read()))

    def _read(self) -> list[str]:
        return self.lines.path.read_text(encoding="utf-8", errors="replace").split("\n")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            if self.summarized and SUMMARY in logs:
                return
            seconds = round(time.monotonic() - self.start, 3)
            self.lines.write({"step": state.global_step, "seconds": seconds, **logs})

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.lines.close()
