"""ContextStore: what a model keeps of each context it has encoded, so that no token is encoded twice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch


class ContextStore(ABC):
    """Contexts in numbered slots. A slot is reused: encoding from position 0 starts a new context in it."""

    @abstractmethod
    def reserve(self, slots: int, length: int) -> None:
        """Make room for the given number of slots of `length` tokens; contents are kept."""

    @abstractmethod
    def encode(self, slots: Sequence[int], known: Sequence[int], feeds: Sequence[Sequence[int]]) -> torch.Tensor:
        """Append tokens to contexts, all of them in as few forward passes as possible.

        Args:
            slots: the slot of each context.
            known: number of tokens of each that are already encoded.
            feeds: the tokens to encode, at least one each; lengths may differ.

        Returns:
            Logits after the last token of each, shape `(n, vocabulary)`.
        """

    @abstractmethod
    def copy(self, source: int, targets: Sequence[int], length: int) -> None:
        """Copy the first `length` tokens of one slot, its entire content, to other slots: a shared prompt."""

    def release(self, slot: int) -> None:
        """The slot's content is not needed any more."""
