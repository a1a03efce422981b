"""The fields of settings as tests go through them: another value for each, and files that set them."""

from __future__ import annotations

import dataclasses

import yaml


def write(folder, **settings):
    """A config file; settings that are None are left out."""
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in settings.items() if v is not None}))
    return path


def other(item):
    """A value that is not the field's default."""
    default = item.default if item.default is not dataclasses.MISSING else item.default_factory()
    kind = str(item.type)
    if isinstance(default, bool) or "bool" in kind:
        return not default
    if isinstance(default, int | float) or "int" in kind or "float" in kind:
        return default + 7 if isinstance(default, int | float) else 7
    if "dict" in kind:
        return {"a": 1}
    return ["a"] if "list" in kind and "str |" not in kind else "other"
