"""Whether a model's weights were all in its files: transformers fills what is missing with random numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metarlgym.datatypes import ConfigError


def check_tensors(name: str, found: Mapping[str, Any]) -> None:
    """Refuse a model with tensors that its files lack or hold in another shape. Unused tensors are allowed.

    Args:
        name: folder or hub id.
        found: what `from_pretrained` returns with `output_loading_info`. Weights that are tied to others that are there
            do not count as missing.

    Raises:
        ConfigError: naming the first such tensor, and their number.
    """
    setting = f"model_name_or_path={name!r} cannot be loaded"
    if wrong := sorted(found["mismatched_keys"]):
        tensor, saved, wanted = wrong[0]
        raise ConfigError(
            f"{setting}: the tensor {tensor} has shape {_shape(saved)} in the weights and {_shape(wanted)} by "
            f"config.json{_more(wrong)}: use the config.json that was saved with the weights."
        )
    if missing := sorted(found["missing_keys"]):
        raise ConfigError(
            f"{setting}: the weights lack the tensor {missing[0]}{_more(missing)}: save the model again, or give the "
            "config.json that was saved with the weights."
        )


def _shape(sizes: Any) -> str:
    return " x ".join(map(str, sizes)) or "of a number"


def _more(names: list[Any]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
