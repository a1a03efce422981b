"""The date that a run's prompts tell, for chat templates that print one: the day it was started, also on resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from metarlgym.datatypes import MetaRLGymError
from metarlgym.files import expand
from metarlgym.rollout.template_date import DATE, asks_for_date, today
from metarlgym.runtime.agreement import agree
from metarlgym.runtime.resume_check import SETTINGS, held_settings
from metarlgym.training.arguments import Settings


def date_of_run(settings: Settings) -> str | None:
    """Today's date as the main process sees it; with `resume`, that of the run in `output_dir`. Collective.

    None if that run recorded no date.

    Raises:
        ConfigError: the settings of the run to resume are damaged.
    """
    found: list[str | None] = [None]
    problem: MetaRLGymError | None = None
    if PartialState().is_main_process:
        try:
            found = [_date(settings)]
        except MetaRLGymError as error:
            problem = error
    agree(problem)
    if PartialState().num_processes > 1:
        broadcast_object_list(found)
    return found[0]


def _date(settings: Settings) -> str | None:
    folder = Path(expand(str(settings.grpo.output_dir)))
    if settings.run.resume and any((folder / name).exists() for name in (SETTINGS, "config.yaml")):
        kwargs = held_settings(folder).get("chat_template_kwargs")
        return kwargs.get(DATE) if isinstance(kwargs, dict) else None
    return today()


def pin_date(settings: Settings, tokenizer: Any, date: str | None) -> None:
    """Record the date in `chat_template_kwargs` if the tokenizer's template would print today's."""
    kwargs = settings.grpo.chat_template_kwargs
    if date is not None and settings.run.renderer != "plain" and asks_for_date(tokenizer, kwargs):
        settings.set_template_kwargs({**(kwargs or {}), DATE: date})
