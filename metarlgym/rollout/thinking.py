"""Thinking: the control tokens around a chat model's thoughts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Thinking:
    """How a tokenizer marks thoughts. A thought is no part of an action; only what follows it is.

    A renderer has one if `<think>` and `</think>` are one token each.
    """

    start_id: int
    """The id that opens a thought."""
    end_id: int
    """The id that closes it."""
    close_ids: tuple[int, ...]
    """What is appended to a thought that has reached its limit: `end_id` with the blanks the template puts around it.
    """
    opened: bool = False
    """Whether the generation prompt already opens a thought, so that every reply begins inside one."""


def thought_rates(turns: int, thoughts: int, cut: int, tokens: int) -> dict[str, float]:
    """Statistics of thoughts.

    Args:
        turns: number of actions.
        thoughts: number of actions that began with a thought.
        cut: number of thoughts ended by a limit.
        tokens: number of sampled tokens inside thoughts.

    Returns:
        `thought_rate`, the share of actions that began with a thought; `thought_cut_rate`, the share of thoughts that
        were cut; and `thought_tokens`, the mean length of a thought.
    """
    return {
        "thought_rate": thoughts / max(1, turns),
        "thought_cut_rate": cut / max(1, thoughts),
        "thought_tokens": tokens / max(1, thoughts),
    }


def cut_warning(cut: float) -> str | None:
    """What to say if most actions followed a cut thought; None otherwise.

    Args:
        cut: the share of actions whose thought was cut.
    """
    if cut <= 0.5:
        return None
    return (
        f"{cut:.0%} of the actions follow a cut thought: raise max_thought_tokens (and max_context_tokens, if the "
        "context is too small for thoughts), or turn thinking off with chat_template_kwargs: {enable_thinking: false}."
    )
