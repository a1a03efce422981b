"""Starting and leaving the processes of a launch, and settings of libraries that come before their first import."""

from __future__ import annotations

import os
import sys

from metarlgym.datatypes import ConfigError


def check_launch(found: int) -> None:
    """Refuse to run as one of several processes that each believe to be alone.

    Args:
        found: processes that this one knows of.

    Raises:
        ConfigError: the launcher started more.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if found < world:
        raise ConfigError(
            f"the launcher started {world} processes (WORLD_SIZE), but each found itself alone: this happens with "
            "a GPU configuration on a machine without one. Use configs/accelerate/zero3_cpu.yaml, or set "
            "use_cpu: true there."
        )


def end_processes(status: int) -> int:
    """End a process of several at once: the others may be gone, and closing the group would wait for them."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def leave_processes() -> None:
    """Close the process group of a run that is done.

    Its threads would otherwise end with the interpreter, which now and then aborts the process (SIGABRT), and the
    launcher would call a finished run a failure.
    """
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def without_gpu() -> None:
    """DeepSpeed looks for its accelerator when it is first imported, and stops without this where there is none."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def quiet() -> None:
    """Silence what libraries print about themselves; warnings of ours and errors stay."""
    import datasets
    from transformers.utils import logging as hf_logging

    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    without_gpu()
    datasets.disable_progress_bars()
