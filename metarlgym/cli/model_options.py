"""What `eval` and `read` share about the options `model` and `device`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from metarlgym.datatypes import ConfigError


@contextmanager
def model_errors() -> Iterator[None]:
    """Errors that name the setting of a run, `model_name_or_path`, name the option instead."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(str(error).replace("model_name_or_path=", "model=")) from error


def find_device(name: str) -> Any:
    """A `torch.device` that works; `auto` is a GPU if there is one.

    Raises:
        ConfigError: torch does not know the device, or cannot use it.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        line = str(error).strip().split("\n", 1)[0]
        raise ConfigError(f"device={name!r} cannot be used ({line}): use auto or cpu.") from None
    return device
