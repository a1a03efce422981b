"""A check of what the launcher started against what a process finds."""

from __future__ import annotations

import os

from metarlgym.datatypes import ConfigError


def check_launch(found: int) -> None:
    """Refuse to run as one of several processes that each believe to be alone.

    Args:
        found: processes that this one knows of.

    Raises:
        ConfigError: the launcher started more.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if found < world:
        raise ConfigError(
            f"the launcher started {world} processes (WORLD_SIZE), but each found itself alone: this happens with "
            "a GPU configuration on a machine without one. Use configs/zero3_cpu.yaml, or set use_cpu: true there."
        )
