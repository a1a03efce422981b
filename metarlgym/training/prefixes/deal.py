"""Deals rows to micro-batches so that rows that begin alike lie together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from metarlgym.training.micro_batches import BY_ROW, COMPLETION, PROMPT, WHOLE
from metarlgym.training.prefixes.tree import WORTH, UnpaddedRows

GATHERED = 8
"""Keys gathered for a branch that take as much memory as one forwarded token, or more."""


def together(batches: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the micro-batches of an optimizer step, sorted by their tokens and dealt to as many.

    Args:
        batches: TRL's tensors by name, with equally many rows in each.
    """
    names = [name for name in (*PROMPT, *COMPLETION, *BY_ROW) if batches[0].get(name) is not None]
    unknown = [name for name, value in batches[0].items() if value is not None and name not in (*names, *WHOLE)]
    if len(batches) < 2 or unknown:  # what cannot be divided by rows stays as TRL dealt it
        return list(batches)
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in names}
    ids = torch.cat([whole["prompt_ids"], whole["completion_ids"]], 1).cpu()
    mask = torch.cat([whole["prompt_mask"], whole["completion_mask"]], 1).bool().cpu()
    rows = [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)]
    order = torch.tensor(sorted(range(len(rows)), key=rows.__getitem__), device=whole["prompt_ids"].device)
    sizes = [len(batch["prompt_ids"]) for batch in batches]
    parts = [{name: whole[name][chosen] for name in names} for chosen in order.split(sizes)]
    return [{**batch, **part} for batch, part in zip(batches, parts, strict=True)]


def scored_tokens(inputs: dict[str, Any]) -> torch.Tensor:
    """The completion tokens whose log-probability or hidden state a loss uses: bool, shape `(B, T)`.

    Args:
        inputs: TRL's tensors by name.
    """
    scored = (inputs["completion_mask"] * inputs.get("tool_mask", 1)).bool()
    if "choice_positions" in inputs:  # where the exploration bonus reads
        row, point = (inputs["choice_positions"] >= 0).nonzero(as_tuple=True)
        scored[row, inputs["choice_positions"][row, point]] = True
    return scored


def partition_trees(inputs: dict[str, Any], limit: int) -> list[list[int]]:
    """Deal rows into micro-batches of which each forwards a tree of bounded size.

    Args:
        inputs: TRL's tensors by name.
        limit: most tokens of a tree. Keys that are gathered for branches count one in `GATHERED`. A longer row gets a
            micro-batch of its own.

    Returns:
        Row indices of each micro-batch, in the order of their tokens; rows of which nothing is scored are in the last.
    """
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    rows = UnpaddedRows(ids, mask, torch.cat([torch.zeros_like(inputs["prompt_mask"]), scored_tokens(inputs)], 1))
    order, lengths = rows.order(), rows.lengths.tolist()
    parts: list[list[int]] = []
    size = 0.0
    for row, shared in zip(order, rows.shared(order), strict=True):
        length = lengths[row]
        added = length - shared + length / GATHERED if shared >= WORTH else length
        if parts and size + added <= limit:
            parts[-1].append(row)
            size += added
        else:
            parts.append([row])
            size = length
    rest = [row for row, length in enumerate(lengths) if not length]
    return [*parts[:-1], parts[-1] + rest] if parts else [rest]
