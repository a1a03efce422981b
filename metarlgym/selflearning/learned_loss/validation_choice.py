"""Choice of the validation chunks that evaluate a step: the next ones, random ones, or the most similar ones.

The third experiment of METALEARN proposes the last option: the remaining chunks whose representations have the highest
cosine similarity to those of the training chunks. A chunk is one sequence of the stream; its representation is the mean
of the learner's last hidden states, minus their mean over the buffer (otherwise all cosines are near 1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from metarlgym.datatypes import ConfigError
from metarlgym.seeding import derive

CHOICES = ("next", "random", "similar")
Represent = Callable[[torch.Tensor], torch.Tensor]
"""Maps inputs `(B, T)` to hidden states `(B, T, width)`."""


class ValidationChoice:
    """Picks validation chunks from a buffer.

    Args:
        kind: `next` (the stream's next chunks, not from the buffer), `random` or `similar`.
        inputs: inputs of the buffer's chunks, `(N, T)`.
        seed: seed of the random choice.
        refresh: number of calls after which the buffer's representations are recomputed, since the learner changes.

    Raises:
        ConfigError: an unknown kind.
    """

    def __init__(self, kind: str, inputs: torch.Tensor, seed: int, refresh: int = 25) -> None:
        if kind not in CHOICES:
            raise ConfigError(f"kind={kind!r} is not known: use one of {', '.join(CHOICES)}.")
        self.kind, self.inputs, self.refresh = kind, inputs, refresh
        self._generator = torch.Generator().manual_seed(derive(seed, "validation") % 2**31)
        self._calls = 0
        self._mean = self._keys = torch.zeros(0)

    def pick(self, current: torch.Tensor, represent: Represent) -> torch.Tensor | None:
        """Indices into the buffer, one for each current chunk, `(B,)`; None for the stream's next chunks.

        Args:
            current: inputs of the training chunks, `(B, T)`.
            represent: computes the learner's hidden states.
        """
        if self.kind == "next":
            return None
        if self.kind == "random":
            return torch.randint(len(self.inputs), (len(current),), generator=self._generator)
        with torch.no_grad():
            if self._calls % self.refresh == 0:
                states = torch.cat([represent(part).mean(1) for part in self.inputs.split(64)])
                self._mean = states.mean(0)
                self._keys = torch.nn.functional.normalize(states - self._mean, dim=1)
            self._calls += 1
            return ((represent(current).mean(1) - self._mean) @ self._keys.T).argmax(1)
