"""SlotCache: one preallocated KV cache in which every context has its own slot, whatever its length.

transformers' own caches hold one rectangular batch; here each forward pass specifies the slots it extends and the
positions it writes, so contexts of different lengths share a batch and keep their keys and values over the turns of a
trial. `KVStore` runs those forward passes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import Cache

from metarlgym.policies.context_store import ContextStore
from metarlgym.policies.supported import layer_kinds, window_of

STEP = 64
"""Number of tokens by which slots grow where memory is short."""


class SlotCache(Cache):
    """Keys and values of shape `(slots, heads, length, head_dim)` per layer, grown by doubling.

    Before each forward pass call `aim`; the model then calls `update` once per layer.

    Args:
        budget: bytes up to which it doubles; beyond, it grows by what is needed.
    """

    def __init__(self, budget: float = math.inf) -> None:
        super().__init__(layers=[])
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self.budget = budget
        self.slots = 0
        self.length = 0
        self._rows: torch.Tensor | None = None
        self._count = 0
        self._positions: torch.Tensor | None = None
        self._start: int | None = None
        self._limit = 0

    def reserve(self, slots: int, length: int) -> None:
        """Make room; contents are kept. One extra column receives what padding writes.

        Layers grow one after the other, so that at the peak one layer exists twice.
        """
        if slots <= self.slots and length <= self.length:
            return
        more_slots = max(slots, self.slots if slots <= self.slots else 2 * self.slots)
        more_length = max(length, self.length if length <= self.length else 2 * self.length)
        if self._bytes(more_slots, more_length) > self.budget:
            more_slots = max(slots, self.slots)
            more_length = max(-(-length // STEP) * STEP if length > self.length else 0, self.length)
        self.slots, self.length = more_slots, more_length
        for store in (self._keys, self._values):
            for i in range(len(store)):
                old = store[i]
                new = old.new_zeros(self.slots, old.shape[1], self.length + 1, old.shape[3])
                new[: old.shape[0], :, : old.shape[2] - 1] = old[:, :, :-1]
                store[i] = new
                del old  # before the next layer is allocated

    def _bytes(self, slots: int, length: int) -> int:
        """Size with the given shape; 0 before the first forward pass, when the layers are not known."""
        tensors = (*self._keys, *self._values)
        return sum(slots * t.shape[1] * (length + 1) * t.shape[3] * t.itemsize for t in tensors)

    def aim(
        self, rows: torch.Tensor | None, count: int, positions: torch.Tensor, start: int | None, limit: int
    ) -> None:
        """Set what the next forward pass reads and writes.

        Args:
            rows: slots of the batch, shape `(count,)`; None for the slots 0 to count-1 in order.
            count: batch size.
            positions: where each new token goes, shape `(count, t)`; padding goes to `self.length`.
            start: the first position if all rows write the same ones; otherwise None.
            limit: keys up to this position are attended to.
        """
        self._rows, self._count, self._positions, self._start, self._limit = rows, count, positions, start, limit

    def copy_slot(self, source: int, targets: torch.Tensor, length: int) -> None:
        """Copy the first `length` positions of one slot to others: a prompt shared by many contexts."""
        for store in (self._keys, self._values):
            for tensor in store:
                tensor[targets, :, :length] = tensor[source : source + 1, :, :length]

    def _write_and_read(self, store: list[torch.Tensor], new: torch.Tensor, layer: int) -> torch.Tensor:
        while len(store) <= layer:
            store.append(new.new_zeros(self.slots, new.shape[1], self.length + 1, new.shape[3]))
        tensor = store[layer]
        if self._rows is None:
            if self._start is not None:
                tensor[: self._count, :, self._start : self._start + new.shape[2]] = new
            else:
                rows = torch.arange(self._count, device=new.device)[:, None]
                tensor[rows, :, self._positions] = new.transpose(1, 2)
            return tensor[: self._count, :, : self._limit]
        tensor[self._rows[:, None], :, self._positions] = new.transpose(1, 2)
        return tensor[:, :, : self._limit].index_select(0, self._rows)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return (
            self._write_and_read(self._keys, key_states, layer_idx),
            self._write_and_read(self._values, value_states, layer_idx),
        )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._limit

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self._limit, 0

    def __len__(self) -> int:
        return len(self._keys)


class KVStore(ContextStore):
    """Contexts of a model with attention over all tokens, or over a window of them, in a `SlotCache`.

    All keys are kept in layers with a window too; the mask hides those outside.

    Args:
        model: a causal model that accepts position ids, and a mask of shape `(batch, 1, queries, keys)` or, if its
            layers differ, one for each kind of layer.
        budget: bytes up to which the cache grows by doubling.
    """

    def __init__(self, model: Any, budget: float = math.inf) -> None:
        self.model = model
        self.cache = SlotCache(budget)
        self._device, self._dtype = model.device, model.dtype  # both properties iterate over the parameters
        # XGLM compares the mask's shape with the batch's instead of broadcasting it.
        self._whole_mask = model.config.get_text_config().model_type == "xglm"
        self._mixed = len(layer_kinds(model.config)) > 1
        self._window = window_of(model.config)

    def reserve(self, slots: int, length: int) -> None:
        self.cache.reserve(slots, max(length, 32))

    def copy(self, source: int, targets: Sequence[int], length: int) -> None:
        self.cache.copy_slot(source, torch.tensor(targets, device=self._device), length)

    def encode(self, slots: Sequence[int], known: Sequence[int], feeds: Sequence[Sequence[int]]) -> torch.Tensor:
        """One forward pass; shorter contexts are padded on the left."""
        n = len(slots)
        cached = np.array(known)
        needs = np.array([len(feed) for feed in feeds])
        width = int(needs.max())
        limit = int((cached + needs).max())
        uniform = bool((needs == width).all())
        if uniform:
            ids = np.array(feeds)
        else:
            ids = np.zeros((n, width), dtype=np.int64)
            for row, feed in zip(ids, feeds, strict=True):
                row[width - len(feed) :] = feed
        # Position of each column; padding columns are negative.
        positions = (cached + needs - width)[:, None] + np.arange(width)[None, :]
        padding = None if uniform else np.arange(width)[None, :] < (width - needs)[:, None]
        start = int(cached[0]) if uniform and (cached == cached[0]).all() else None
        device = self._device
        position_ids = torch.from_numpy(positions)
        if start is not None:
            position_ids = position_ids[:1]  # identical in all rows: mask and rotary embedding are computed once
        visible = torch.arange(limit)[None, None, :] <= position_ids[:, :, None]
        write_to = position_ids
        if padding is not None:
            padded = torch.from_numpy(padding)
            write_to = position_ids.masked_fill(padded, self.cache.length)
            position_ids = position_ids.masked_fill(padded, 0)
            # Padding attends to the first key so that its softmax is not empty; its output is never read.
            visible[:, :, 0] |= padded
        mask: Any = self._bias(visible, n)
        if self._window is not None:
            inside = mask
            if limit > self._window:
                # The position of a padding column is 0, so that it still attends to the first key.
                visible &= torch.arange(limit)[None, None, :] > position_ids[:, :, None] - self._window
                inside = self._bias(visible, n)
            mask = {"full_attention": mask, "sliding_attention": inside} if self._mixed else inside
        rows = None if slots == list(range(n)) else torch.tensor(slots, device=device)
        self.cache.aim(rows, n, write_to.to(device), start, limit)
        output = self.model(
            input_ids=torch.from_numpy(ids).to(device),
            attention_mask=mask,
            position_ids=position_ids.to(device),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def _bias(self, visible: torch.Tensor, n: int) -> torch.Tensor:
        """The mask that is added to attention scores, shape `(n or 1, 1, queries, keys)`."""
        dtype = self._dtype
        bias = torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
        if self._whole_mask:
            bias = bias.expand(n, -1, -1, -1)
        return bias.to(self._device)
