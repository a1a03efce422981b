"""The frame of a process of a training run: its output, its errors and its exit status."""

from __future__ import annotations

import os
from collections.abc import Callable

from metarlgym.author_errors import error_text
from metarlgym.datatypes import MetaRLGymError
from metarlgym.runtime.extension_builds import await_builds
from metarlgym.runtime.faults import describe_exit, describe_fault
from metarlgym.runtime.interrupt import PREEMPTED, Interrupted, Preempted, status_of, stoppable
from metarlgym.runtime.launch import end_processes, leave_processes, skip_teardown, without_gpu
from metarlgym.runtime.terminal import note, prepare_output, say


def run_process(work: Callable[[], object], report_stop: bool = True) -> int:
    """Do the work of one process of a launch. Errors that the user can fix are printed as one line.

    Args:
        work: imports what it needs itself, so that Ctrl-C during the imports is reported too.
        report_stop: whether to print a line when a signal stops the work.

    Returns:
        The exit status.
    """
    prepare_output()
    skip_teardown()
    try:
        with stoppable():
            without_gpu()
            if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":  # set by accelerate launch
                await_builds(note)
            work()
            leave_processes()
    except (KeyboardInterrupt, Interrupted) as error:  # KeyboardInterrupt while libraries are being imported
        if report_stop:
            say(error_text(error) or "nothing was started.", stopped=True)
        return end_processes(getattr(error, "status", status_of(type(error))))
    except MetaRLGymError as error:
        from metarlgym.runtime.agreement import AgreedError

        stopped = isinstance(error, Preempted)
        # For errors raised by all processes, only the first of each machine prints the message.
        say(error_text(error), stopped, by_all=isinstance(error, AgreedError | Preempted))
        return PREEMPTED if stopped else 2
    except Exception as error:
        fault = describe_fault(error)
        if fault is None:
            raise
        say(fault, by_all=False)
        return end_processes(2)
    except SystemExit as error:
        say(describe_exit(error), by_all=False)
        return 2
    return 0
