"""Random Language Model: sequences that are the leaves of random trees, grown by a random context-free grammar.

DeGiuli 2019 ("Random Language Model", Physical Review Letters 122, 128301), with fixed-depth trees and one vocabulary
for hidden and observed symbols, as in the source this project reproduces (Random_Language_Model_Transformer_training):
`M[a, b, c] = softmax over (b, c) of beta sqrt(ln V) g[a, b, c]`, g standard normal, is the probability that symbol a
has the children (b, c). The same grammar holds at every level; the root is uniform, or as `probs` says; a tree of depth
L has 2^L leaves. Higher beta is colder: rules are uniform at 0 and a few of the V^2 pairs remain above 2.

What was wrong there is right here: a grammar is a function of `seed_rules` (and v) alone, and grammars of different
beta are one draw g scaled; evaluation sequences come from streams of their own; the floor of the loss is computed
exactly (`metarlgym.sequences.predictors.rlm`) instead of being taken from one rule, which is right for L = 1 only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from metarlgym.sequences.sources.alias import alias_draw, alias_tables
from metarlgym.sequences.sources.base import Source, check_distribution, check_memory, check_number, check_whole
from metarlgym.sequences.sources.compiled import compiled
from metarlgym.sequences.sources.random_streams import open_stream, uniform

CHUNK = 8192
"""Sequences made at once: larger batches leave the processor's caches and are slower by the token."""
MOST_L = 48


class RLM(Source):
    """RLM(v, L, beta, seed_rules, seed_samples).

    Args:
        v: vocabulary.
        L: depth of the trees; a sequence has 2^L tokens.
        beta: inverse temperature of the rules.
        seed_rules: draws the grammar.
        seed_samples: draws the sequences; a number, a numpy Generator, or None for a random one.
        num_data: size of a finite data set, whose sequences come again in the same order; None for fresh ones for ever.
        probs: distribution of the root, `(v,)`; uniform where None.
        transform: applied to the inputs of every batch, such as a one-hot encoding.
        rules: a grammar of your own, `(v, v, v)`, instead of a drawn one; beta and seed_rules then have no effect.

    Memory: about 24 v^3 bytes.
    """

    seed_name = "seed_samples"

    def __init__(
        self,
        v: int = 128,
        L: int = 1,
        beta: float = 2.0,
        seed_rules: int = 12345,
        seed_samples: int | np.random.Generator | None = 67890,
        num_data: int | None = None,
        probs: Any = None,
        transform: Callable[[np.ndarray], Any] | None = None,
        rules: Any = None,
    ) -> None:
        super().__init__(seed_samples)
        self.v = self.vocab_size = check_whole("v", v, 2)
        self.L = check_whole("L", L, 1, MOST_L, ": a sequence has 2^L tokens")
        self.beta = check_number("beta", beta, 0, 1e6)
        self.seed_rules = check_whole("seed_rules", seed_rules, 0)
        check_memory("v", self.v, 32.0 * self.v**3, "the grammar")
        check_memory("L", L, 24.0 * 2.0**L, "one tree")
        self.length = 2**self.L
        self.num_data = None if num_data is None else check_whole("num_data", num_data, 1)
        self.prior = np.full(v, 1 / v) if probs is None else check_distribution("probs", probs, (v,))
        """Distribution of the root, `(v,)`."""
        self.transform = transform
        if rules is None:
            self.M = draw_rules(self.v, self.beta, self.seed_rules)
        else:
            self.M = check_distribution("rules", rules, (v, v, v), sums_over=2)

    exact = "metarlgym.sequences.predictors.rlm:known_grammar"
    references = "metarlgym.sequences.predictors.baselines:ngram"
    ends_in_target = True

    @property
    def exact_name(self) -> str:
        return "known grammar"

    def columns(self, start: int, count: int, split: str = "train", optional: bool = False) -> dict[str, np.ndarray]:
        levels = self.trees(start, count, split)
        return {"tokens": levels[-1], "root": levels[0][:, 0]}

    @classmethod
    def unused(cls, arguments: Mapping[str, Any], split: str) -> dict[str, str]:
        found = {}
        if split != "train" and arguments.get("num_data") is not None:
            found["num_data"] = "it is for the train split"
        if arguments.get("rules") is not None:
            found |= {name: "rules are given" for name in ("beta", "seed_rules") if name in arguments}
        return found

    @property
    def rules(self) -> np.ndarray:
        """`(v, v, v)`: probability of the children (b, c) of a, the published `M`."""
        return self.M

    def sample_batch(self, batch_size: int, L: int | None = None) -> tuple[Any, np.ndarray]:
        """The next sequences: inputs `(batch_size, 2^L - 1)` and their last tokens `(batch_size,)`, int64."""
        return self._split(self._trees(self._advance(batch_size), batch_size, "train", L)[-1])

    def sample_eval_set(self, num_data: int, L: int | None = None) -> tuple[Any, np.ndarray]:
        """Inputs and targets for evaluation: always the same, and from other streams than the batches."""
        check_whole("num_data", num_data, 1)
        return self._split(self._trees(0, num_data, "eval", L)[-1])

    def tokens(self, start: int, count: int, split: str = "train") -> np.ndarray:
        return self._trees(start, count, split, None)[-1]

    def trees(self, start: int, count: int, split: str = "train", L: int | None = None) -> list[np.ndarray]:
        """Whole trees: `trees[k]` holds level k, shape `(count, 2^k)`; the children of node i are 2i and 2i + 1."""
        return self._trees(start, count, split, L)

    def marginal(self, level: int | None = None) -> np.ndarray:
        """Exact distribution of a symbol at `level` (default: the leaves), averaged over its places, `(v,)`."""
        either = (self.M.sum(2) + self.M.sum(1)) / 2
        found = self.prior
        for _ in range(self.L if level is None else level):
            found = found @ either
        return found

    @cached_property
    def _alias(self) -> np.ndarray:
        """Alias tables of all rules, `(v, v^2)` uint64."""
        return alias_tables(self.M.reshape(self.v, -1))

    def _trees(self, start: int, count: int, split: str, depth: int | None) -> list[np.ndarray]:
        self._check_range(start, count)
        depth = self.L if depth is None else check_whole("L", depth, 1, MOST_L, ": a sequence has 2^L tokens")
        check_memory("batch_size", count, 16.0 * count * 2.0**depth, "the batch")
        if split == "train" and self.num_data is not None:
            first = start % self.num_data
            before = min(count, self.num_data - first)
            if before < count:  # the data set begins again
                size = min(count, self.num_data)
                places = (first + np.arange(count)) % self.num_data
                if size == self.num_data:
                    return [level[places] for level in self._fresh(0, size, split, depth)]
                parts = self._fresh(first, before, split, depth), self._fresh(0, count - before, split, depth)
                return [np.concatenate(levels) for levels in zip(*parts, strict=True)]
            start = first
        return self._fresh(start, count, split, depth)

    def _fresh(self, start: int, count: int, split: str, depth: int) -> list[np.ndarray]:
        levels = [np.empty((count, 2**k), np.int64) for k in range(depth + 1)]
        key, roots = self._key(split, "sequence"), np.cumsum(self.prior)
        roots[-1] = 1.0
        for first in range(0, count, CHUNK):
            part = slice(first, min(count, first + CHUNK))
            state = np.empty((part.stop - first, 2), np.uint64)
            _draw_roots(key, start + first, roots, state, levels[0][part])
            for above, below_ in itertools.pairwise(levels):
                _draw_children(self._alias, self.v, state, above[part], below_[part])
        return levels

    def _split(self, leaves: np.ndarray) -> tuple[Any, np.ndarray]:
        inputs = leaves[:, :-1]
        return (inputs if self.transform is None else self.transform(inputs)), leaves[:, -1]


def base_draw(v: int, seed_rules: int) -> np.ndarray:
    """The normal numbers `g` behind a grammar, `(v, v^2)` float64."""
    return np.random.default_rng([seed_rules, v]).standard_normal((v, v * v))


def scaled_rules(draw: np.ndarray, beta: float) -> np.ndarray:
    """The grammar `M`, `(v, v, v)` float64, of a base draw."""
    v = len(draw)
    logits = draw * (beta * math.sqrt(math.log(v)))
    logits -= logits.max(1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(1, keepdims=True)
    return logits.reshape(v, v, v)


def draw_rules(v: int, beta: float, seed_rules: int) -> np.ndarray:
    """The grammar `M`, `(v, v, v)` float64: one draw of normal numbers for a seed, scaled by beta."""
    return scaled_rules(base_draw(v, seed_rules), beta)


@compiled()
def _draw_roots(key, start, cumulative, state, roots):
    for b in range(roots.shape[0]):
        open_stream(key, start + b, state[b])
        roots[b, 0] = np.searchsorted(cumulative, uniform(state[b]), side="right")


@compiled()
def _draw_children(tables, v, state, above, below_):
    for b in range(above.shape[0]):
        for i in range(above.shape[1]):
            pair = alias_draw(tables[above[b, i]], uniform(state[b]))
            below_[b, 2 * i] = pair // v
            below_[b, 2 * i + 1] = pair % v
