"""Settings of TrainingArguments that a run does not honour."""

from __future__ import annotations

REFUSED: dict[str, str] = {}
"""Why each is refused, and what to do instead; it may only be set to its default."""
