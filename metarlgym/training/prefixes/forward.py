"""Log-probabilities and entropies of scored tokens, from a prefix tree or from whole rows.

TRL's fused head computes only what is scored on GPUs alone. Elsewhere it computes all positions and masks them
afterwards, because some devices compile anew for each shape; `scored_only` makes it skip them on all devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from trl.trainer import utils as trl_utils

from metarlgym.training.prefixes.attention import TreeAttention
from metarlgym.training.prefixes.tree import IGNORED, PrefixTree


@dataclass
class Forward:
    """What a forward pass is over, counted for the metrics."""

    tokens: int = 0
    """Forwarded, with padding."""
    row_tokens: int = 0
    """In whole rows, with padding."""
    scored: int = 0
    """Positions at which the head was computed."""
    layers: int = 0
    """Layers whose attention followed a tree; not summed."""

    def __iadd__(self, other: Forward) -> Forward:
        self.tokens += other.tokens
        self.row_tokens += other.row_tokens
        self.scored += other.scored
        return self


@dataclass
class Scores:
    """What is known of each completion token; 0 where it is not scored."""

    logps: torch.Tensor
    """Shape `(B, T)`: log-probabilities."""
    entropies: torch.Tensor | None
    """Shape `(B, T)`: of the distribution that the token was drawn from, in nats."""
    aux_loss: torch.Tensor | None
    """Load-balancing loss of mixtures of experts."""
    index: torch.Tensor
    """Shape `(B, T)`: where each scored token is predicted, in hidden states flattened to `(tokens, width)`."""
    forward: Forward = field(default_factory=Forward)


@contextmanager
def scored_only() -> Iterator[None]:
    """Within the block, TRL's fused head computes labelled positions alone, on all devices."""
    kept = trl_utils._use_triton
    trl_utils._use_triton = lambda device: True
    try:
        yield
    finally:
        trl_utils._use_triton = kept


def forward_tree(model: Any, ids: torch.Tensor, mask: torch.Tensor, scored: torch.Tensor, entropy: bool) -> Scores:
    """Forward what rows share once.

    Args:
        model: with TRL's fused head; under any wrapper.
        ids: shape `(B, L)`, prompts and completions.
        mask: same shape, 0 at padding.
        scored: bool, shape `(B, T)`: completion tokens to score.
        entropy: whether entropies are wanted.
    """
    tree = PrefixTree.of(ids, mask, _wide(scored, ids))
    device = ids.device
    attention = TreeAttention(tree.nodes, device)
    with scored_only():
        out = model(
            input_ids=tree.ids[None].to(device),
            # Of the right number of dimensions, so that the model makes no mask of its own. It is never read.
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
            position_ids=tree.positions[None].to(device),
            shift_labels=tree.labels[None].to(device),
            fused_lm_head=True,
            tree=attention,
        )
    predictors = tree.predictors[:, -scored.shape[1] :].to(device)
    index = predictors.clamp(min=0)
    there = predictors >= 0

    def by_row(values: torch.Tensor) -> torch.Tensor:
        return values[0][index].masked_fill(~there, 0.0)

    return Scores(
        by_row(out.log_probs),
        by_row(out.entropy) if entropy else None,
        None,
        index,
        Forward(len(tree.ids), ids.numel(), tree.scored, attention.calls),
    )


def forward_rows(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, scored: torch.Tensor, entropy: bool, aux_loss: bool
) -> Scores:
    """Forward whole rows as TRL does, with the head at scored tokens alone; arguments as for `forward_tree`."""
    labels = ids.masked_fill(~(_wide(scored, ids) & mask.bool()), IGNORED)
    routers = {"output_router_logits": True} if aux_loss else {}
    with scored_only():
        out = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True, **routers)
    width = scored.shape[1]
    return Scores(
        out.log_probs[:, -width:],
        out.entropy[:, -width:] if entropy else None,
        out.aux_loss if aux_loss else None,
        row_index(len(ids), ids.shape[1], width, ids.device),
        Forward(ids.numel(), ids.numel(), int((labels[:, 1:] != IGNORED).sum())),
    )


def row_index(rows: int, length: int, completion: int, device: torch.device) -> torch.Tensor:
    """`Scores.index` of whole rows."""
    columns = torch.arange(length - completion - 1, length - 1, device=device)
    return torch.arange(rows, device=device)[:, None] * length + columns


def _wide(scored: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The same over whole rows, of whose prompts nothing is scored."""
    return torch.cat([scored.new_zeros(len(ids), ids.shape[1] - scored.shape[1]), scored], 1).bool()
