"""How a chat template marks thoughts, found by rendering."""

from __future__ import annotations

from metarlgym.datatypes import ConfigError, Message
from metarlgym.rollout.chat_template import ACTION, FIRST, RULES, THOUGHT, ChatTemplate
from metarlgym.rollout.control_tokens import THOUGHT_END, THOUGHT_START
from metarlgym.rollout.thinking import Thinking

USUAL_CLOSE = f"\n{THOUGHT_END}\n\n"
"""How Qwen and DeepSeek models close a thought; used where the template writes none itself."""


def find_thinking(template: ChatTemplate) -> Thinking | None:
    """The marks of thoughts, or None if the tokenizer has no token for each of them.

    Raises:
        ConfigError: some turns of the assistant begin inside a thought and others do not.
    """
    marks = template.encoder.marks
    if THOUGHT_START not in marks or THOUGHT_END not in marks:
        return None
    first, later = template.render([RULES, FIRST]), template.render([RULES, FIRST, ACTION, Message("user", "LATER")])
    opened = _ends_in_thought(first)
    if opened != _ends_in_thought(later):
        raise ConfigError(
            f"the chat template of {template.tokenizer.name_or_path!r} begins only some of the assistant's turns "
            "inside a thought: use another template (chat_template), or chat_template_kwargs such as "
            "enable_thinking: false."
        )
    end = marks[THOUGHT_END]
    return Thinking(marks[THOUGHT_START], end, tuple(_ids(template, _close(template))), opened)


def _ends_in_thought(prompt: str) -> bool:
    return prompt.rfind(THOUGHT_START) > prompt.rfind(THOUGHT_END)


def _close(template: ChatTemplate) -> str:
    """The closing mark with the blanks that the template writes between a thought and an action."""
    try:
        rendered = template.with_thought([RULES, FIRST])
    except Exception:  # templates may raise anything, for instance if the assistant speaks last
        return USUAL_CLOSE
    after = rendered.rpartition(THOUGHT)[2]
    between = after.partition(ACTION.text)[0] if after != rendered else ""
    # A template that writes what was said as it is adds no blanks of its own, nor does it say which the model writes.
    return between if between.strip() == THOUGHT_END and between != THOUGHT_END else USUAL_CLOSE


def _ids(template: ChatTemplate, close: str) -> list[int]:
    """Ids of the closing text after a thought, which some tokenizers encode differently than at the start of a text."""
    encode = template.encoder.encode
    before, ids = encode(THOUGHT), encode(THOUGHT + close)
    return ids[len(before) :] if ids[: len(before)] == before else encode(close)
