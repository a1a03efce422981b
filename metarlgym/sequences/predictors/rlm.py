"""Exact next-token prediction of the Random Language Model given the grammar: a lower bound on every learner's loss.

This is the inside-outside algorithm (Baker 1979), run from left to right. On the way down, `outside` is the
distribution of a node's symbol given all leaves to its left; on the way up, `inside` is the probability of the leaves
below a node given its symbol. Unseen subtrees drop out, since the rules of a symbol sum to 1. One walk over the tree
therefore predicts every leaf:

    left child:    outside_l(b) = sum_a outside(a) sum_c M[a, b, c]
    right child:   outside_r(c) = sum_ab outside(a) M[a, b, c] inside_l(b)
    node:          inside(a) = sum_bc M[a, b, c] inside_l(b) inside_r(c)

Both are rescaled to sum to 1 at every step, so that deep trees do not underflow. A node costs V^3, except that one
directly above two leaves costs V^2, since the observation there is a single symbol: O(V^3) per token overall. Sparse or
top-k rules would not be exact and are not supported.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.predictors.base import Predictor
from metarlgym.sequences.sources.base import check_whole
from metarlgym.sequences.sources.rlm import RLM

BLOCK_BYTES = 2**26
"""Memory limit for the outer products of one block of sequences, in bytes."""

Walk = Generator[np.ndarray, np.ndarray, np.ndarray]
"""Yields the prediction of each leaf, `(B, V)`, receives the observed leaves, `(B,)`, and returns the node's inside."""


def known_grammar(source: RLM, *_: Any) -> RLMPredictor:
    """The exact predictor of a source."""
    return RLMPredictor(source)


class RLMPredictor(Predictor):
    """Exact predictor of an `RLM` with a known grammar. Sequences have at most 2^L tokens.

    Args:
        source: defines the grammar, the depth and the distribution of the root.
        depth: L; defaults to that of the source.
    """

    def __init__(self, source: RLM, depth: int | None = None) -> None:
        super().__init__(source.v)
        self.depth = source.L if depth is None else check_whole("depth", depth, 0)
        self._rules = source.M
        self._prior = source.prior
        v = source.v
        self._left = source.M.sum(2)
        self._by_left = np.ascontiguousarray(source.M.transpose(1, 0, 2))
        self._pair = source.M.reshape(v, v * v)
        self._flat = source.M.reshape(v * v, v)
        self.reset()

    def reset(self) -> None:
        self._walk: Walk | None = self._node(self._prior[None], self.depth)
        self._probs = next(self._walk)

    def predict(self) -> np.ndarray:
        if self._walk is None:
            raise ConfigError(
                f"depth={self.depth}: a sequence has {2**self.depth} tokens, all were seen. Call reset()."
            )
        return self._probs[0].copy()

    def update(self, symbol: int) -> None:
        self._check_symbol(symbol)
        self.predict()
        assert self._walk is not None
        try:
            self._probs = self._walk.send(np.array([symbol]))
        except StopIteration:
            self._walk = None
        except ConfigError:
            self.reset()
            raise

    def predictions(self, sequences: Any) -> np.ndarray:
        found = self.check_sequences(sequences)
        if found.shape[1] > 2**self.depth:
            raise ConfigError(
                f"T={found.shape[1]} is beyond depth={self.depth}, whose sequences have {2**self.depth} tokens."
            )
        out = np.empty((*found.shape, self.alphabet))
        size = max(1, BLOCK_BYTES // (8 * self.alphabet**2))
        for first in range(0, len(found), size):
            part = slice(first, first + size)
            walk = self._node(np.repeat(self._prior[None], len(found[part]), 0), self.depth)
            out[part, 0] = next(walk)
            for t in range(found.shape[1] - 1):
                out[part, t + 1] = walk.send(found[part, t])
        return out

    def entropy(self, sequences: Any) -> np.ndarray:
        """Entropy of the exact prediction at each position, `(B, T)` nats. Its mean over sequences estimates the floor
        of the loss with less variance than `log_loss`."""
        probs = self.predictions(sequences)
        with np.errstate(divide="ignore", invalid="ignore"):
            return -np.where(probs > 0, probs * np.log(probs), 0.0).sum(-1)

    def _node(self, outside: np.ndarray, depth: int) -> Walk:
        """Walk over a subtree. `outside`: `(B, V)`; returns inside, `(B, V)`."""
        if depth == 0:
            yield outside  # only for a tree that is a single leaf
            return outside
        rows = np.arange(len(outside))
        if depth == 1:
            first = yield outside @ self._left
            rules = self._by_left[first]  # (B, V_a, V_c)
            second = yield _scaled(np.einsum("ba,bac->bc", outside, rules))
            return _scaled(rules[rows, :, second])
        left = yield from self._node(outside @ self._left, depth - 1)
        both = (outside[:, :, None] * left[:, None, :]).reshape(len(rows), -1)
        right = yield from self._node(_scaled(both @ self._flat), depth - 1)
        np.multiply(left[:, :, None], right[:, None, :], out=both.reshape(len(rows), *self._rules.shape[1:]))
        return _scaled(both @ self._pair.T)


def _scaled(rows: np.ndarray) -> np.ndarray:
    """Rows divided by their sums.

    Raises:
        ConfigError: a row is all 0: the grammar cannot generate the observed symbols.
    """
    sums = rows.sum(1, keepdims=True)
    if not (sums > 0).all():
        raise ConfigError("sequences hold one that this grammar gives probability 0: check that it is of this grammar.")
    return rows / sums


def rule_entropy(source: RLM) -> float:
    """Entropy H(right | left) of one rule whose root is drawn from the source's prior, in nats.

    This is the floor of the last token for L = 1. The code this project reproduces reports it for every L, but for L >
    1 it is too high.
    """
    pairs = np.tensordot(source.prior, source.M, 1)
    left = pairs.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = -np.where(pairs > 0, pairs * np.log(pairs), 0).sum()
        part = -np.where(left > 0, left * np.log(left), 0).sum()
    return float(whole - part)
