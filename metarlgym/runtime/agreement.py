"""Collective errors: raised on all processes of a launch, so that none is left waiting for the others."""

from __future__ import annotations

from accelerate import PartialState
from accelerate.utils import gather_object

from metarlgym.datatypes import MetaRLGymError


class AgreedError(MetaRLGymError):
    """Raised on every process with the same text; the first process of each machine prints it."""


def agree(problem: Exception | None) -> None:
    """Raise on all processes if any has a problem. Collective: every process must call it.

    Raises:
        AgreedError: on all processes, with the text of the first problem; a single process raises `problem` itself.
    """
    found = [(rank, text) for rank, text in enumerate(gather_object([str(problem) if problem else None])) if text]
    if found:
        if PartialState().num_processes == 1 and problem is not None:
            raise problem
        rank, text = found[0]
        raise AgreedError(text if rank == 0 else f"{text} (on process {rank}, not on those before it)")
