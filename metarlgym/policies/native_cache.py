"""NativeStore: contexts in Hugging Face's own cache, for models whose layers keep more than all keys and values.

Sliding windows that drop old keys, recurrent states and convolution buffers cannot skip padding, so contexts share a
forward pass only if they have the same length and need the same number of tokens. That makes it slower than `KVStore`
and right for every architecture whose cache can be split and joined along the batch. No token is encoded twice.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import torch
from transformers import DynamicCache

from metarlgym.policies.context_store import ContextStore


class _Batch:
    """A cache that holds several contexts, one in each row."""

    __slots__ = ("cache", "size", "users")

    def __init__(self, cache: Any, size: int) -> None:
        self.cache = cache
        self.size = size
        self.users: set[int] = set()
        """The slots that read from it; several may read the same row."""


class NativeStore(ContextStore):
    """Contexts of a model with any cache of transformers.

    Args:
        model: a causal model that accepts a `DynamicCache` made from its config.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._device = model.device
        self._places: dict[int, tuple[_Batch, int]] = {}
        """The batch and row of each slot."""
        inner = model.get_base_model() if hasattr(model, "peft_config") else model
        accepted = inspect.signature(inner.forward).parameters
        self._name = "cache_params" if "cache_params" in accepted else "past_key_values"

    def reserve(self, slots: int, length: int) -> None:
        """Nothing to do: the caches grow by themselves."""

    def encode(self, slots: Sequence[int], known: Sequence[int], feeds: Sequence[Sequence[int]]) -> torch.Tensor:
        """One forward pass for each pair of length and number of new tokens."""

        def kind(i: int) -> tuple[int, int]:
            return known[i], len(feeds[i])

        def place(i: int) -> tuple[int, int]:
            batch, row = self._places[slots[i]] if known[i] else (None, i)
            return id(batch), row

        # Rows of the same batch stay together and in order: a group that is a whole batch continues without a copy.
        order = sorted(range(len(slots)), key=lambda i: (kind(i), place(i)))
        parts = [self._encode([slots[i] for i in g], k, [feeds[i] for i in g]) for (k, _), g in _groups(order, kind)]
        logits = torch.cat(parts)
        return torch.empty_like(logits).index_copy_(0, torch.tensor(order, device=self._device), logits)

    def _encode(self, slots: list[int], known: int, feeds: list[Sequence[int]]) -> torch.Tensor:
        cache = self._gather(slots) if known else DynamicCache(config=self.model.config)
        output = self.model(
            input_ids=torch.tensor(feeds, device=self._device), use_cache=True, logits_to_keep=1, **{self._name: cache}
        )
        batch = _Batch(cache, len(slots))
        for row, slot in enumerate(slots):
            self._put(slot, batch, row)
        return output.logits[:, -1]

    def _gather(self, slots: list[int]) -> Any:
        """One cache with a row for each of the slots, in order."""
        places = [self._places[slot] for slot in slots]
        parts = []
        for _, group in groupby(places, key=lambda place: id(place[0])):
            rows = list(group)
            batch, index = rows[0][0], [row for _, row in rows]
            alone = batch.users <= set(slots)  # nobody else will read it
            if not (alone and index == list(range(batch.size))):
                parts.append(_mapped([batch.cache], partial(_rows, index)))
            else:
                parts.append(batch.cache)
        return parts[0] if len(parts) == 1 else _mapped(parts, torch.cat)

    def copy(self, source: int, targets: Sequence[int], length: int) -> None:
        batch, row = self._places[source]
        for slot in targets:
            self._put(slot, batch, row)

    def release(self, slot: int) -> None:
        place = self._places.pop(slot, None)
        if place is not None:
            place[0].users.discard(slot)

    def _put(self, slot: int, batch: _Batch, row: int) -> None:
        self.release(slot)
        self._places[slot] = batch, row
        batch.users.add(slot)


def _groups(order: list[int], kind: Callable[[int], tuple[int, int]]) -> list[tuple[tuple[int, int], list[int]]]:
    return [(key, list(group)) for key, group in groupby(order, key=kind)]


def _rows(index: list[int], tensors: list[torch.Tensor]) -> torch.Tensor:
    return tensors[0][index]


def _mapped(caches: list[Any], combine: Callable[[list[torch.Tensor]], torch.Tensor]) -> Any:
    """A cache whose tensors are `combine` of those of the given caches; their shapes begin with the batch.

    transformers offers selection (`reorder_cache`) but not concatenation, and selects in place.
    """
    new = copy.copy(caches[0])
    new.layers = []
    for layers in zip(*(cache.layers for cache in caches), strict=True):
        layer = copy.copy(layers[0])
        for name in vars(layer):
            setattr(layer, name, _combined([getattr(part, name) for part in layers], combine))
        new.layers.append(layer)
    return new


def _combined(values: list[Any], combine: Callable[[list[torch.Tensor]], torch.Tensor]) -> Any:
    first = values[0]
    if isinstance(first, torch.Tensor) and first.dim():
        return combine(values)
    if isinstance(first, dict):
        return {key: _combined([value[key] for value in values], combine) for key in first}
    return first
