"""Check from a model's configuration alone whether it can be played in this process."""

from __future__ import annotations

import math
from typing import Any

from metarlgym.datatypes import ConfigError

WAY_OUT = "Serve it with vLLM instead: use_vllm=true."

NO_PADDING = (
    "It gives other log-probabilities to padded rows, so it can be neither played here nor trained: use another."
)

OTHERS = {
    "bloom": ("ALiBi positions, made from a mask of padding", WAY_OUT),
    "falcon with alibi": ("ALiBi positions, made from a mask of padding", WAY_OUT),
    "doge": ("a mask made from the values of all tokens", NO_PADDING),
    "rwkv": ("a recurrent state of its own", NO_PADDING),
}
"""Model types that need more than a mask and a cache of keys and values although their configuration does not show it.
"""


def check_config(config: Any) -> None:
    """Reject a model that cannot be played in this process. `self_check` detects the remaining cases.

    Raises:
        ConfigError: naming the model and the alternative.
    """
    text = config.get_text_config()
    if text.model_type.startswith("metarlgym_"):
        return  # this project's own networks support it
    name = f"model {config.name_or_path or text.model_type!r} (model type {text.model_type!r})"
    kinds = set(getattr(text, "layer_types", None) or [_layer_kind(text)])
    if kinds != {"full_attention"}:
        raise ConfigError(
            f"{name} has layers of type {sorted(kinds)}; the in-process policy keeps plain attention caches only. "
            f"{WAY_OUT}"
        )
    need, way_out = OTHERS.get(text.model_type + (" with alibi" if getattr(text, "alibi", False) else ""), ("", ""))
    if need:
        raise ConfigError(f"{name} needs {need}; the in-process policy keeps plain attention caches only. {way_out}")


def _layer_kind(config: Any) -> str:
    """The kind of all layers if the config does not list them per layer, as for Mistral and Phi-3."""
    if "local" in (getattr(config, "attention_layers", None) or ()):  # GPT-Neo
        return "sliding_attention"
    window = getattr(config, "sliding_window", None)
    longest = getattr(config, "max_position_embeddings", None) or math.inf
    return "full_attention" if window is None or window >= longest else "sliding_attention"
