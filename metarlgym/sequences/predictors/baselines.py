"""Cheap baselines without knowledge of the source: n-grams with backoff, and Lempel-Ziv parsing."""

from __future__ import annotations

import numpy as np

from metarlgym.sequences.predictors.base import Predictor
from metarlgym.sequences.sources.base import Source, check_whole


def cheap_learners(source: Source) -> dict[str, Predictor]:
    """Both baselines; they suit any source."""
    return {**ngram(source), "LZ": LempelZiv(source.vocab_size)}


def ngram(source: Source) -> dict[str, Predictor]:
    """A trigram baseline; it suits any source."""
    return {"n-gram": NGram(source.vocab_size, 3)}


class NGram(Predictor):
    """Adaptive n-grams; each order backs off to the next lower one by Witten and Bell's rule (1991, method C): `p_k(a)
    = (count of a after the last k symbols + d p_{k-1}(a)) / (times seen + d)`, where d is the number of distinct
    symbols seen after this context. Order 0 backs off to the uniform distribution.

    Args:
        alphabet: number of symbols A.
        order: longest context, n - 1.
    """

    slow = True

    def __init__(self, alphabet: int = 2, order: int = 4) -> None:
        super().__init__(alphabet)
        self.order = check_whole("order", order, 0)
        self.reset()

    def reset(self) -> None:
        self._after: dict[tuple[int, ...], dict[int, int]] = {}
        self._context: tuple[int, ...] = ()

    def predict(self) -> np.ndarray:
        probs = np.full(self.alphabet, 1 / self.alphabet)
        for k in range(len(self._context) + 1):
            counts = self._after.get(self._context[len(self._context) - k :])
            if counts is None:
                break  # longer contexts have not been seen either
            probs *= len(counts)
            for symbol, count in counts.items():
                probs[symbol] += count
            probs /= sum(counts.values()) + len(counts)
        return probs

    def update(self, symbol: int) -> None:
        self._check_symbol(symbol)
        for k in range(len(self._context) + 1):
            counts = self._after.setdefault(self._context[len(self._context) - k :], {})
            counts[symbol] = counts.get(symbol, 0) + 1
        self._context = (*self._context, symbol)[-self.order :] if self.order else ()


class LempelZiv(Predictor):
    """Prediction from Lempel-Ziv 1978 parsing (Feder, Merhav and Gutman 1992): the sequence is split into phrases, each
    the shortest one not seen before. Phrases form a tree, and each node predicts from the counts of the symbols that
    followed it, `p(a) = (count of a + 1/A) / (times visited + 1)`.

    Args:
        alphabet: number of symbols A.
    """

    slow = True

    def __init__(self, alphabet: int = 2) -> None:
        super().__init__(alphabet)
        self.reset()

    def reset(self) -> None:
        self._children: list[dict[int, int]] = [{}]
        self._counts: list[dict[int, int]] = [{}]
        self._at = 0

    def predict(self) -> np.ndarray:
        probs = np.full(self.alphabet, 1 / self.alphabet)
        for symbol, count in self._counts[self._at].items():
            probs[symbol] += count
        return probs / (1 + sum(self._counts[self._at].values()))

    def update(self, symbol: int) -> None:
        self._check_symbol(symbol)
        counts = self._counts[self._at]
        counts[symbol] = counts.get(symbol, 0) + 1
        child = self._children[self._at].get(symbol)
        if child is None:  # the phrase ends here
            self._children[self._at][symbol] = len(self._children)
            self._children.append({})
            self._counts.append({})
            self._at = 0
        else:
            self._at = child
