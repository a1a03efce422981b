"""Attention of models whose query heads share keys, without a copy of the keys and values for each query head.

On a CPU, transformers repeats keys and values for every query head before it calls torch, whose kernel could share
them. While a model acts this takes most of the time of attention: with 16 contexts of 300 tokens and three query heads
to a key 4.5 ms a layer, instead of 1.0.
"""

from __future__ import annotations

import inspect
import re
import sys
from functools import lru_cache
from typing import Any

import torch
from peft import PeftModel
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SHARED_KEYS = "sdpa_shared_keys"
"""The name under which transformers knows `shared_keys_attention`."""


def shares_keys(model: Any) -> bool:
    """Whether the model, on a CPU, has several query heads to a key and lets its attention be chosen.

    Models of several parts are left as they are, and so are those whose code compares the name of the attention.
    """
    heads = getattr(model.config, "num_attention_heads", None)
    shared = getattr(model.config, "num_key_value_heads", None) or heads
    if model.device.type != "cpu" or shared == heads or model.config.sub_configs:
        return False
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return base._can_set_attn_implementation() and not _compares_names(type(base).__module__)


@lru_cache
def _compares_names(module: str) -> bool:
    if not hasattr(sys.modules[module], "__file__"):  # written in a notebook
        return True
    return (
        re.search(r"_attn_implementation\s*(==|!=|in\b|not in\b)", inspect.getsource(sys.modules[module])) is not None
    )


def shared_keys_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' `sdpa`, with torch's own grouping of heads where it would repeat keys and values.

    Args:
        module: the attention layer.
        query: shape `(batch, heads, queries, width)`.
        key: shape `(batch, shared heads, keys, width)`; `value` alike.
        value: see `key`.
        attention_mask: shape `(batch or 1, 1, queries, keys)`, or None.
        **kwargs: what else `sdpa` takes.

    Returns:
        Shape `(batch, queries, heads, width)`, and None.
    """
    grouped = getattr(module, "num_key_value_groups", 1) > 1
    if not grouped or attention_mask is None or kwargs.get("position_bias") is not None or query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    output = torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        dropout_p=kwargs.get("dropout", 0.0),
        scale=kwargs.get("scaling"),
        enable_gqa=True,
    )
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(SHARED_KEYS, shared_keys_attention)
AttentionMaskInterface.register(SHARED_KEYS, sdpa_mask)
