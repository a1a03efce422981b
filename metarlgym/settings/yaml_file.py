"""Strict reading of YAML settings files: a single document, a mapping, no duplicate keys."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from metarlgym.datatypes import ConfigError


class _KeysOnce(yaml.SafeLoader):
    """Refuses duplicate keys, of which PyYAML silently keeps the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Check before merge keys (`<<: *base`) are expanded: a key may be both set and merged.
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
    """Read the settings in a file, which is UTF-8, or UTF-16 with a byte order mark, whatever the locale.

    Raises:
        ConfigError: if the file cannot be read, is not YAML, or is not a single mapping without duplicate keys.
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
    except Exception as error:  # PyYAML's constructors raise plain Python errors: `2024-13-45`, `!!int x`
        raise ConfigError(f"{name} holds a value that YAML cannot read: {_line(error)}.") from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigError(f"{name} must hold `name: value` lines.")
    return content


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()).replace('"<byte string>", ', "")
    return text.rstrip(".") or type(error).__name__


def is_file(path: str | Path) -> bool:
    """Whether the file exists; also False for invalid file names, for which pathlib raises an error."""
    return os.path.isfile(path)  # noqa: PTH113
