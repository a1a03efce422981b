"""What the processor can do: matrix products in bfloat16 are twice as fast as in float32 only where it has them."""

from __future__ import annotations

import torch


def has_bfloat16() -> bool:
    """Whether this CPU multiplies matrices of bfloat16 in hardware (AVX-512 BF16 or AMX); elsewhere it is emulated."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
