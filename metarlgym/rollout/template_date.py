"""The date that some chat templates print, pinned so that a prompt is the same on every day.

Llama-3.2's template prints `date_string`, or today's date by `strftime_now` if that is not given; others call
`strftime_now` alone. Both are given the same day: `chat_template_kwargs["date_string"]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from metarlgym.datatypes import ConfigError

DATE, CLOCK = "date_string", "strftime_now"
FORMAT = "%d %b %Y"
"""Format of `date_string`: that of Llama's own template, such as 26 Jul 2024."""


def template_text(tokenizer: Any) -> str:
    """The tokenizer's chat template, the default one of several; empty if there is none."""
    template = getattr(tokenizer, "chat_template", None) or ""
    return str(template.get("default", "")) if isinstance(template, dict) else str(template)


def today() -> str:
    """Today's date as a `date_string`."""
    return datetime.now().strftime(FORMAT)


def asks_for_date(tokenizer: Any, template_kwargs: Mapping[str, Any] | None) -> bool:
    """Whether the tokenizer's template would print today's date."""
    return CLOCK in template_text(tokenizer) and DATE not in (template_kwargs or {})


def pinned(tokenizer: Any, template_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Template arguments for which the template prints one day's date: the one given, otherwise today's.

    Raises:
        ConfigError: the given date has another format, and the template itself formats dates.
    """
    kwargs = dict(template_kwargs)
    template = template_text(tokenizer)
    if CLOCK not in template:
        return kwargs
    date = kwargs.setdefault(DATE, today())
    try:
        kwargs[CLOCK] = _clock(str(date))
    except ValueError:
        if DATE not in template:  # otherwise the template prints it as it is and asks for no other
            raise ConfigError(
                f"chat_template_kwargs: {DATE}={date!r} must look like {today()!r}: the chat template of "
                f"{tokenizer.name_or_path!r} formats it."
            ) from None
    return kwargs


def _clock(date: str) -> Callable[[str], str]:
    return datetime.strptime(date, FORMAT).strftime
