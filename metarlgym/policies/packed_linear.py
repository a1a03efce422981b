"""While a large model acts on a CPU, its linear layers multiply weights that oneDNN has laid out for its kernels.

`nn.Linear` calls MKL for float32, which on processors that are not Intel's takes up to three times as long for the few
rows of a decoding step, and lets oneDNN lay out bfloat16 weights again in each call. torch's compiler packs weights the
same way when it freezes a model. The copies take as much memory as the layers, and results differ in rounding only.
Small models, such as those from scratch, are left as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from metarlgym.policies.memory import free_memory

SMALLEST = 2**26
"""Number of weights in linear layers from which on they are packed."""
SHARE = 0.25
"""Share of the free memory that the copies may take."""
ROWS = 16
"""Number of rows that the layout is chosen for."""


@contextmanager
def packed(model: Any) -> Iterator[None]:
    """Within the block, linear layers use packed copies of their present weights; needs `torch.no_grad`."""
    layers = _worth_packing(model)
    try:
        for layer in layers:
            weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)
            layer.forward = partial(_forward, layer, weight)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)  # the class has its own


def _forward(layer: torch.nn.Linear, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    if torch.is_autocast_enabled("cpu") or x.dtype != weight.dtype:  # the packed product knows no autocast
        return F.linear(x, layer.weight, layer.bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, layer.bias, "none", [], "")


def _worth_packing(model: Any) -> list[torch.nn.Linear]:
    """The layers to pack; none on a GPU, in a small model, without memory, or if torch was built without oneDNN."""
    if model.device.type != "cpu" or not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return []
    if model.dtype not in (torch.float32, torch.bfloat16) or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return []
    if model.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return []
    layers = [
        module
        for module in model.modules()
        if type(module) is torch.nn.Linear and "forward" not in module.__dict__ and module.weight.dtype == model.dtype
    ]
    weights = sum(layer.weight.numel() for layer in layers)
    if weights < SMALLEST or weights * model.dtype.itemsize > SHARE * free_memory(model.device):
        return []
    return layers
