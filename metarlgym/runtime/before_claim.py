"""What is settled before a run's folder is claimed: how to go on, what the run reads, and its loggers."""

from __future__ import annotations

from typing import Any

from transformers.integrations import get_available_reporting_integrations

from metarlgym.datatypes import ConfigError
from metarlgym.runtime.run_folder import Mode
from metarlgym.settings.flat import find_config


def mode_of(resume: bool, overwrite: bool) -> Mode:
    """What to do with a run that is in the folder.

    Raises:
        ConfigError: both were asked for.
    """
    if resume and overwrite:
        raise ConfigError("resume and overwrite exclude each other: go on with the run in output_dir, or replace it.")
    return "resume" if resume else "overwrite" if overwrite else "new"


def inputs_of(arguments: list[str], command: str, **values: Any) -> dict[str, Any]:
    """What a run reads, by setting: its config file and `values`."""
    parts = [part for a in arguments for part in (a.split("=", 1) if a.startswith("--config=") else [a])]
    found = {"config": str(find_config(parts[parts.index("--config") + 1], command))} if "--config" in parts else {}
    return {**found, **{name: value for name, value in values.items() if value}}


def check_loggers(args: Any) -> None:
    """What libraries would find out only after the folder is claimed.

    Raises:
        ConfigError: naming the setting.
    """
    there = get_available_reporting_integrations()
    for name in args.report_to or ():
        if name not in there and name != "flyte":
            raise ConfigError(
                f"report_to={name!r} needs a library that is not installed: `uv pip install {name}`, or "
                "report_to=none; metrics.jsonl is written in any case."
            )
