"""Loading of models, configs and tokenizers from a hub id or a local folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.integrations import deepspeed as hf_deepspeed

from metarlgym.datatypes import ConfigError
from metarlgym.files import expand
from metarlgym.models.folder_check import adapter_base, check_files, has_vocabulary
from metarlgym.models.loaded_tensors import check_tensors
from metarlgym.models.saveable import first_line, repair_generation_config


def check_model_path(name: str) -> None:
    """Refuse an obviously missing folder, or one with broken files, before querying the hub.

    Raises:
        ConfigError: if so; states the path and any model folders inside it, or the broken file.
    """
    path = Path(expand(name))
    looks_local = name.startswith((".", "/", "~", "runs")) or name.count("/") > 1
    if path.exists():
        if path.is_dir() and not any((path / file).exists() for file in ("config.json", "adapter_config.json")):
            inside = sorted(p.parent.name for p in path.glob("*/config.json") if not p.parent.name.startswith("."))
            hint = f" It holds {', '.join(inside)}: name one of them." if inside else ""
            raise ConfigError(f"model_name_or_path={name!r} is a folder without config.json.{hint}")
        if not path.is_dir():
            raise ConfigError(f"model_name_or_path={name!r} is a file: give the model's folder.")
        _check_files(name)
    elif looks_local:
        raise ConfigError(f"model_name_or_path={name!r}: no such folder. Give a model folder or a hub id.")


def know_our_networks() -> None:
    """Register this package's networks with transformers' Auto classes."""
    import metarlgym.models.recurrent
    import metarlgym.models.relative  # noqa: F401  (importing the modules registers them)


def load_model(name: str, **kwargs: Any) -> Any:
    """Load a causal language model from a folder or the hub, with weights only from safetensors.

    Generation settings that cannot be saved again are dropped with a warning.

    Raises:
        ConfigError: if it cannot be loaded, or some of its tensors are missing or have another shape; one line, with
            the broken file if there is one.
    """
    base = adapter_base(Path(expand(name)))
    # With `ignore_mismatched_sizes`, tensors of another shape are listed rather than left to an error without names.
    checked = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    load = AutoModelForCausalLM.from_pretrained
    model, found = _load(base or name, "cannot be loaded", load, **checked, **kwargs)
    check_tensors(base or name, found)
    if base is not None:  # in one go, transformers would not say what the base model lacks
        adapter = _load(name, "cannot be loaded", model.load_adapter, ignore_mismatched_sizes=True)
        check_tensors(name, adapter.to_dict())
    repair_generation_config(model, name)
    return model


@contextmanager
def loading_alone() -> Iterator[None]:
    """Disable the collective, sharded model loading that transformers does under ZeRO-3."""
    kept = hf_deepspeed._hf_deepspeed_config_weak_ref
    hf_deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        hf_deepspeed._hf_deepspeed_config_weak_ref = kept


def load_config(name: str, **kwargs: Any) -> Any:
    """Load a model's config, without its weights."""
    return _load(name, "has no configuration that loads", AutoConfig.from_pretrained, **kwargs)


def load_tokenizer(name: str, **kwargs: Any) -> Any:
    """Load a model's tokenizer; one without a token for padding gets its end token.

    Raises:
        ConfigError: if there is none, or it cannot be loaded.
    """
    tokenizer = _load(name, "has no tokenizer that loads", AutoTokenizer.from_pretrained, **kwargs)
    # Without its files, transformers may build an empty tokenizer from the model's config.
    if needs := getattr(tokenizer, "vocab_files_names", None):
        _check_vocabulary_files(name, needs.values())
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_vocabulary(name: str, tokenizer: Any, config: Any) -> None:
    """Refuse a tokenizer with more tokens than the model's embedding; the embedding may be larger.

    Raises:
        ConfigError: if it has more; states both sizes.
    """
    tokens = max([len(tokenizer), *(i + 1 for i in getattr(tokenizer, "added_tokens_decoder", ()))])
    rows = getattr(config.get_text_config(), "vocab_size", None)
    if rows is not None and tokens > rows:
        raise ConfigError(
            f"model_name_or_path={name!r}: the tokenizer has {tokens:,} tokens, the model's embedding {rows:,}: use "
            "the model's own tokenizer."
        )


def _load(name: str, failure: str, from_pretrained: Callable[..., Any], **kwargs: Any) -> Any:
    know_our_networks()
    check_model_path(name)
    try:
        return from_pretrained(expand(name), **kwargs)
    except Exception as error:  # a broken file may raise anything, from KeyError to Rust exceptions
        _check_files(name, tokenizer=True)
        if from_pretrained == AutoTokenizer.from_pretrained:
            _check_vocabulary_files(name)
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        raise ConfigError(
            f"model_name_or_path={name!r} {failure}: {kind}{first_line(error)}{_absent(name)}."
        ) from error


def _absent(name: str) -> str:
    """What to add to a failure if the name is no folder; a hub id and a relative path look alike."""
    path = Path(expand(name))
    return "" if path.exists() else f"; and there is no folder {str(path)!r} here (relative to {str(Path.cwd())!r})"


def _check_files(name: str, tokenizer: bool = False) -> None:
    folder = Path(expand(name))
    if folder.is_dir():
        try:
            check_files(folder, tokenizer)
        except ConfigError as error:
            raise ConfigError(f"model_name_or_path={name!r} cannot be loaded: {error}") from None


def _check_vocabulary_files(name: str, own: Iterable[str] = ()) -> None:
    folder = Path(expand(name))
    if folder.is_dir() and not has_vocabulary(folder, own):
        raise ConfigError(
            f"model_name_or_path={name!r} has no tokenizer.json, and no other file with a tokenizer's vocabulary: copy "
            "the tokenizer's files there, or save it with save_pretrained."
        )


def context_room(config: Any) -> int | None:
    """Maximum context length of a model with this config in tokens, or None.

    Rotary embeddings that change with the length (`longrope`, `dynamic`) take their frequencies from the longest row of
    a batch. Beyond the original length a row's log-probabilities would depend on the others, so the room ends there.
    """
    text = config.get_text_config()
    room = getattr(text, "max_position_embeddings", None)
    given = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    kinds = [given] if "rope_type" in given else [kind for kind in given.values() if isinstance(kind, dict)]
    for kind in kinds:
        if kind.get("rope_type") in ("longrope", "dynamic"):
            original = kind.get("original_max_position_embeddings")
            original = original or getattr(text, "original_max_position_embeddings", None) or room
            room = min((n for n in (room, original) if n), default=None)
    return room
