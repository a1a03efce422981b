"""Starting and ending the processes of a launch, and library settings that must precede their first import."""

from __future__ import annotations

import atexit
import os
import sys
from datetime import timedelta
from functools import partial

from metarlgym.datatypes import ConfigError


def check_launch(found: int) -> None:
    """Refuse to run as one of several processes that each run as if alone.

    Args:
        found: number of processes that this one sees.

    Raises:
        ConfigError: if the launcher started more.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if found < world:
        raise ConfigError(
            f"the launcher started {world} processes (WORLD_SIZE), but each found itself alone: this happens with "
            "a GPU configuration on a machine without one. Use configs/accelerate/zero3_cpu.yaml, or set "
            "use_cpu: true there."
        )


def limit_waiting(timeout: timedelta) -> None:
    """Let collective operations fail after `timeout` in all process groups, also those that are made later.

    Otherwise transformers gives a time limit to the default group only, and not on CPUs, and DeepSpeed gives none to
    the groups it makes for sharded weights: PyTorch's defaults apply, 10 minutes for NCCL and 30 for gloo.

    Args:
        timeout: time limit of a single operation, including the wait for the last process to take part.
    """
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return
    distributed.distributed_c10d._set_pg_timeout(timeout)
    original = getattr(distributed.new_group, "func", distributed.new_group)  # if this was called before
    distributed.new_group = partial(original, timeout=timeout)


def end_processes(status: int) -> int:
    """Exit immediately if there are several processes: closing the group would wait for others that may be gone."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


_finished = False
"""Whether the run of this process finished; see `skip_teardown`."""


def skip_teardown() -> None:
    """Arrange that a process of several that finishes its run ends right after the exit handlers of all libraries.

    The threads of process groups and stores outlive Python's own teardown, and now and then one of them aborts the
    process (SIGABRT): the launcher then reports a finished run as failed. Call this before libraries are imported,
    since the handler that is registered first runs last.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        atexit.register(_end_finished)


def _end_finished() -> None:
    if _finished:
        end_processes(0)


def leave_processes() -> None:
    """Close the process group of a finished run, when all processes have come so far."""
    global _finished
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()
    _finished = True


def without_gpu() -> None:
    """Set DeepSpeed's accelerator to the CPU if there is no GPU; otherwise its first import fails without one."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def quiet() -> None:
    """Silence informational output and progress bars of libraries; errors and our own warnings remain."""
    import datasets
    from transformers.utils import logging as hf_logging

    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    without_gpu()
    datasets.disable_progress_bars()
