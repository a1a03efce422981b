"""How a model can be played in this process, from its configuration alone.

Three ways: this project's slots of keys and values (`kv_cache`), for attention over all tokens or over a window of
them; Hugging Face's own cache (`native_cache`), slower, for recurrent and other layers; not at all. `self_check` then
tests what was chosen.
"""

from __future__ import annotations

import math
from typing import Any

from transformers.cache_utils import DYNAMIC_LAYER_TYPE_MAPPING

from metarlgym.datatypes import ConfigError

WAY_OUT = "Serve it with vLLM instead: use_vllm=true."

NO_PADDING = (
    "It gives other log-probabilities to padded rows, so it can be neither played here nor trained: use another."
)

OTHERS = {
    "doge": ("a mask made from the values of all tokens", NO_PADDING),
    "rwkv": ("a recurrent state of its own", NO_PADDING),
}
"""Model types that need more than a mask and a cache although their configuration does not show it."""

ALIBI = ("bloom", "falcon with alibi")
"""Model types that derive ALiBi positions from a mask of padding, so that they cannot have a mask of ours."""

MASK_PER_KIND = frozenset({"cohere2", "gemma2", "gemma3_text", "gpt_oss", "olmo3", "qwen2", "qwen3", "smollm3"})
"""Model types with windows in some layers that accept one mask for each kind of layer."""


def check_config(config: Any) -> None:
    """Reject a model that cannot be played in this process. `self_check` detects the remaining cases.

    Raises:
        ConfigError: naming the model and the alternative.
    """
    text = config.get_text_config()
    if text.model_type.startswith("metarlgym_"):
        return  # this project's own networks support it
    name = f"model {config.name_or_path or text.model_type!r} (model type {text.model_type!r})"
    unknown = sorted(layer_kinds(config) - set(DYNAMIC_LAYER_TYPE_MAPPING))
    if unknown:
        raise ConfigError(f"{name} has layers of type {unknown}, whose cache is not known here. {WAY_OUT}")
    need, way_out = OTHERS.get(text.model_type, ("", ""))
    if need:
        raise ConfigError(f"{name} needs {need}, which the in-process policy does not provide. {way_out}")


def slow_path(config: Any) -> str | None:
    """A line for the user if the model is played with Hugging Face's own cache; None otherwise."""
    if uses_slots(config):
        return None
    kind = config.get_text_config().model_type
    return (
        f"model type {kind!r} is played with Hugging Face's own cache: only contexts of equal length share a batch, "
        "which is slower; vLLM serves it faster."
    )


def uses_slots(config: Any) -> bool:
    """Whether the model is played with slots of keys and values, and not with Hugging Face's cache."""
    text = config.get_text_config()
    if text.model_type.startswith("metarlgym_"):
        return True
    if text.model_type + (" with alibi" if getattr(text, "alibi", False) else "") in ALIBI:
        return False
    kinds = layer_kinds(config)
    if kinds == {"full_attention", "sliding_attention"}:
        return text.model_type in MASK_PER_KIND
    return kinds == {"full_attention"} or (kinds == {"sliding_attention"} and window_of(config) is not None)


def window_of(config: Any) -> int | None:
    """The number of tokens that layers with a window attend to, the token itself included; None without such layers.

    This project's own networks apply their window themselves.
    """
    text = config.get_text_config()
    if text.model_type.startswith("metarlgym_") or "sliding_attention" not in layer_kinds(config):
        return None
    return getattr(text, "sliding_window", None)


def layer_kinds(config: Any) -> set[str]:
    """The kinds of a model's layers, in transformers' words."""
    text = config.get_text_config()
    listed = getattr(text, "layer_types", None)
    return set(listed) if listed else {_layer_kind(text)}


def _layer_kind(config: Any) -> str:
    """The kind of all layers if the config does not list them per layer, as for Mistral and Phi-3."""
    if "local" in (getattr(config, "attention_layers", None) or ()):  # GPT-Neo
        return "sliding_attention"
    window = getattr(config, "sliding_window", None)
    longest = getattr(config, "max_position_embeddings", None) or math.inf
    return "full_attention" if window is None or window >= longest else "sliding_attention"
