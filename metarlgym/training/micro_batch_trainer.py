"""MicroBatchTrainer: TRL's GRPOTrainer with forward passes bounded by tokens, where `micro_batch_tokens` is set.

TRL calls `training_step` once for each of its micro-batches. Those of one rollout in one optimizer step form a window:
its rows are dealt again when its last micro-batch is due, and each of the new micro-batches has a forward and a
backward pass of its own, by transformers' `training_step`. All but the last leave gradients unsynchronized. All
processes make equally many passes, because with sharded weights they wait for each other in each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import DistributedType, gather_object
from trl import GRPOTrainer

from metarlgym.training.micro_batches import (
    BATCH,
    MEAN_OVER,
    Lengths,
    MergedMetrics,
    Weights,
    cut,
    filler,
    join,
    partition,
    weigh,
)
from metarlgym.training.prefixes.deal import partition_trees
from metarlgym.training.prefixes.trainer import TREES, SharedPrefixTrainer

FILLER = 2
"""Tokens of a micro-batch that only keeps a process in step with the others."""


@dataclass
class MicroBatch:
    """What one forward and backward pass trains on."""

    inputs: dict[str, Any]
    weights: Weights
    actions: int
    """Tokens in the loss, over all processes."""


@contextmanager
def uneven_gather(accelerator: Any) -> Iterator[None]:
    """Within the block, tensors may have other numbers of rows on other processes; the rest is NaN once gathered.

    TRL logs the least and the largest share of clipped tokens in a row, and ignores NaN there.
    """
    gather = accelerator.gather
    accelerator.gather = lambda tensor: gather(accelerator.pad_across_processes(tensor, pad_index=math.nan))
    try:
        yield
    finally:
        accelerator.gather = gather


class MicroBatchTrainer(SharedPrefixTrainer):
    """Without `micro_batch_tokens` its micro-batches are TRL's."""

    current_gradient_accumulation_steps: float
    beta: float
    _micro_batch: MicroBatch | None = None
    """The one that is being trained on."""
    _window_start = 0
    """Step, as TRL counts them, at which the window began."""

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        if self.args.micro_batch_tokens is None:
            return super().training_step(model, inputs, num_items_in_batch)
        started = time.perf_counter()
        model.train()  # TRL plays a rollout only if the model trains
        ends = (self.current_gradient_accumulation_steps, self.args.steps_per_generation)
        if any(self._step % end == 0 for end in ends):
            self._window_start = self._step
            self._prepare_inputs(inputs)
        if all((self._step + 1) % end for end in ends):
            self._step += 1
            self._current_train_step_time += time.perf_counter() - started
            return torch.zeros((), device=self.accelerator.device)
        *first, last = self._micro_batches()
        steps = self._step + 1 - self._window_start
        merged = MergedMetrics(
            self._metrics["train"], {"policy_loss": steps} if MEAN_OVER[self.loss_type] == BATCH else {}
        )
        losses = []
        try:
            for self._micro_batch in first:
                with merged.weighing(self._micro_batch.actions), self._unsynchronized(model):
                    losses.append(super(GRPOTrainer, self).training_step(model, inputs, num_items_in_batch))
            self._current_train_step_time += time.perf_counter() - started
            self._micro_batch = last
            with merged.weighing(last.actions):
                losses.append(super().training_step(model, inputs, num_items_in_batch))
        finally:
            self._micro_batch = None
        merged.close()
        return torch.stack(losses).sum()

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        if self._micro_batch is not None:
            return self._micro_batch.inputs
        return super()._prepare_inputs(generation_batch)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        if self._micro_batch is None:
            return super()._compute_loss(model, inputs)
        weights = self._micro_batch.weights
        inputs = {**inputs, "advantages": inputs["advantages"] * weights.factor}
        kept = self.current_gradient_accumulation_steps, self.beta
        self.current_gradient_accumulation_steps, self.beta = weights.accumulation, self.beta * weights.factor
        try:
            with uneven_gather(self.accelerator):
                loss = super()._compute_loss(model, inputs)
        finally:
            self.current_gradient_accumulation_steps, self.beta = kept
        return loss if weights.learns else loss * 0.0

    def _micro_batches(self) -> list[MicroBatch]:
        """Deal the rows of the window again. Collective."""
        count = self.args.steps_per_generation
        window = self._buffered_inputs[self._window_start % count : self._step % count + 1]
        whole = join(window)
        lengths = Lengths.of(whole["prompt_mask"], whole["completion_mask"])
        in_loss = whole["completion_mask"] * whole.get("tool_mask", 1)
        actions = in_loss.sum(1).tolist()
        parts = self._parts(whole, lengths)
        own = [(sum(actions[i] for i in rows), lengths.tokens(rows), lengths.padded(rows)) for rows in parts]
        plans: list[list[tuple[int, int, int]]] = gather_object([own])
        made = []
        for k in range(max(map(len, plans))):
            everywhere = sum(plan[k][0] for plan in plans if k < len(plan))
            if k >= len(parts):
                made.append(MicroBatch(filler(whole), Weights(1.0, 1.0, learns=False), everywhere))
                continue
            weights = weigh(
                self.loss_type,
                len(parts[k]),
                own[k][0],
                len(actions),
                sum(actions),
                len(window),
                self.current_gradient_accumulation_steps,
            )
            made.append(MicroBatch(cut(whole, parts[k], lengths.width(parts[k])), weights, everywhere))
        if self.path != TREES:
            real = sum(tokens for plan in plans for _, tokens, _ in plan)
            forwarded = sum(padded for plan in plans for _, _, padded in plan)
            forwarded += FILLER * sum(len(made) - len(plan) for plan in plans)
            self._metrics["train"]["padding_share"].append(1 - real / forwarded)
        return made

    def _parts(self, inputs: dict[str, Any], lengths: Lengths) -> list[list[int]]:
        """Rows of each micro-batch."""
        limit = self.args.micro_batch_tokens
        return partition_trees(inputs, limit) if self.path == TREES else partition(lengths, limit)

    @contextmanager
    def _unsynchronized(self, model: Any) -> Iterator[None]:
        """Within the block, a backward pass adds to the gradients of this process only; as transformers does it."""
        state = self.accelerator.gradient_state
        each = state.plugin_kwargs.get("sync_each_batch", False)
        deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        kept = state.sync_gradients
        state._set_sync_gradients(False)
        try:
            with nullcontext() if each or deepspeed else self.accelerator.no_sync(model=model):
                yield
        finally:
            state._set_sync_gradients(kept)

    def _log_padding(self, out: dict[str, Any]) -> None:
        """Log the share of padding of TRL's own micro-batches, which are all as wide as the rollout. Collective."""
        if self.path == TREES:
            return
        masks = out["prompt_mask"], out["completion_mask"]
        counts = [sum(mask.sum() for mask in masks), sum(mask.numel() for mask in masks)]
        real, forwarded = self.accelerator.reduce(torch.tensor(counts, device=masks[0].device), "sum").tolist()
        self._metrics["train"]["padding_share"].append(1 - real / forwarded)

    # ------------------------------------------------------------------ scores without gradients

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
        kwargs = {"compute_entropy": compute_entropy, "compute_aux_loss": compute_aux_loss, **others}
        score = super()._get_per_token_logps_and_entropies
        if self.args.micro_batch_tokens is None or batch_size is None:  # only a rollout is scored in chunks
            return score(model, input_ids, attention_mask, logits_to_keep, batch_size=batch_size, **kwargs)
        inputs = {
            "prompt_ids": input_ids[:, :-logits_to_keep],
            "prompt_mask": attention_mask[:, :-logits_to_keep],
            "completion_ids": input_ids[:, -logits_to_keep:],
            "completion_mask": attention_mask[:, -logits_to_keep:],
        }
        scored = self.sampled_tokens(inputs["completion_ids"].shape)
        inputs["tool_mask"] = torch.ones_like(inputs["completion_mask"]) if scored is None else scored.to(input_ids)
        lengths = Lengths.of(inputs["prompt_mask"], inputs["completion_mask"])
        parts = self._parts(inputs, lengths)
        found = None
        for k in range(max(gather_object([len(parts)]))):
            rows = parts[k] if k < len(parts) else parts[-1][-1:]  # the shortest row once more
            width = lengths.width(rows)
            part = cut(inputs, rows, width)
            with self.scoring((part["completion_mask"] * part["tool_mask"]).bool()):
                logps, _, _ = score(
                    model,
                    torch.cat([part["prompt_ids"], part["completion_ids"]], 1),
                    torch.cat([part["prompt_mask"], part["completion_mask"]], 1),
                    width[1],
                    **kwargs,
                )
            if found is None:
                found = logps.new_zeros(inputs["completion_ids"].shape)
            found[torch.tensor(rows, device=found.device), : width[1]] = logps
        return found, None, None
