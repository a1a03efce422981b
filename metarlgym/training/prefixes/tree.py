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
        for row, leaf in enumerate(leaves):
            if leaf < 0:
                continue
            path = path_of(nodes, leaf)
            length = len(path)
            packed[path] = rows.tokens[row][:length]
            positions[path] = np.arange(length)
            targets = rows.targets[row]
            labels[path[targets - 1]] = rows.tokens[row][targets]
            predictors[row, targets + rows.first[row]] = path[targets - 1]
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
    """UnpaddedRows without padding.

    Attributes:
        tokens: of each row.
        targets: indices of the scored tokens of each row, ascending.
        lengths: number of tokens of each row to forward.
        first: column of each row's first token.
        some_token: a token that the model knows.
    """

    def __init__(self, ids: torch.Tensor, mask: torch.Tensor, scored: torch.Tensor) -> None:
        present = mask.bool().cpu().numpy()
        values, wanted = ids.cpu().numpy(), scored.bool().cpu().numpy() & present
        self.first = present.argmax(1)
        self.tokens = [row[keep] for row, keep in zip(values, present, strict=True)]
        found = [np.flatnonzero(row[keep]) for row, keep in zip(wanted, present, strict=True)]
        self.targets = [row[row > 0] for row in found]
        self.lengths = [int(row[-1]) if len(row) else 0 for row in self.targets]

        self.some_token = int(values[present][0]) if present.any() else 0

    def order(self) -> list[int]:
        """UnpaddedRows with something to forward, sorted so that those that begin alike lie together."""
        keys = {i: self.tokens[i][: n + 1].tolist() for i, n in enumerate(self.lengths) if n}
        return sorted(keys, key=keys.__getitem__)

    def shared(self, order: Sequence[int]) -> list[int]:
        """Tokens that each row of `order` shares with the one before it; 0 for the first."""
        counts = [0] * len(order)
        for k in range(1, len(order)):
            one, other = order[k - 1], order[k]
            length = min(self.lengths[one], self.lengths[other]) + 1
            differ = np.flatnonzero(self.tokens[one][:length] != self.tokens[other][:length])
            counts[k] = max(0, (int(differ[0]) if len(differ) else length) - 1)
        return counts


def _build(rows: UnpaddedRows) -> tuple[list[Node], list[int]]:
    """The nodes, and the last node of each row; -1 for rows of which nothing is forwarded."""
    order = rows.order()
    shared = rows.shared(order)
    nodes: list[Node] = []
    leaves = [-1] * len(rows.lengths)

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
            leaves[order[low]] = add(start, rows.lengths[order[low]], parent)
            continue
        common = min(shared[low + 1 : high])
        if common - start >= WORTH or common == rows.lengths[order[low]] == rows.lengths[order[high - 1]]:
            parent = add(start, common, parent)
            start = common
        cuts = [low, *(k for k in range(low + 1, high) if shared[k] == common), high]
        waiting += [(a, b, start, parent) for a, b in zip(cuts[-2::-1], cuts[:0:-1], strict=True)]
    return nodes, leaves
