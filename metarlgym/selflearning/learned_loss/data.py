"""The learner's noisy stream: MetaLM's noisy symbols are the targets, the clean ones are for evaluation alone."""

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
    """Noisy symbols 1..T: what is learned from."""
    labels: torch.Tensor
    """Clean symbols 1..T."""

    @property
    def corrupted(self) -> torch.Tensor:
        """Where the target is wrong, `(B, T)`."""
        return self.targets != self.labels

    def __getitem__(self, rows: torch.Tensor | slice) -> Chunk:
        return Chunk(self.inputs[rows], self.targets[rows], self.labels[rows])


def language_source(settings: dict[str, float], length: int, seed: int, redrawn: bool, which: int = 0) -> MetaLM:
    """A MetaLM source whose sequences have one symbol more than chunks, for the last target.

    Args:
        settings: V, n, l, e.
        length: places of a chunk.
        seed: draws the language and the stream.
        redrawn: every sequence has a language of its own; else all have the language number `which`.
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
    """Which element each place belongs to (its separator is part of it), and whether it stood there before.

    An element that the end of the sequence cuts off is the first one of the dictionary that begins so.

    Args:
        source: the source.
        clean: clean sequences from their start, `(B, T)`.
        books: their languages.

    Returns:
        Numbers of elements, `(B, T)` int64; and where the same element has come earlier in the same sequence, `(B, T)`
        of bool.
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
