"""ContextStore: what a model keeps of each context it has read, so that no token is ever encoded twice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch


class ContextStore(ABC):
    """Contexts in numbered slots. A slot is reused: encoding from position 0 begins a new context in it."""

    @abstractmethod
    def reserve(self, slots: int, length: int) -> None:
        """Make room for so many slots of so many tokens; contents stay."""

    @abstractmethod
    def encode(self, slots: Sequence[int], known: Sequence[int], feeds: Sequence[Sequence[int]]) -> torch.Tensor:
        """Extend contexts by tokens, all of them in as few forward passes as possible.

        Args:
            slots: the slot of each context.
            known: tokens of each that are encoded already.
            feeds: the tokens to encode, at least one each; lengths may differ.

        Returns:
            Logits after the last token of each, shape `(n, vocabulary)`.
        """

    @abstractmethod
    def copy(self, source: int, targets: Sequence[int], length: int) -> None:
        """Copy the first `length` tokens of one slot, which is all it holds, into others: a shared prompt."""
