"""YAML files of settings, read strictly: one document, a mapping, every key once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from metarlgym.datatypes import ConfigError


class _KeysOnce(yaml.SafeLoader):
    """PyYAML keeps the last of several equal keys in silence; this loader refuses them."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Checked here, before merge keys (`<<: *base`) are spread out: a key may be set and merged as well.
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line, known = key.start_mark.line + 1, (key.tag, key.value)
                if known in lines:
                    raise ConfigError(
                        f"sets {key.value!r} twice, in lines {lines[known]} and {line}: keep one of them."
                    )
                lines[known] = line
        return node


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a file, which is UTF-8, or UTF-16 with a byte order mark, whatever the locale is.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or is not one mapping with every key once.
    """
    name = f"config={str(path)!r}"
    try:
        loader = _KeysOnce(path.read_bytes())
        try:
            content = loader.get_single_data()
        finally:
            loader.dispose()
    except ConfigError as error:
        raise ConfigError(f"{name} {error}") from None
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror or error}.") from None
    except UnicodeError as error:
        raise ConfigError(f"{name} is not text ({error}): save it as UTF-8.") from None
    except yaml.reader.ReaderError as error:
        raise ConfigError(f"{name} is not UTF-8 text ({_line(error)}): save it as UTF-8.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not valid YAML: {_line(error)}.") from None
    except RecursionError:
        raise ConfigError(f"{name} is nested too deeply to be read.") from None
    except Exception as error:  # PyYAML's constructors let Python's errors through: `2024-13-45`, `!!int x`
        raise ConfigError(f"{name} holds a value that YAML cannot read: {_line(error)}.") from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigError(f"{name} must hold `name: value` lines.")
    return content


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()).replace('"<byte string>", ', "")
    return text.rstrip(".") or type(error).__name__


def is_file(path: str | Path) -> bool:
    """Whether there is such a file; False too for names that no file can have, for which pathlib raises an error."""
    return os.path.isfile(path)  # noqa: PTH113
