"""Sampling of continuations from gists alone: chunk 1 is read once, and only its gists stay in the KV cache.

Under the gist mask nothing else of chunk 1 is visible later, so the cache holds k tokens, shared by all samples of a
prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metarlgym.datatypes import ConfigError
from metarlgym.selflearning.gist_tokens.model import GistModel


@torch.no_grad()
def sample(model: GistModel, first: Tensor, length: int, group: int, generator: torch.Generator) -> Tensor:
    """Sample continuations of chunk 1.

    Args:
        model: a model with view `gist`.
        first: chunk 1, `(P, n1)`.
        length: symbols per continuation.
        group: continuations per chunk, adjacent in the result.
        generator: random generator for sampling.

    Returns:
        `(P * group, length)`.

    Raises:
        ConfigError: the model has a different view.
    """
    if model.view != "gist":
        raise ConfigError(f"view={model.view!r} cannot be sampled from gists alone: use a model of view 'gist'.")
    before = first.shape[1]
    start = before + model.gists
    found = model.network(
        input_ids=model.ids(first, first[:, :0]),
        attention_mask=model.mask(before, start),
        use_cache=True,
        logits_to_keep=1,
    )
    cache = found.past_key_values
    for layer in cache.layers:
        layer.keys = layer.keys[:, :, before:].repeat_interleave(group, 0)
        layer.values = layer.values[:, :, before:].repeat_interleave(group, 0)
    logits = found.logits[:, -1].repeat_interleave(group, 0)
    symbols: list[Tensor] = []
    for place in range(length):
        if place:
            logits = model.network(
                input_ids=symbols[-1],
                past_key_values=cache,
                position_ids=torch.full((1, 1), start + place - 1),
                attention_mask=torch.zeros(1, 1, 1, model.gists + place),  # everything in the cache is visible
                use_cache=True,
            ).logits[:, -1]
        probs = logits[:, : model.alphabet].softmax(-1)
        symbols.append(torch.multinomial(probs, 1, generator=generator))
    return torch.cat(symbols, dim=1)
