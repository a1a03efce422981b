"""`python -m metarlgym.pretrain --config FILE`: a pretraining run, as accelerate's launcher starts it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from metarlgym.datatypes import MetaRLGymError
from metarlgym.train import leave_processes, without_gpu


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns the exit status. Errors a user can mend are one line."""
    without_gpu()
    try:
        from metarlgym.pretraining.run import parse, run_pretraining

        run_pretraining(parse(list(sys.argv[1:] if arguments is None else arguments)))
        leave_processes()
    except MetaRLGymError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
