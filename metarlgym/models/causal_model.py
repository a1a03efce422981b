"""What the causal models implemented here share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel


class CausalModel(PreTrainedModel, GenerationMixin):
    """Base class of causal language models with an `embedding` and a linear output head, `lm_head`."""

    base_model_prefix = ""  # TRL reads `last_hidden_state` from the base model, which is this class itself
    main_input_name = "input_ids"
    _input_embed_layer = "embedding"
    lm_head: nn.Module

    def logits_and_loss(
        self, last: torch.Tensor, labels: torch.Tensor | None, logits_to_keep: int, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Apply the output head, and the loss if labels are given.

        Args:
            last: last hidden states, `(B, T, width)`.
            labels: `(B, T)`, shifted internally, as in Hugging Face; -100 is ignored.
            logits_to_keep: compute logits only for this many last tokens; 0: all.
            kwargs: passed on to the loss function.

        Returns:
            Logits, `(B, T or logits_to_keep, vocab_size)`, and the mean loss or None.
        """
        logits = self.lm_head(last[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return logits, loss
