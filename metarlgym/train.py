"""`python -m metarlgym.train --config FILE`: a training run, as `accelerate launch -m metarlgym.train` starts it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from rich.console import Console

from metarlgym.datatypes import MetaRLGymError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns the exit status. Errors a user can mend are one line."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    dry_run = "--dry-run" in arguments or "--dry_run" in arguments
    start_only = "--start-only" in arguments  # set by ourselves: see training/start.py
    arguments = [a for a in arguments if a not in ("--dry-run", "--dry_run", "--start-only")]
    errors = Console(stderr=True)
    try:
        from metarlgym.training.arguments import parse
        from metarlgym.training.run import run_training

        run_training(parse(arguments), Console(), dry_run, start_only)
    except MetaRLGymError as error:
        from metarlgym.training.agreement import AgreedError

        if isinstance(error, AgreedError) and os.environ.get("RANK", "0") != "0":
            return 2  # the main process says it for all
        errors.print(f"[bold red]error:[/] {error}", highlight=False, soft_wrap=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
