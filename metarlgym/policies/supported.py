"""What can be told from a model's configuration alone about playing it in this process."""

from __future__ import annotations

import math
from typing import Any

from metarlgym.datatypes import ConfigError

WAY_OUT = "Serve it with vLLM instead: use_vllm=true."

OTHER_CACHES = {
    "bloom": "ALiBi positions, which its mask of padding carries",
    "doge": "a mask computed from the values of all keys",
    "rwkv": "a recurrent state of its own kind",
}
"""Model types whose configuration says nothing of what they need beyond a mask and a cache of keys and values."""


def check_config(config: Any) -> None:
    """Refuse a model that cannot be played in this process. The rest is for `self_check` to find.

    Raises:
        ConfigError: naming the model and the way out.
    """
    text = config.get_text_config()
    if text.model_type.startswith("metarlgym_"):
        return  # networks of ours are made for it
    name = f"model {config.name_or_path or text.model_type!r} (model type {text.model_type!r})"
    kinds = set(getattr(text, "layer_types", None) or [_layer_kind(text)])
    if kinds != {"full_attention"}:
        raise ConfigError(
            f"{name} has layers of type {sorted(kinds)}; the in-process policy keeps plain attention caches only. {WAY_OUT}"
        )
    other = OTHER_CACHES.get(text.model_type) or (OTHER_CACHES["bloom"] if getattr(text, "alibi", False) else None)
    if other:
        raise ConfigError(f"{name} needs {other}; the in-process policy keeps plain attention caches only. {WAY_OUT}")


def _layer_kind(config: Any) -> str:
    """The kind of all layers where the config lists none per layer, as Mistral's and Phi-3's do."""
    if "local" in (getattr(config, "attention_layers", None) or ()):  # GPT-Neo's
        return "sliding_attention"
    window = getattr(config, "sliding_window", None)
    longest = getattr(config, "max_position_embeddings", None) or math.inf
    return "full_attention" if window is None or window >= longest else "sliding_attention"
