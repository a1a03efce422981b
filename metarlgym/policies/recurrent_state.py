"""StateStore: keeps the state of recurrent networks, in place of a KV cache.

Such a model has `state_batch_dim` (the batch dimension of its state tensors), accepts `state=` in its forward pass and
returns the state after the last token. The state before the first token is all zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from metarlgym.policies.context_store import ContextStore


class StateStore(ContextStore):
    """The state after the last encoded token of each context.

    Args:
        model: a recurrent model, see above.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.slots = 0
        self._dim: int = model.state_batch_dim
        self._device = model.device
        self._form: Any = None
        """A state as returned by the model, for its nesting."""
        self._kept: list[torch.Tensor] = []
        """The state tensors with the slots as first dimension."""

    def reserve(self, slots: int, length: int) -> None:
        if slots <= self.slots:
            return
        self.slots = max(slots, 2 * self.slots)
        for i, old in enumerate(self._kept):
            new = old.new_zeros(self.slots, *old.shape[1:])
            new[: old.shape[0]] = old
            self._kept[i] = new

    def encode(self, slots: Sequence[int], known: Sequence[int], feeds: Sequence[Sequence[int]]) -> torch.Tensor:
        # A state cannot skip padding, so contexts are grouped by the number of tokens they need.
        by_length: dict[int, list[int]] = {}
        for i, feed in enumerate(feeds):
            by_length.setdefault(len(feed), []).append(i)
        if len(by_length) == 1:
            return self._encode(slots, known, feeds)
        parts = [
            self._encode([slots[i] for i in rows], [known[i] for i in rows], [feeds[i] for i in rows])
            for rows in by_length.values()
        ]
        order = torch.tensor([i for rows in by_length.values() for i in rows], device=self._device)
        logits = torch.cat(parts)
        return torch.empty_like(logits).index_copy_(0, order, logits)

    def _encode(self, slots: Sequence[int], known: Sequence[int], feeds: Sequence[Sequence[int]]) -> torch.Tensor:
        rows = torch.tensor(slots, device=self._device)
        state = None
        if any(known):
            old = [tensor.index_select(0, rows) for tensor in self._kept]
            if not all(known):
                fresh = torch.tensor([not k for k in known], device=self._device)
                for tensor in old:
                    tensor[fresh] = 0
            state = _in_form(self._form, iter([t.movedim(0, self._dim).contiguous() for t in old]))
        output = self.model(input_ids=torch.tensor(feeds, device=self._device), state=state, logits_to_keep=1)
        new = [tensor.movedim(self._dim, 0) for tensor in _tensors(output.state)]
        if not self._kept:
            self._form = output.state
            self._kept = [tensor.new_zeros(self.slots, *tensor.shape[1:]) for tensor in new]
        for kept, tensor in zip(self._kept, new, strict=True):
            kept[rows] = tensor
        return output.logits[:, -1]

    def copy(self, source: int, targets: Sequence[int], length: int) -> None:
        for tensor in self._kept:
            tensor[torch.tensor(targets, device=self._device)] = tensor[source].clone()


def _tensors(state: Any) -> list[torch.Tensor]:
    return [state] if isinstance(state, torch.Tensor) else [tensor for part in state for tensor in _tensors(part)]


def _in_form(form: Any, tensors: Iterator[torch.Tensor]) -> Any:
    """The tensors, nested as in `form`."""
    return next(tensors) if isinstance(form, torch.Tensor) else tuple(_in_form(part, tensors) for part in form)
