"""Leak check of the bottleneck: the gradient from chunk 2 to chunk 1 when the gists are cut off.

Hooks on the embedding and on every layer detach the hidden states at gist positions. Any remaining gradient of chunk
2's loss with respect to chunk 1's embeddings bypasses the gists; under the gist mask it is exactly 0. A leaky mask
shows here immediately, whatever the model has learned.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from metarlgym.selflearning.gist_tokens.model import GistModel


def chunk_1_gradient(model: GistModel, first: Tensor, second: Tensor, cut: bool) -> float:
    """The largest absolute entry of the gradient of chunk 2's summed loss with respect to chunk 1's embeddings.

    Args:
        model: any gist model.
        first: chunk 1, `(B, n1)`.
        second: chunk 2, `(B, n2)`.
        cut: detach the hidden states at gist positions.
    """
    before, gists = first.shape[1], model.gists
    leaf: list[Tensor] = []

    def severed(hidden: Tensor) -> Tensor:
        if not cut:
            return hidden
        parts = hidden[:, :before], hidden[:, before : before + gists].detach(), hidden[:, before + gists :]
        return torch.cat(parts, dim=1)

    def at_embedding(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        leaf.append(output.detach().requires_grad_())
        return severed(leaf[0])

    def at_layer(_module: Any, _inputs: Any, output: Any) -> Any:
        # Some releases of transformers return only the hidden states, others a tuple that starts with them.
        return severed(output) if isinstance(output, Tensor) else (severed(output[0]), *output[1:])

    core = model.network.model
    hooks = [core.embed_tokens.register_forward_hook(at_embedding)]
    hooks += [layer.register_forward_hook(at_layer) for layer in core.layers]
    try:
        logits = model.logits(first, second)[1]
        loss = functional.cross_entropy(logits.flatten(0, 1), second.flatten(), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf[0])
    finally:
        for hook in hooks:
            hook.remove()
    return float(gradient[:, :before].abs().max())
