"""The tokens with which a model ends its output, according to its own configuration."""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig

from metarlgym.datatypes import ConfigError
from metarlgym.files import expand
from metarlgym.models.saveable import first_line


def load_end_tokens(name: str, config: Any, **source: Any) -> set[int]:
    """Ids that `generation_config.json` and the config of a model list as ends of sequence; loads no weights.

    Args:
        name: folder or hub id.
        config: the model's config.
        source: keyword arguments of `from_pretrained`, such as `revision`.

    Raises:
        ConfigError: the file is there and cannot be loaded.
    """
    try:
        generation = GenerationConfig.from_pretrained(expand(name), **source)
    except OSError:  # many models have no such file; one that is not JSON is refused by `check_saveable`
        generation = None
    except Exception as error:  # its values may be of any type
        raise ConfigError(
            f"model_name_or_path={name!r}: generation_config.json cannot be loaded ({first_line(error)}): correct it, "
            "or delete it."
        ) from error
    return end_tokens(generation, config)


def end_tokens(*configs: Any) -> set[int]:
    """Ids of the ends of sequence in configs: `eos_token_id` is a number, a list of numbers, or None."""
    found: set[int] = set()
    for config in configs:
        ids = getattr(config, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or [])
    return found
