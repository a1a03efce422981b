"""A pseudo-language: a random n-gram network with exactly known next-token probabilities.

Xenoverse's metalang v2 (`metalangv2.py`), the successor of MetaLM, with one change: logits are normalized within each
sequence. The original normalizes over the whole batch, so that its samples depend on the batch size.
"""

from __future__ import annotations

import numpy as np

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.sources.base import Source, check_memory, check_number, check_whole
from metarlgym.sequences.sources.compiled import compiled
from metarlgym.sequences.sources.random_streams import open_stream, uniform


class PseudoLanguage(Source):
    """One language: token t is drawn from softmax(scale * normalized logits) of a network over the previous n_gram
    tokens.

    `h = mean_i w_i tanh(E[x_i] W_i + b_i)` with weights `w = 0, 1, ..., n_gram - 1` from the oldest token to the
    newest (so the oldest has no effect, as in the original) and `z = h W_o + b_o`; all parameters are standard normal.
    The logits are z, standardized over the vocabulary, times `scale`. Generation starts from a context of zeros, which
    is not part of the sequence.

    Args:
        V: vocabulary size.
        n_gram: context window of the network, in tokens.
        n_emb: width of the embedding.
        n_hidden: width of the hidden layer.
        scale: the original's lambda; higher is more predictable.
        L: length of a sequence.
        language: seed of the network.
        seed: seed of the sequences.
    """

    def __init__(
        self,
        V: int = 256,
        n_gram: int = 3,
        n_emb: int = 16,
        n_hidden: int = 64,
        scale: float = 5.0,
        L: int = 4096,
        language: int = 0,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(seed)
        self.V = self.vocab_size = check_whole("V", V, 2, 2**31)
        self.n_gram = check_whole("n_gram", n_gram, 1)
        check_whole("n_emb", n_emb, 1)
        check_whole("n_hidden", n_hidden, 1)
        self.scale = check_number("scale", scale, 0, np.inf)
        self.length = check_whole("L", L, 1)
        self.language = check_whole("language", language, 0)
        check_memory("L", L, 8.0 * L, "one sequence")
        check_memory("n_hidden", n_hidden, 8.0 * V * n_hidden * n_gram, "the network")
        rng = np.random.default_rng([self.language, V, n_gram, n_emb, n_hidden])
        embedding = rng.standard_normal((V, n_emb))
        weights, biases = rng.standard_normal((n_gram, n_emb, n_hidden)), rng.standard_normal((n_gram, n_hidden))
        shares = np.arange(n_gram)[:, None, None] / n_gram
        # (n_gram, V, n_hidden): contribution of each token to the hidden layer at each distance.
        self._parts = shares * np.tanh(np.einsum("ve,neh->nvh", embedding, weights) + biases[:, None])
        self._out = np.ascontiguousarray(rng.standard_normal((n_hidden, V)))
        self._bias = rng.standard_normal(V)

    def batch(self, start: int, count: int, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
        """Sequences, and the true probability of each token: `(count, L)` int64 and float64."""
        self._check_range(start, count)
        check_memory("batch_size", count, 16.0 * count * self.length, "the batch")
        tokens = np.empty((count, self.length), np.int64)
        probs = np.empty((count, self.length))
        key = self._key(split, "sequence")
        _write(key, start, self._parts, self._out, self._bias, self.scale, tokens, probs)
        return tokens, probs

    def columns(self, start: int, count: int, split: str = "train", optional: bool = False) -> dict[str, np.ndarray]:
        tokens, probabilities = self.batch(start, count, split)
        return {"tokens": tokens, "probabilities": probabilities}

    def tokens(self, start: int, count: int, split: str = "train") -> np.ndarray:
        return self.batch(start, count, split)[0]

    def distribution(self, context: np.ndarray) -> np.ndarray:
        """Next-token probabilities `(V,)` after `context`, the last n_gram tokens (n_gram,), oldest first."""
        try:
            found = np.asarray(context)
        except ValueError:
            raise ConfigError(f"context={context!r} must be n_gram={self.n_gram} tokens, in one list.") from None
        fits = found.shape == (self.n_gram,) and found.dtype.kind in "iu" and 0 <= found.min() <= found.max() < self.V
        if not fits:
            raise ConfigError(f"context={found.tolist()} must be n_gram={self.n_gram} tokens, each in 0..{self.V - 1}.")
        probabilities = np.empty(self.V)
        _next(found.astype(np.int64), self._parts, self._out, self._bias, self.scale, probabilities)
        return probabilities


@compiled()
def _next(context, parts, out, bias, scale, probabilities):
    # Plain loops instead of a matrix product, whose rounding could depend on the rest of the batch.
    n, _, hidden = parts.shape
    V = probabilities.size
    probabilities[:] = bias
    for h in range(hidden):
        value = 0.0
        for i in range(n):
            value += parts[i, context[i], h]
        for v in range(V):
            probabilities[v] += value * out[h, v]
    mean = probabilities.sum() / V
    spread = 0.0
    for v in range(V):
        spread += (probabilities[v] - mean) ** 2
    spread = np.sqrt(spread / V)
    high = probabilities.max()
    total = 0.0
    for v in range(V):
        probabilities[v] = np.exp(scale * (probabilities[v] - high) / spread)
        total += probabilities[v]
    for v in range(V):
        probabilities[v] /= total


@compiled()
def _write(key, start, parts, out, bias, scale, tokens, probs):
    state = np.empty(2, np.uint64)
    context = np.empty(parts.shape[0], np.int64)
    probabilities = np.empty(bias.size)
    for b in range(tokens.shape[0]):
        open_stream(key, start + b, state)
        context[:] = 0
        for t in range(tokens.shape[1]):
            _next(context, parts, out, bias, scale, probabilities)
            u = uniform(state)
            token = 0
            total = probabilities[0]
            while u >= total and token < bias.size - 1:
                token += 1
                total += probabilities[token]
            tokens[b, t] = token
            probs[b, t] = probabilities[token]
            for i in range(context.size - 1):
                context[i] = context[i + 1]
            context[-1] = token
