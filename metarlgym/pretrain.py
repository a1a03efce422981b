"""`python -m metarlgym.pretrain --config FILE`: a pretraining run, as started by accelerate's launcher."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from metarlgym.author_errors import error_text
from metarlgym.datatypes import MetaRLGymError
from metarlgym.runtime.faults import describe_exit, describe_fault
from metarlgym.runtime.launch import end_processes, leave_processes, without_gpu
from metarlgym.runtime.terminal import prepare_output, say


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns the exit status. Errors that the user can fix are printed as one line."""
    from metarlgym.runtime.interrupt import Interrupted, status_of, stoppable

    prepare_output()
    try:
        with stoppable():
            without_gpu()
            from metarlgym.pretraining.run import parse, run_pretraining

            run_pretraining(parse(list(sys.argv[1:] if arguments is None else arguments)))
            leave_processes()
    except (KeyboardInterrupt, Interrupted) as error:  # KeyboardInterrupt while libraries are being imported
        say(error_text(error) or "nothing was started.", stopped=True)
        return end_processes(getattr(error, "status", status_of(type(error))))
    except MetaRLGymError as error:
        from metarlgym.runtime.agreement import AgreedError

        say(error_text(error), by_all=isinstance(error, AgreedError))
        return 2
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
