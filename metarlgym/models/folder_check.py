"""Checks of a model folder's files before a library reads them, so that errors name the broken file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from metarlgym.datatypes import ConfigError

LFS_POINTER = b"version https://git-lfs"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SMALL = ("config.json", "generation_config.json", "adapter_config.json", INDEX)
"""Files that are always checked; tokenizer files can be large and are checked only after a failure to load."""
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json")
VOCABULARY = r"(tokenizer|vocab|tekken)\.json|vocab\.txt|.*\.(model|tiktoken|bpe|spm|vocab)"
"""Files that can hold a tokenizer's vocabulary."""
AGAIN = "download or copy it again"


def check_files(folder: Path, tokenizer: bool = False) -> None:
    """Refuse a folder with missing or incompletely downloaded files; reads no weights.

    Args:
        folder: a model folder.
        tokenizer: also check the tokenizer files.

    Raises:
        ConfigError: on the first such file; states the fix.
    """
    for name in (*SMALL, *(TOKENIZER if tokenizer else ())):
        if (folder / name).exists():
            _read_json(folder / name)
    for name in _weight_files(folder):
        _check_safetensors(folder / name)


def has_weights(folder: Path) -> bool:
    """Whether the folder holds loadable weights of a model or an adapter."""
    return bool(_weight_files(folder))


def has_vocabulary(folder: Path, own: Iterable[str] = ()) -> bool:
    """Whether the folder holds a tokenizer's vocabulary.

    Args:
        folder: a model folder.
        own: further file names that count, such as those of a tokenizer's class.
    """
    names = set(own)
    return any(path.name in names or re.fullmatch(VOCABULARY, path.name) for path in folder.iterdir())


def adapter_base(folder: Path) -> str | None:
    """The model that an adapter's folder refers to; None for other folders and for models that include adapters.

    Raises:
        ConfigError: the adapter's config cannot be read, or names no model.
    """
    path = folder / "adapter_config.json"
    if not path.is_file() or (folder / "config.json").exists():
        return None
    base = _read_json(path).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{path}: base_model_name_or_path={base!r} names no model: give the adapter's base model.")
    return base


def _weight_files(folder: Path) -> list[str]:
    """The weight files that transformers would read."""
    names = [name for name in (WEIGHTS, "adapter_model.safetensors") if (folder / name).exists()]
    if WEIGHTS not in names and (folder / INDEX).exists():
        shards = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(shards, dict):
            raise ConfigError(f"{folder / INDEX} has no weight_map: {AGAIN}.")
        names += sorted(set(shards.values()))
    return names


def _read_json(path: Path) -> dict[str, Any]:
    _check_downloaded(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} is not JSON in UTF-8 ({error}): {AGAIN}.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}, not a JSON object: {AGAIN}.")
    return content


def _check_downloaded(path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"{path} is missing: {AGAIN}.")
    with path.open("rb") as file:
        start = file.read(len(LFS_POINTER))
    if not start:
        raise ConfigError(f"{path} is empty: {AGAIN}.")
    if start == LFS_POINTER:
        raise ConfigError(f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository.")


def _check_safetensors(path: Path) -> None:
    """Check a safetensors file's length against its header (8 bytes with the header's size, then JSON)."""
    _check_downloaded(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if 8 + length > size:
            raise ConfigError(f"{path} ends within its header ({size:,} bytes): {AGAIN}.")
        try:
            header = json.loads(file.read(length))
            end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ConfigError(f"{path} is not a safetensors file: {AGAIN}.") from None
    if 8 + length + end != size:
        raise ConfigError(f"{path} has {size:,} bytes of {8 + length + end:,}: {AGAIN}.")
