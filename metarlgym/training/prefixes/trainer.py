"""SharedPrefixTrainer: TRL's GRPOTrainer that forwards what rows share once, and computes the head at actions alone.

TRL asks one method for the log-probabilities of all completion tokens: in the loss, and for the old policy and the
reference model after a rollout. It has no mask of the environment's tokens, so the tokens to score are told to it
beforehand; the others get 0, which every later use masks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from trl import GRPOTrainer

from metarlgym.training.micro_batches import MEAN_OVER, TOKENS
from metarlgym.training.prefixes.check import obstacle
from metarlgym.training.prefixes.deal import scored_tokens, together
from metarlgym.training.prefixes.forward import Forward, Scores, forward_rows, forward_tree, row_index

TRL, ROWS, TREES = "trl", "rows", "trees"
"""How rows are forwarded: by TRL's own method; whole, with the head at scored tokens; as a tree."""


class SharedPrefixTrainer(GRPOTrainer):
    """With `share_prefixes=False`, and until `choose_path` has been called, it is TRL's trainer."""

    path = TRL
    index: torch.Tensor
    """Of the loss's latest forward pass; see `Scores.index`."""
    tell: Callable[[str], None] = staticmethod(lambda line: None)
    """Called with a line for the user."""
    _scored: torch.Tensor | None = None
    _forwarded: Forward | None = None
    _dealt: Any = None

    def choose_path(self, dtype: torch.dtype) -> None:
        """Find out how the model can be forwarded, and tell the user. Collective.

        Args:
            dtype: the dtype in which the trainer computes.
        """
        if not self.args.share_prefixes:
            return
        problem = obstacle(self, dtype)
        self.path = TREES if problem is None else ROWS
        kind = self.model.config.get_text_config().model_type
        self.tell(
            "updates forward what rows share once"
            if problem is None
            else f"updates forward whole rows: prefixes cannot be shared with model type {kind!r}, because {problem}"
        )

    @contextmanager
    def scoring(self, scored: torch.Tensor | None) -> Iterator[None]:
        """Within the block, only these completion tokens are scored.

        Args:
            scored: bool, shape `(B, T)`; None: all that are no padding.
        """
        kept, self._scored = self._scored, scored
        try:
            yield
        finally:
            self._scored = kept

    def sampled_tokens(self, shape: torch.Size) -> torch.Tensor | None:
        """The completion tokens of the latest rollout that the policy sampled: bool, of this shape; None: unknown."""
        return None

    # ------------------------------------------------------------------ TRL's methods

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        inputs = super()._prepare_inputs(generation_batch)
        buffered = self._buffered_inputs
        if self.path != TREES or buffered is self._dealt or not self.model.training:
            return inputs
        if self.args.micro_batch_tokens is None and not self._by_micro_batch:
            window = int(self.args.gradient_accumulation_steps)
            window = window if len(buffered) % window == 0 else math.gcd(window, len(buffered))
            for start in range(0, len(buffered), window):
                buffered[start : start + window] = together(buffered[start : start + window])
        self._dealt = buffered
        return buffered[self._step % self.args.steps_per_generation]

    @property
    def _by_micro_batch(self) -> bool:
        """Whether the gradient depends on which rows make a micro-batch."""
        by_tokens = MEAN_OVER[self.loss_type] == TOKENS or self._entropy_bonus_enabled
        return by_tokens or self.top_entropy_quantile < 1

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        if self.path == TRL:
            shape = inputs["completion_ids"].shape
            self.index = row_index(len(inputs["prompt_ids"]), inputs["prompt_ids"].shape[1] + shape[1], shape[1], "cpu")
            return super()._compute_loss(model, inputs)
        self._forwarded = self._forwarded or Forward()
        with self.scoring(scored_tokens(inputs)):
            loss = super()._compute_loss(model, inputs)
        if self.accelerator.sync_gradients:
            self._log_forwarded()
        return loss

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **others: Any,
    ) -> Any:
        if self.path == TRL or any(value is not None for value in others.values()):
            return super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size=batch_size,
                compute_entropy=compute_entropy,
                compute_aux_loss=compute_aux_loss,
                **others,
            )
        scored = self._scored
        if scored is None and batch_size is not None:  # only a rollout is scored in chunks
            scored = self.sampled_tokens(torch.Size((len(input_ids), logits_to_keep)))
        if scored is None:
            scored = attention_mask[:, -logits_to_keep:].bool()
        scored = scored.to(input_ids.device)
        size = batch_size or len(input_ids)
        found: list[Scores] = []
        for start in range(0, len(input_ids), size):
            part = slice(start, start + size)
            with self.accelerator.autocast():
                if self.path == TREES:
                    one = forward_tree(model, input_ids[part], attention_mask[part], scored[part], compute_entropy)
                else:
                    one = forward_rows(
                        model, input_ids[part], attention_mask[part], scored[part], compute_entropy, compute_aux_loss
                    )
            found.append(one)
            if self._forwarded is not None and torch.is_grad_enabled():
                self._forwarded += one.forward
        self.index = found[-1].index
        return (
            torch.cat([one.logps for one in found]),
            torch.cat([one.entropies for one in found]) if compute_entropy else None,
            torch.stack([one.aux_loss for one in found]).mean() if compute_aux_loss else None,
        )

    def _log_forwarded(self) -> None:
        """Log what the passes of an optimizer step were over, in all processes. Collective."""
        done, self._forwarded = self._forwarded or Forward(), None
        counts = torch.tensor([done.tokens, done.row_tokens, done.scored], device=self.accelerator.device)
        tokens, whole, scored = self.accelerator.reduce(counts, "sum").tolist()
        metrics = self._metrics["train"]
        metrics["forward/tokens"].append(float(tokens))
        metrics["forward/row_tokens"].append(float(whole))
        metrics["forward/head_share"].append(scored / max(1, whole))
