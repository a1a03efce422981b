"""bfloat16 on CPUs: a processor without instructions for it is faster in float32, and as exact."""

from __future__ import annotations

from typing import Any

import torch

from metarlgym.processor import multiplies_bfloat16


def upcast(model: Any, device: torch.device) -> str | None:
    """Convert a bfloat16 model to float32, in place, if it is to run on a CPU that does not multiply bfloat16.

    Returns:
        A line for the user if it was converted.
    """
    if device.type != "cpu" or model.dtype != torch.bfloat16 or multiplies_bfloat16():
        return None
    model.float()
    return (
        "the model is saved in bfloat16, for which this processor has no instructions (avx512_bf16 or amx_bf16): it "
        "runs in float32, with twice the memory."
    )
