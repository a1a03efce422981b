"""`metrics.jsonl`: one line for each log of a trainer."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from metarlgym.runtime.log_lines import Lines


class MetricsFile(TrainerCallback):
    """Appends everything logged to `metrics.jsonl`, one JSON object per line, with `step` and `seconds`.

    Args:
        folder: the run's folder.
        tell: says what cannot be written; by default a warning.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None] = warnings.warn) -> None:
        self.lines = Lines(folder / "metrics.jsonl", tell)
        self.start = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            seconds = round(time.monotonic() - self.start, 3)
            self.lines.write({"step": state.global_step, "seconds": seconds, **logs})

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.lines.close()
