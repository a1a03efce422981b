"""Attention along the paths of a prefix tree, in place of PyTorch's fused attention (`sdpa`).

Each node's tokens attend to the path from the root to themselves. Nodes with similar numbers of tokens form a batch,
for which the keys and values of their paths are gathered, so that a common prefix's are there once for each branch;
`sdpa` does the rest. A packed row with one mask over all its tokens would need none of this, but it takes the product
of every token with every other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from metarlgym.policies.grouped_attention import shared_keys_attention
from metarlgym.training.prefixes.tree import Node, path_of

SDPA = "sdpa"
MASK = 2**22
"""Elements of the mask of a batch of nodes that begin at different positions, at most."""
WASTE = 1.25
"""Products of queries and keys that a batch may compute, padding included, for each that is needed."""


@dataclass(frozen=True)
class Batch:
    """Nodes whose attention is computed together."""

    queries: torch.Tensor
    """Shape `(n, q)`: indices in the packed row, padded on the right with 0."""
    keys: torch.Tensor | None
    """Shape `(n, k)`: the path before each node, padded on the left, and its own tokens. None: they are the queries."""
    mask: torch.Tensor | None
    """Bool, shape `(n or 1, 1, q, k)`: which keys a query attends to. None: all up to itself."""

    def to(self, device: torch.device) -> Batch:
        return Batch(*(None if x is None else x.to(device) for x in (self.queries, self.keys, self.mask)))


class TreeAttention:
    """Computes the attention of all tokens of a packed row.

    Args:
        nodes: of the tree.
        device: where the model is.
    """

    def __init__(self, nodes: Sequence[Node], device: torch.device) -> None:
        self.batches: list[Batch] = []
        found = []
        size = 0
        for group in _groups(nodes):
            batch = _batch(nodes, group)
            self.batches.append(batch.to(device))
            lengths = np.array([nodes[i].length for i in group])
            there = np.arange(batch.queries.shape[1]) < lengths[:, None]
            found.append((batch.queries.numpy()[there], size + np.flatnonzero(there)))
            size += batch.queries.numel()
        inverse = np.empty(sum(node.length for node in nodes), dtype=np.int64)
        for tokens, places in found:
            inverse[tokens] = places
        self._inverse = torch.from_numpy(inverse).to(device)
        self._masks: dict[torch.dtype, list[torch.Tensor | None]] = {}
        self.calls = 0
        """Number of layers that followed the tree so far."""

    def __call__(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        """Attend; arguments and results as for `sdpa_attention_forward`, of one row of `N` tokens."""
        self.calls += 1
        kwargs["is_causal"] = None
        flat = [_flat(states) for states in (query, key, value)]
        found = []
        for batch, mask in zip(self.batches, self._added(query.dtype), strict=True):
            at = batch.queries if batch.keys is None else batch.keys
            q, k, v = (_pick(*states, where) for states, where in zip(flat, (batch.queries, at, at), strict=True))
            out, _ = shared_keys_attention(module, q, k, v, mask, **kwargs)
            found.append(out.flatten(0, 1))
        return torch.cat(found).index_select(0, self._inverse)[None], None

    def _added(self, dtype: torch.dtype) -> list[torch.Tensor | None]:
        """The masks as numbers to add. From a bool mask each layer would make its own, and keep it until its backward
        pass.
        """
        if dtype not in self._masks:
            self._masks[dtype] = [
                None
                if batch.mask is None
                else torch.zeros(batch.mask.shape, dtype=dtype, device=batch.mask.device).masked_fill_(
                    ~batch.mask, -torch.inf
                )
                for batch in self.batches
            ]
        return self._masks[dtype]


def _flat(states: torch.Tensor) -> tuple[torch.Tensor, int]:
    """States of shape `(1, heads, N, d)` as `(N, heads x d)`, and the number of heads."""
    return states[0].transpose(0, 1).flatten(1), states.shape[1]


def _pick(states: torch.Tensor, heads: int, at: torch.Tensor) -> torch.Tensor:
    """The states at some indices of shape `(n, t)`, as `(n, heads, t, d)`."""
    return states.index_select(0, at.flatten()).view(*at.shape, heads, -1).transpose(1, 2)


def _groups(nodes: Sequence[Node]) -> Iterator[list[int]]:
    """Nodes by batch: those that begin a row apart from the others, and neighbours in size together."""

    def size(i: int) -> tuple[int, int]:
        return nodes[i].start, nodes[i].length

    for roots in (True, False):
        chosen = sorted((i for i, node in enumerate(nodes) if (node.start == 0) == roots), key=size)
        group: list[int] = []
        needed = most = before = 0
        for i in chosen:
            start, length = size(i)
            most, before = max(most, length), max(before, start)
            computed = (len(group) + 1) * most * (before + most)
            # Nodes with equal starts have one mask together, others one each.
            apart = group and nodes[group[0]].start != start and computed > MASK
            if group and (apart or computed > WASTE * (needed + length * (start + length))):
                yield group
                group, needed, most, before = [], 0, length, start
            group.append(i)
            needed += length * (start + length)
        if group:
            yield group


def _batch(nodes: Sequence[Node], group: Sequence[int]) -> Batch:
    chosen = [nodes[i] for i in group]
    lengths, offsets, starts = (np.array(x) for x in zip(*((n.length, n.offset, n.start) for n in chosen), strict=True))
    width, before = lengths.max(), starts.max()
    columns = np.arange(width)
    queries = np.where(columns < lengths[:, None], offsets[:, None] + columns, 0)
    if not before:
        return Batch(torch.from_numpy(queries), None, None)
    paths = np.zeros((len(group), before), dtype=np.int64)
    known = {parent: path_of(nodes, parent) for parent in {node.parent for node in chosen} if parent >= 0}
    for k, node in enumerate(chosen):
        if node.parent >= 0:
            paths[k, before - node.start :] = known[node.parent]
    own = np.tri(width, dtype=bool)[None]
    if (starts == before).all():
        earlier = np.ones((1, width, before), dtype=bool)
    else:
        earlier = np.broadcast_to((np.arange(before) >= before - starts[:, None])[:, None], (len(group), width, before))
    mask = np.concatenate([earlier, np.broadcast_to(own, (len(earlier), width, width))], -1)[:, None]
    return Batch(
        torch.from_numpy(queries),
        torch.from_numpy(np.concatenate([paths, queries], 1)),
        torch.from_numpy(np.ascontiguousarray(mask)),
    )


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    tree: Callable[..., tuple[torch.Tensor, None]] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    if tree is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return tree(module, query, key, value, **kwargs)


def install() -> None:
    """Let models with fused attention follow a tree that they are called with (`tree=...`).

    Without one they compute what they did, whatever process they are in. A name of its own would change the
    behavior of models that compare the name with `sdpa`.
    """
    AttentionInterface.register(SDPA, _attend)
