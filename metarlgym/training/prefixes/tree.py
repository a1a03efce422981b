"""PrefixTree: the rows of a micro-batch as a tree, in which tokens that rows share from their start are held once.

A row is forwarded up to the token before its last scored one. Two rows share a token if everything up to it and the
token after it are equal, so that a token predicts one next token wherever it lies: the last common one is in each
branch. Padding is left out, and so are rows of which nothing is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

WORTH = 16
"""Fewest tokens that rows share in a node of their own. More nodes make more, smaller batches of attention."""
IGNORED = -100
"""Label of a token after which nothing is scored."""


class Node(NamedTuple):
    """A stretch of tokens on the path from a row's start to its end."""

    start: int
    """Position of its first token in the rows."""
    length: int
    parent: int
    """Index of the node before it; -1: none."""
    offset: int
    """Index of its first token in the packed row."""


@dataclass(frozen=True)
class PrefixTree:
    """Rows packed into one. Tensors are on the CPU."""

    nodes: list[Node]
    """Parents come before their children."""
    ids: torch.Tensor
    """Shape `(N,)`: the tokens to forward."""
    labels: torch.Tensor
    """Shape `(N,)`: the next token, where it is scored in at least one row; else `IGNORED`."""
    positions: torch.Tensor
    """Shape `(N,)`: position of each token in its rows, without padding."""
    predictors: torch.Tensor
    """Shape `(B, L)`: index in the packed row of the token before each scored one; -1 where nothing is scored."""

    @classmethod
    def of(cls, ids: torch.Tensor, mask: torch.Tensor, scored: torch.Tensor) -> PrefixTree:
        """Build the tree.

        Args:
            ids: shape `(B, L)`; rows padded on the left, the right or both.
            mask: same shape, 1 at tokens and 0 at padding.
            scored: bool, same shape: tokens whose log-probability is wanted. A row's first token has none.
        """
        rows = UnpaddedRows(ids, mask, scored)
        nodes, leaves = _build(rows)
        if not nodes:  # a model is called all the same, because other processes wait for this one
            nodes = [Node(0, 1, -1, 0)]
        size = nodes[-1].offset + nodes[-1].length
        packed = np.full(size, rows.some_token, dtype=np.int64)
        labels = np.full(size, IGNORED, dtype=np.int64)
        positions = np.zeros(size, dtype=np.int64)
        predictors = np.full(tuple(ids.shape), -1, dtype=np.int64)
        places = np.arange(rows.tokens.shape[1])
        paths = np.array([nodes[leaf].offset for leaf in leaves])[:, None] + places
        for row, leaf in enumerate(leaves):
            if leaf >= 0 and nodes[leaf].parent >= 0:
                paths[row, : rows.lengths[row]] = path_of(nodes, leaf)
        forwarded = places < rows.lengths[:, None]
        packed[paths[forwarded]] = rows.tokens[forwarded]
        positions[paths[forwarded]] = np.broadcast_to(places, paths.shape)[forwarded]
        owner, place = np.nonzero(rows.scored)
        before = paths[owner, place - 1]
        labels[before] = rows.tokens[owner, place]
        predictors[owner, rows.first[owner] + place] = before
        tensors = map(torch.from_numpy, (packed, labels, positions, predictors))
        return cls(nodes, *tensors)

    @property
    def scored(self) -> int:
        """Number of tokens after which the head is computed."""
        return int((self.labels != IGNORED).sum())


def path_of(nodes: Sequence[Node], leaf: int) -> np.ndarray:
    """Indices in the packed row of all tokens from a row's start to the end of a node."""
    parts = []
    while leaf >= 0:
        node = nodes[leaf]
        parts.append(np.arange(node.offset, node.offset + node.length))
        leaf = node.parent
    return np.concatenate(parts[::-1])


class UnpaddedRows:
    """Rows without padding.

    Attributes:
        tokens: shape `(B, longest)`, -1 after a row's end.
        scored: bool, same shape.
        lengths: shape `(B,)`: number of tokens of each row to forward.
        first: shape `(B,)`: column of each row's first token.
        some_token: a token that the model knows.
    """

    def __init__(self, ids: torch.Tensor, mask: torch.Tensor, scored: torch.Tensor) -> None:
        present, wanted = (x.bool().cpu().numpy() for x in (mask, scored))
        values = ids.cpu().numpy()
        counts = present.sum(1)
        self.first = present.argmax(1)
        self.some_token = int(values[present][0]) if present.any() else 0
        places = np.arange(max(1, counts.max(initial=0)))
        row, inside = np.arange(len(values))[:, None], places < counts[:, None]
        columns = np.where(inside, self.first[:, None] + places, 0)
        self.tokens = np.where(inside, values[row, columns], -1)
        self.scored = inside & wanted[row, columns] & (places > 0)
        self.lengths = np.where(self.scored, places, 0).max(1)
        self._ends = np.where(places <= self.lengths[:, None], self.tokens, -1)

    def order(self) -> list[int]:
        """Rows with something to forward, sorted so that those that begin alike lie together."""
        keys = [row.tobytes() for row in (self._ends + 1).astype(">u4")]
        return sorted(np.flatnonzero(self.lengths).tolist(), key=keys.__getitem__)

    def shared(self, order: Sequence[int]) -> list[int]:
        """Tokens that each row of `order` shares with the one before it; 0 for the first."""
        ends, lengths = self._ends[order], self.lengths[order]
        differ = ends[1:] != ends[:-1]
        shorter = np.minimum(lengths[1:], lengths[:-1])
        same = np.where(differ.any(1), differ.argmax(1), shorter + 1)
        return [0, *np.maximum(0, np.minimum(same, shorter + 1) - 1).tolist()][: len(order)]


def _build(rows: UnpaddedRows) -> tuple[list[Node], list[int]]:
    """The nodes, and the last node of each row; -1 for rows of which nothing is forwarded."""
    order = rows.order()
    shared = rows.shared(order)
    nodes: list[Node] = []
    lengths = rows.lengths.tolist()
    leaves = [-1] * len(lengths)

    def add(start: int, end: int, parent: int) -> int:
        if start == end:
            return parent
        offset = nodes[-1].offset + nodes[-1].length if nodes else 0
        nodes.append(Node(start, end - start, parent, offset))
        return len(nodes) - 1

    # Stretches low..high of `order`, whose rows have `start` tokens in nodes up to `parent`.
    waiting = [(0, len(order), 0, -1)] if order else []
    while waiting:
        low, high, start, parent = waiting.pop()
        if high - low == 1:
            leaves[order[low]] = add(start, lengths[order[low]], parent)
            continue
        common = min(shared[low + 1 : high])
        if common - start >= WORTH or common == lengths[order[low]] == lengths[order[high - 1]]:
            parent = add(start, common, parent)
            start = common
        cuts = [low, *(k for k in range(low + 1, high) if shared[k] == common), high]
        waiting += [(a, b, start, parent) for a, b in zip(cuts[-2::-1], cuts[:0:-1], strict=True)]
    return nodes, leaves
