"""Checks before a run that a loaded model can be saved, so that no trained model is lost at the end."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import GenerationConfig
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from metarlgym.datatypes import ConfigError
from metarlgym.files import expand
from metarlgym.models.folder_check import has_weights

TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
KEPT = ((*TOKENS, "max_length", "max_new_tokens"), TOKENS, ())
"""Reductions of an unsaveable generation config, tried in order until one can be saved."""


def repair_generation_config(model: Any, name: str) -> None:
    """Drop generation settings that transformers refuses to save, such as a temperature without sampling, and warn.

    Training and evaluation never use these settings for sampling.
    """
    config = getattr(model, "generation_config", None)
    if config is None or (problem := _problem(config.save_pretrained)) is None:
        return
    before = config.to_diff_dict()
    for names in KEPT:
        reduced = GenerationConfig(**{key: before[key] for key in names if before.get(key) is not None})
        if _problem(reduced.save_pretrained) is None:
            break
    model.generation_config = reduced
    after = reduced.to_diff_dict()
    dropped = ", ".join(f"{k}={v!r}" for k, v in before.items() if k not in after and k != "transformers_version")
    warnings.warn(
        f"generation_config.json of {name!r} could not be saved again ({problem}): {dropped} left out of "
        "what is saved.",
        stacklevel=3,
    )


def check_saveable(name: str, config: Any, tokenizer: Any) -> None:
    """Check before a run that weights exist, the generation config loads, and config and tokenizer can be saved.

    Raises:
        ConfigError: one line that says what is missing or cannot be saved.
    """
    folder = Path(expand(name))
    if folder.is_dir() and (folder / "config.json").exists() and not has_weights(folder):
        raise ConfigError(
            f"model_name_or_path={name!r} holds no weights as safetensors (other forms can carry code): copy "
            "model.safetensors there, or save the model with save_pretrained."
        )
    if (folder / "generation_config.json").exists():
        try:
            GenerationConfig.from_pretrained(folder)
        except Exception as error:  # `load_model` repairs a config that loads
            raise ConfigError(
                f"model_name_or_path={name!r}: generation_config.json cannot be loaded ({first_line(error)}): correct "
                "it, or delete it."
            ) from error
    for what, part in (("configuration", config), ("tokenizer", tokenizer)):
        if part is not None and (problem := _problem(part.save_pretrained)):
            raise ConfigError(
                f"model_name_or_path={name!r} has a {what} that loads but cannot be saved ({problem}), so the trained "
                "model could not be either: correct its files, or give another model."
            )


def saveable(model: Any, name: str) -> Any:
    """Return the model if its weights can be written as safetensors.

    Raises:
        ConfigError: if parameters share memory in a way that its class does not declare.
    """
    if not is_deepspeed_zero3_enabled():  # under ZeRO-3 the weights are sharded and cannot be checked
        try:
            remove_tied_weights_from_state_dict(dict(model.state_dict()), model)
        except RuntimeError as error:
            raise ConfigError(
                f"model_name_or_path={name!r} loads but cannot be saved ({first_line(error)}): declare the tied "
                "weights in its class (_tied_weights_keys), or give another model."
            ) from error
    return model


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, and those that it goes on in, without a trailing period."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text, *more = lines
    while more and text.endswith((":", ",", " or", " and")):
        text = f"{text} {more.pop(0)}"
    return text.rstrip(".")


def _problem(save: Callable[[str], Any]) -> str | None:
    """One line on why a part cannot be saved, or None."""
    with TemporaryDirectory() as folder:
        try:
            save(folder)
        except Exception as error:  # tokenizers raises plain exceptions
            return first_line(error)
    return None
