"""What the processor can do: products of bfloat16 matrices are twice as fast as of float32 only where it has them."""

from __future__ import annotations

import torch

INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""Names in `torch.cpu.get_capabilities()`, on x86 and ARM."""


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products in bfloat16."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name) for name in INSTRUCTIONS)
