"""`python -m metarlgym.train --config FILE`: a training run, as `accelerate launch -m metarlgym.train` starts it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console

from metarlgym.runtime.run_process import run_process


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    dry_run = "--dry-run" in arguments or "--dry_run" in arguments
    start_only = "--start-only" in arguments  # set internally: see training/start.py
    arguments = [a for a in arguments if a not in ("--dry-run", "--dry_run", "--start-only")]

    def train() -> None:
        from metarlgym.training.arguments import parse
        from metarlgym.training.run import run_training

        run_training(parse(arguments), Console(), dry_run, start_only)

    # A start-only process is a child of a run, which reports the stop itself.
    return run_process(train, report_stop=not start_only)


if __name__ == "__main__":
    sys.exit(main())
