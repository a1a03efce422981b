"""Choose the renderer for a tokenizer and a task group."""

from __future__ import annotations

from typing import Any

from metarlgym.author_values import checked_text
from metarlgym.datatypes import ConfigError
from metarlgym.rollout.render import ChatRenderer, PlainRenderer, Renderer
from metarlgym.tasks import TaskGroup


def is_word_level(tokenizer: Any) -> bool:
    """Whether the tokenizer's tokens are whole words, as in `scratch.word_tokenizer`."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and type(backend.model).__name__ == "WordLevel"


def make_renderer(
    kind: str, tokenizer: Any, group: TaskGroup, template_kwargs: dict[str, Any] | None = None
) -> Renderer:
    """`chat`, `plain`, or `auto`: chat if the tokenizer has a template.

    With a word-level tokenizer and a task group with a fixed number of action words, actions need no end token.
    """
    if kind == "auto":
        kind = "chat" if getattr(tokenizer, "chat_template", None) else "plain"
    if kind == "chat":
        return ChatRenderer(tokenizer, template_kwargs)
    if is_word_level(tokenizer):
        fixed = group.env.action_words if group.env.style == "terse" else None
        renderer = PlainRenderer(tokenizer, fixed, separator="")
        unknown = tokenizer.unk_token_id
        if unknown in renderer.encode(checked_text(group.env_id, "rules() returned", group.env.rules())):
            raise ConfigError(
                f"the model's word-level tokenizer does not know the words of {group.env_id}'s rules: it was made for "
                "another task group (or style). Evaluate it on its own, or train a new one."
            )
        return renderer
    return PlainRenderer(tokenizer)
