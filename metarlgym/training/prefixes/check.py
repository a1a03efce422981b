"""Whether a model's rows can share prefixes: by its configuration, then by a comparison with whole rows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import gather_object

from metarlgym.policies.self_check import compare
from metarlgym.policies.supported import ALIBI, layer_kinds
from metarlgym.training.prefixes.attention import SDPA, install
from metarlgym.training.prefixes.forward import forward_rows, forward_tree
from metarlgym.training.prefixes.tree import WORTH

COMMON, BRANCHES = WORTH + 4, (12, 9, 3)
"""Tokens that the rows of the check have in common, and those that follow in each."""


CHANGING = frozenset({"dynamic", "longrope"})
"""Kinds of rotary positions whose frequencies follow the number of columns of a batch."""


def obstacle(trainer: Any, dtype: torch.dtype) -> str | None:
    """Why a trainer's model needs whole rows; None if rows can share prefixes. Collective.

    Args:
        trainer: a `GRPOTrainer` whose model has TRL's fused head.
        dtype: the dtype it computes in.

    Returns:
        The same on all processes.
    """
    found = configured_obstacle(trainer.model.config, trainer.args)
    if trainer.aux_loss_enabled:
        found = "its load-balancing loss counts each token of each row"
    if found is None:
        install()
        found = _by_comparison(trainer, dtype)
    return next((text for text in gather_object([found]) if text), None)


def configured_obstacle(config: Any, args: Any) -> str | None:
    """The same, as far as a model's configuration tells.

    Args:
        config: the model's.
        args: the trainer's.
    """
    text = config.get_text_config()
    kinds = layer_kinds(config) - {"full_attention"}
    if args.torch_compile:
        return "torch_compile would compile anew for each tree"
    if kinds:
        return f"it has layers of type {', '.join(sorted(kinds))}"
    if scales := CHANGING & set(_rope_types(getattr(text, "rope_parameters", None))):
        return f"its positions depend on the longest row (rope_type {', '.join(sorted(scales))})"
    if text.model_type + (" with alibi" if getattr(text, "alibi", False) else "") in ALIBI:
        return "it derives positions from a mask of padding"
    if config._attn_implementation not in (None, SDPA):  # None: before it is loaded
        return f"its attention is {config._attn_implementation}, not {SDPA}"
    if (getattr(text, "max_position_embeddings", None) or COMMON + max(BRANCHES)) < COMMON + max(BRANCHES):
        return "its context is too short for prefixes worth sharing"
    return None


def _rope_types(parameters: Any) -> Iterator[str]:
    """The kinds of rotary positions in a config, which may be listed by kind of layer."""
    if isinstance(parameters, dict):
        if isinstance(kind := parameters.get("rope_type"), str):
            yield kind
        for value in parameters.values():
            yield from _rope_types(value)


def _by_comparison(trainer: Any, dtype: torch.dtype) -> str | None:
    """Score a few rows that share a prefix both ways."""
    vocabulary = trainer.model.config.get_text_config().vocab_size
    rng = random.Random(0)
    common = rng.choices(range(vocabulary), k=COMMON)
    rows = [common + rng.choices(range(vocabulary), k=count) for count in BRANCHES]
    width = max(map(len, rows))
    device = trainer.accelerator.device
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    scored = mask[:, 1:].bool()
    model, training = trainer.model, trainer.model.training
    model.eval()
    try:
        with torch.no_grad(), trainer.accelerator.autocast():
            whole = forward_rows(model, ids, mask, scored, entropy=False, aux_loss=False).logps
            found = forward_tree(model, ids, mask, scored, entropy=False)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a model's own code may raise anything
        line = f"{type(error).__name__}: {error}".split("\n", 1)[0]
        return f"it cannot be called with a tree ({line})"
    finally:
        model.train(training)
    layers = model.config.get_text_config().num_hidden_layers
    if found.forward.layers < layers:  # where attention matters little yet, log-probabilities would not show it
        return f"only {found.forward.layers} of its {layers} layers follow a tree"
    problem = compare(found.logps[scored].float().cpu(), whole[scored].float().cpu(), dtype)
    return None if problem is None else f"log-probabilities {problem} from those of whole rows"
