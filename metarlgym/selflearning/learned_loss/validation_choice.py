"""Which chunks judge a training step of a learned loss: the next ones, random ones, or the most similar ones.

The third experiment of METALEARN proposes the last: the chunks in the rest of the data whose representations are
closest, by cosine, to those of the chunks that were trained on. A chunk is one sequence of the stream, its
representation the mean of the learner's last hidden states, less their mean over the buffer (else all cosines
are near 1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from metarlgym.datatypes import ConfigError
from metarlgym.seeding import derive

CHOICES = ("next", "random", "similar")
Represent = Callable[[torch.Tensor], torch.Tensor]
"""From inputs `(B, T)` to hidden states `(B, T, width)`."""


class ValidationChoice:
    """Picks validation chunks out of a buffer.

    Args:
        kind: `next`: the stream's next chunks, so none of the buffer; `random`; or `similar`.
        inputs: inputs of the buffer's chunks, `(N, T)`.
        seed: draws the random ones.
        refresh: calls between two looks at the buffer; the learner changes, and so do its representations.

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
        """Places in the buffer, one for each of the current chunks, `(B,)`; None for the stream's next chunks.

        Args:
            current: inputs of the chunks that are trained on, `(B, T)`.
            represent: the learner's hidden states.
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
