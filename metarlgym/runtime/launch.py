"""Starting and ending the processes of a launch, and library settings that must precede their first import."""

from __future__ import annotations

import os
import sys

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


def end_processes(status: int) -> int:
    """Exit immediately if there are several processes: closing the group would wait for others that may be gone."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def leave_processes() -> None:
    """Close the process group of a finished run.

    Otherwise its threads end with the interpreter, which occasionally aborts the process (SIGABRT), and the launcher
    reports a finished run as failed.
    """
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


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
