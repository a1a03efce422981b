"""`python -m metarlgym.pretrain --config FILE`: a pretraining run, as started by accelerate's launcher."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from metarlgym.runtime.run_process import run_process


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns the exit status."""

    def pretrain() -> None:
        from metarlgym.pretraining.run import parse, run_pretraining

        run_pretraining(parse(list(sys.argv[1:] if arguments is None else arguments)))

    return run_process(pretrain)


if __name__ == "__main__":
    sys.exit(main())
