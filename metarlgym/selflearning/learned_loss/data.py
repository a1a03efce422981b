"""The learner's noisy stream: MetaLM's noisy symbols are the targets; the clean ones serve only for evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from metarlgym.seeding import derive
from metarlgym.sequences.sources import MetaLM
from metarlgym.sequences.sources.metalm import Dictionary


@dataclass
class Chunk:
    """Sequences of the stream; all `(B, T)` int64."""

    inputs: torch.Tensor
    """Noisy symbols 0..T-1."""
    targets: torch.Tensor
    """Noisy symbols 1..T, the training targets."""
    labels: torch.Tensor
    """Clean symbols 1..T."""

    @property
    def corrupted(self) -> torch.Tensor:
        """Where the target is wrong, `(B, T)`."""
        return self.targets != self.labels

    def __getitem__(self, rows: torch.Tensor | slice) -> Chunk:
        return Chunk(self.inputs[rows], self.targets[rows], self.labels[rows])


def language_source(settings: dict[str, float], length: int, seed: int, redrawn: bool, which: int = 0) -> MetaLM:
    """A MetaLM source whose sequences are one symbol longer than chunks, to provide the last target.

    Args:
        settings: V, n, l, e.
        length: length of a chunk.
        seed: seed of the language and the stream.
        redrawn: give every sequence its own language; otherwise all use language number `which`.
        which: number of the fixed language.
    """
    sizes: dict[str, Any] = {"V": int(settings["V"]), "n": int(settings["n"]), "l": settings["l"], "e": settings["e"]}
    source = MetaLM(**sizes, L=length + 1, seed=derive(seed, "stream"))
    if redrawn:
        return source
    book = MetaLM(**sizes, L=length + 1, seed=derive(seed, "language")).language(which)
    return MetaLM(**sizes, L=length + 1, seed=derive(seed, "stream", which), elements=book)


def read_chunk(source: MetaLM, start: int, count: int, split: str = "train") -> Chunk:
    """Sequences `start` to `start + count - 1` of the stream."""
    noisy = torch.from_numpy(source.tokens(start, count, split))
    clean = torch.from_numpy(source.clean(start, count, split))
    return Chunk(noisy[:, :-1], noisy[:, 1:], clean[:, 1:])


def elements_of(source: MetaLM, clean: np.ndarray, books: Dictionary) -> tuple[np.ndarray, np.ndarray]:
    """The element at each position (including its separator), and whether it has occurred before.

    An element truncated by the end of the sequence is taken to be the first dictionary entry with that prefix.

    Args:
        source: the source.
        clean: clean sequences from their start, `(B, T)`.
        books: their languages.

    Returns:
        Indices of elements, `(B, T)` int64; and whether the same element has occurred earlier in the sequence, `(B, T)`
        bool.
    """
    ids, again = np.empty(clean.shape, np.int64), np.empty(clean.shape, bool)
    for b, row in enumerate(clean):
        texts = [[*element.tolist(), source.separator] for element in books.elements(b)]
        ends = [*(np.flatnonzero(row == source.separator) + 1).tolist(), len(row)]
        start, met = 0, set()
        for end in ends:
            part = row[start:end].tolist()
            if part:
                k = next(k for k, text in enumerate(texts) if text[: len(part)] == part)
                ids[b, start:end], again[b, start:end] = k, k in met
                met.add(k)
            start = end
    return ids, again
