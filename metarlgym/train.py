"""`python -m metarlgym.train --config FILE`: a training run, as `accelerate launch -m metarlgym.train` starts it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console

from metarlgym.author_errors import error_text
from metarlgym.datatypes import MetaRLGymError
from metarlgym.runtime.faults import describe_exit, describe_fault
from metarlgym.runtime.launch import end_processes, leave_processes, without_gpu
from metarlgym.runtime.terminal import prepare_output, say


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns the exit status. Errors that the user can fix are printed as one line."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    dry_run = "--dry-run" in arguments or "--dry_run" in arguments
    start_only = "--start-only" in arguments  # set internally: see training/start.py
    arguments = [a for a in arguments if a not in ("--dry-run", "--dry_run", "--start-only")]
    from metarlgym.runtime.interrupt import Interrupted, status_of, stoppable

    prepare_output()
    try:
        with stoppable():
            without_gpu()
            from metarlgym.training.arguments import parse
            from metarlgym.training.run import run_training

            run_training(parse(arguments), Console(), dry_run, start_only)
            leave_processes()
    except (KeyboardInterrupt, Interrupted) as error:  # KeyboardInterrupt while libraries are being imported
        if not start_only:  # otherwise the run that started this process reports it
            say(error_text(error) or "nothing was started.", stopped=True)
        return end_processes(getattr(error, "status", status_of(type(error))))
    except MetaRLGymError as error:
        from metarlgym.runtime.agreement import AgreedError
        from metarlgym.training.preemption import EXIT_STATUS, Preempted

        stopped = isinstance(error, Preempted)
        # For errors raised by all processes, only the main one prints the message.
        say(error_text(error), stopped, by_all=isinstance(error, AgreedError | Preempted))
        return EXIT_STATUS if stopped else 2
    except Exception as error:
        fault = describe_fault(error)
        if fault is None:
            raise
        say(fault, by_all=False)
        return 2
    except SystemExit as error:
        say(describe_exit(error), by_all=False)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
