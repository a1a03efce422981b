"""Steps before a run's folder is claimed: deciding how to treat an existing run, listing inputs, checking loggers."""

from __future__ import annotations

from typing import Any

from transformers.integrations import get_available_reporting_integrations

from metarlgym.datatypes import ConfigError
from metarlgym.runtime.run_folder import Mode
from metarlgym.settings.flat import find_config


def mode_of(resume: bool, overwrite: bool) -> Mode:
    """How to treat an existing run in the folder.

    Raises:
        ConfigError: if both flags are set.
    """
    if resume and overwrite:
        raise ConfigError("resume and overwrite exclude each other: resume the run in output_dir, or replace it.")
    return "resume" if resume else "overwrite" if overwrite else "new"


def inputs_of(arguments: list[str], command: str, **values: Any) -> dict[str, Any]:
    """The inputs of a run, by setting: its config file and `values`."""
    parts = [part for a in arguments for part in (a.split("=", 1) if a.startswith("--config=") else [a])]
    found = {"config": str(find_config(parts[parts.index("--config") + 1], command))} if "--config" in parts else {}
    return {**found, **{name: value for name, value in values.items() if value}}


def check_loggers(args: Any) -> None:
    """Refuse loggers that are not installed; libraries would notice only after the folder is claimed.

    Raises:
        ConfigError: if one is not installed.
    """
    there = get_available_reporting_integrations()
    for name in args.report_to or ():
        if name not in there and name != "flyte":
            raise ConfigError(
                f"report_to={name!r} needs a library that is not installed: `uv pip install {name}`, or "
                "report_to=none; metrics.jsonl is written in any case."
            )
