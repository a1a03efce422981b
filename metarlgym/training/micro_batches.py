"""Micro-batches bounded by tokens: rows of similar length share a forward pass, cut to the longest of them.

TRL deals the rows of a rollout out at random, an equal number to each micro-batch, and pads all of them to the longest
of the rollout. Here the rows of one optimizer step are sorted by length and dealt again. What a loss divides by is
restored by weights, so that the gradient stays what it was; see `weigh`. `micro_batch_trainer` runs these
micro-batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from metarlgym.datatypes import MetaRLGymError

ROWS, BATCH, TOKENS = "rows", "batch", "tokens"
MEAN_OVER: dict[str, str] = {
    **dict.fromkeys(("grpo", "dr_grpo", "luspo", "sapo"), ROWS),
    **dict.fromkeys(("dapo", "cispo", "vespo"), BATCH),
    "bnpo": TOKENS,
}
"""What a loss type divides by: the rows of the micro-batch, the action tokens of the whole batch, or those of the
micro-batch."""

PROMPT = ("prompt_ids", "prompt_mask")
"""Tensors as wide as the prompts, which are padded on the left."""
COMPLETION = (
    "completion_ids",
    "completion_mask",
    "tool_mask",
    "advantages",
    "old_per_token_logps",
    "sampling_per_token_logps",
    "importance_sampling_ratio",
    "ref_per_token_logps",
)
"""Tensors as wide as the completions, which are padded on the right; importance weights of whole rows have width 1."""
BY_ROW = ("choice_positions", "choice_ids")
"""Tensors whose columns count from the start of the completion, or are no positions."""
WHOLE = ("num_items_in_batch", "choice_items")
"""Numbers that belong to the batch."""


class Lengths(NamedTuple):
    """Tokens of each row, without padding."""

    prompts: list[int]
    completions: list[int]

    @classmethod
    def of(cls, prompt_mask: torch.Tensor, completion_mask: torch.Tensor) -> Lengths:
        """From attention masks of shape `(B, P)`, padded on the left, and `(B, T)`, padded on the right."""
        both = torch.stack([prompt_mask.bool().sum(1), completion_mask.bool().sum(1)]).tolist()
        return cls(*both)

    def width(self, rows: Sequence[int]) -> tuple[int, int]:
        """Columns that these rows need together, at least one each: of the prompts, and of the completions."""
        return max(1, *(self.prompts[i] for i in rows)), max(1, *(self.completions[i] for i in rows))

    def padded(self, rows: Sequence[int]) -> int:
        """Tokens of these rows with padding."""
        return len(rows) * sum(self.width(rows))

    def tokens(self, rows: Sequence[int]) -> int:
        """Tokens of these rows without padding."""
        return sum(self.prompts[i] + self.completions[i] for i in rows)


def partition(lengths: Lengths, limit: int) -> list[list[int]]:
    """Deal rows into the fewest micro-batches of rows that are neighbours in length.

    Args:
        lengths: of all rows.
        limit: most tokens of a micro-batch, padding included. A longer row gets one of its own.

    Returns:
        Row indices of each micro-batch, longest rows first.
    """
    order = sorted(range(len(lengths.prompts)), key=lambda i: (-lengths.tokens([i]), i))
    parts: list[list[int]] = []
    for row in order:
        if parts and lengths.padded([*parts[-1], row]) <= limit:
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


def join(batches: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The rows of several micro-batches of TRL's in one, in order."""
    whole: dict[str, Any] = {}
    for name, value in batches[0].items():
        if name in WHOLE or value is None:
            whole[name] = value
        elif name in PROMPT + COMPLETION + BY_ROW:
            whole[name] = torch.cat([batch[name] for batch in batches])
        else:
            raise MetaRLGymError(f"TRL trains on {name!r}, which micro_batch_tokens cannot divide: leave that out.")
    return whole


def cut(inputs: dict[str, Any], rows: Sequence[int], width: tuple[int, int]) -> dict[str, Any]:
    """Some rows of a batch, without columns that hold padding only.

    Args:
        inputs: tensors by name, as `join` returns them.
        rows: indices.
        width: columns to keep of the prompts, from the right, and of the completions, from the left.
    """
    out = dict(inputs)
    for name, value in inputs.items():
        if value is None or name in WHOLE:
            continue
        value = value[torch.tensor(rows, device=value.device)]
        if name in PROMPT:
            value = value[:, -width[0] :]
        elif name in COMPLETION and value.dim() > 1:
            value = value[:, : width[1]]
        out[name] = value
    return out


def filler(inputs: dict[str, Any]) -> dict[str, Any]:
    """The smallest micro-batch, of two tokens, from which nothing is learned."""
    out = cut(inputs, [0], (1, 1))
    for name in ("prompt_mask", "completion_mask"):
        out[name] = torch.ones_like(out[name])
    out["tool_mask"] = torch.zeros_like(out["completion_mask"])
    out["advantages"] = torch.zeros_like(out["advantages"])
    if "choice_positions" in out:
        out["choice_positions"] = torch.full_like(out["choice_positions"], -1)
    return out


class Weights(NamedTuple):
    """How a micro-batch counts in TRL's loss."""

    accumulation: float
    """Takes the place of `gradient_accumulation_steps`, by which TRL divides the loss, the entropy bonus and the
    load-balancing loss of mixtures of experts."""
    factor: float
    """Of the advantages and the KL term, which are the rest of the loss."""
    learns: bool = True
    """False: the loss counts nothing."""


def weigh(
    loss_type: str, rows: int, actions: int, all_rows: int, all_actions: int, steps: int, accumulation: float
) -> Weights:
    """Weights under which the losses of the micro-batches of a process add up to what they were.

    A loss that TRL averages over the rows of a micro-batch becomes the average over all rows, and one that it divides
    by the tokens of the whole batch keeps its divisor: both have the same gradient whatever the micro-batches are. What
    TRL averages over the action tokens of a micro-batch (`bnpo` and the entropy bonus) becomes the average over all of
    the process's action tokens in the step, as if they had been in one micro-batch. The load-balancing loss of mixtures
    of experts is no mean over tokens; it is weighted like one.

    Args:
        loss_type: TRL's.
        rows: of this micro-batch.
        actions: tokens of this micro-batch that are in the loss.
        all_rows: rows of all of this process's micro-batches together.
        all_actions: their tokens that are in the loss.
        steps: micro-batches that TRL had made of them.
        accumulation: micro-batches of TRL's in an optimizer step.
    """
    if not actions:
        return Weights(accumulation, 1.0, learns=False)
    share = steps * actions / all_actions
    mean = MEAN_OVER[loss_type]
    wanted = {ROWS: steps * rows / all_rows, BATCH: 1.0, TOKENS: share}[mean]
    return Weights(accumulation / share, wanted / share)


@dataclass
class MergedMetrics:
    """Makes one value of those that TRL logs for each micro-batch: the mean, weighted by action tokens.

    Args:
        metrics: TRL's lists of values by name, to which it appends.
        summed: names of metrics that are contributions to a sum, and how many of TRL's micro-batches they are from.
    """

    metrics: dict[str, list[float]]
    summed: dict[str, int] = field(default_factory=dict)
    _kept: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    @contextmanager
    def weighing(self, weight: float) -> Iterator[None]:
        """Keep what is appended inside with this weight."""
        before = {name: len(values) for name, values in self.metrics.items()}
        yield
        for name, values in self.metrics.items():
            new = values[before.get(name, 0) :]
            del values[before.get(name, 0) :]
            self._kept.setdefault(name, []).extend((value, weight) for value in new)

    def close(self) -> None:
        """Append the merged values."""
        for name, pairs in self._kept.items():
            if pairs:
                self.metrics[name].append(self._merged(name, pairs))

    def _merged(self, name: str, pairs: list[tuple[float, float]]) -> float:
        known = [(value, weight) for value, weight in pairs if not math.isnan(value)]
        if not known:
            return math.nan
        values = [value for value, _ in known]
        if name in self.summed:
            return sum(values) / self.summed[name]
        if name.endswith(("_min", "_max")):
            return min(values) if name.endswith("_min") else max(values)
        total = sum(weight for _, weight in known)
        return sum(value * weight for value, weight in known) / total if total else sum(values) / len(values)
