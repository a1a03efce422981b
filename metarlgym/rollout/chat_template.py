"""A chat template around texts written by environments and models.

Control tokens in the texts are hidden while the template renders them, so that they cannot affect its logic and every
control token in the rendering is the template's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metarlgym.datatypes import ConfigError, Message
from metarlgym.rollout.control_tokens import THOUGHT_END, THOUGHT_START, TextEncoder
from metarlgym.rollout.template_date import pinned

# Mixed case, punctuation and blanks, so that a template that changes them in a turn is noticed. Templates may trim a
# turn, so they begin and end with letters. They hold no line breaks, which may be a token of their own.
RULES, FIRST = Message("system", "The Rules:  be (bRief)"), Message("user", "First, a Question?  [1] or [2]:  whiCh")
ACTION = Message("assistant", "Action! [3],  said  tWice; and soMe moRe")
THOUGHT = "Thought: 'maybe'  or nOt"
REPEATS = 20
"""Renderings compared to notice a template that draws lots: a fair coin escapes notice once in 500,000 starts."""


class ChatTemplate:
    """Renders whole conversations, and the segment of one that adds an environment's response.

    Args:
        tokenizer: provides the template.
        encoder: hides and encodes texts.
        template_kwargs: passed to the template; the date it prints is pinned (`template_date`).
        system: whether rules are a separate message; otherwise they are prepended to the first user message.

    Raises:
        ConfigError: assistant turns do not end with a control token; the same conversation is rendered in several ways;
            or a date that the template cannot format.
        Exception: whatever the template raises, for instance because it has no system role.
    """

    def __init__(self, tokenizer: Any, encoder: TextEncoder, template_kwargs: dict[str, Any], system: bool) -> None:
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.kwargs = pinned(tokenizer, template_kwargs)
        self.system = system
        self._reads_thoughts = False
        rendered = self._repeatable([RULES, FIRST, ACTION, FIRST])
        answer = self.after_action(rendered, ACTION)
        between = answer[: answer.index(FIRST.text)] if FIRST.text in answer else answer
        mark = encoder.pattern.search(between)
        # Transcripts omit whitespace between an action and its end. In that case only the end-of-sequence token is
        # certain to be an end.
        if mark is None or (between[: mark.start()] and (between[: mark.start()].strip() or mark[0] != self._eos)):
            raise ConfigError(
                f"the chat template of {tokenizer.name_or_path!r} ends an assistant turn with {between!r}, not with a "
                "special token: add its end-of-turn mark to the tokenizer's special tokens."
            )
        self.end, self._skip = mark[0], mark.start()
        """The control token that ends an action, as text."""
        self.end_id = encoder.marks[self.end]
        self._reads_thoughts = self._thoughts_are_read()

    def _repeatable(self, messages: Sequence[Message]) -> str:
        """The rendering of a conversation, which must be the same each time."""
        rendered = self.render(messages)
        if any(self.render(messages) != rendered for _ in range(REPEATS - 1)):
            raise ConfigError(
                f"the chat template of {self.tokenizer.name_or_path!r} renders the same conversation differently each "
                "time, so a trial could not grow token by token: take what is random out of it (such as |random), or "
                "use another template (chat_template)."
            )
        return rendered

    @property
    def _eos(self) -> str | None:
        return self.tokenizer.eos_token

    def _thoughts_are_read(self) -> bool:
        """Whether the template tells thoughts from actions: it drops those of earlier turns, or writes them anew.

        Other templates write what was said as it is, in which `</think>` is text like any other.
        """
        if THOUGHT_END not in self.encoder.marks:
            return False
        rendered = self.with_thought([RULES, FIRST], FIRST)
        return ACTION.text in rendered and f"{THOUGHT}{THOUGHT_END}{ACTION.text}" not in rendered

    def with_thought(self, before: Sequence[Message], *after: Message) -> str:
        """A conversation in which the assistant says ACTION after THOUGHT, with only blanks of the template's own."""
        said = {"role": ACTION.role, "content": f"{THOUGHT_START}{THOUGHT}{THOUGHT_END}{ACTION.text}"}
        return self._apply([*map(self._plain, self._merge(before)), said, *map(self._plain, after)])

    def render_with(self, template_kwargs: Mapping[str, Any]) -> str:
        """A conversation of three turns, the last but one with a thought, rendered with other arguments."""
        kwargs, self.kwargs = self.kwargs, pinned(self.tokenizer, template_kwargs)
        try:
            return self.with_thought([RULES, FIRST], FIRST)
        finally:
            self.kwargs = kwargs

    def after_action(self, rendered: str, action: Message) -> str:
        """The text that follows an action in a rendering."""
        said = self.encoder.hide(action.text)
        if said not in rendered:
            raise self.rewrites("assistant")
        return rendered[rendered.index(said) + len(said) :]

    def rewrites(self, role: str) -> ConfigError:
        """The error for a template that renders the message of `role` differently once the conversation continues."""
        return ConfigError(
            f"the chat template of {self.tokenizer.name_or_path!r} rewrites earlier turns (what the {role} said is "
            "rendered differently once the conversation goes on), so a trial could not grow token by token. Use a "
            "template that keeps earlier turns (chat_template: trl, or the path of a Jinja file), or "
            "chat_template_kwargs that make it so."
        )

    def _merge(self, messages: Sequence[Message]) -> Sequence[Message]:
        if self.system or messages[0].role != "system":
            return messages
        merged = f"{messages[0].text}\n\n{messages[1].text}".strip()
        return [Message(messages[1].role, merged), *messages[2:]]

    def _plain(self, message: Message) -> dict[str, str]:
        return {"role": message.role, "content": message.text}

    def _hidden(self, message: Message) -> dict[str, str]:
        hide = self.encoder.hide
        role, text = message
        if self._reads_thoughts and role == "assistant" and THOUGHT_END in text:
            thought, _, said = text.rpartition(THOUGHT_END)
            # The generation prompt may have opened the thought, so that its opening mark was not said.
            thought = thought.lstrip().removeprefix(THOUGHT_START)
            return {"role": role, "content": THOUGHT_START + hide(thought) + THOUGHT_END + hide(said)}
        return {"role": role, "content": hide(text)}

    def _apply(self, conversation: list[dict[str, str]]) -> str:
        return self.tokenizer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=True, **self.kwargs
        )

    def render_plain(self, messages: Sequence[Message]) -> str:
        """The template's own rendering, with nothing hidden: for texts known to contain no control tokens."""
        return self._apply([self._plain(message) for message in self._merge(messages)])

    def render(self, messages: Sequence[Message]) -> str:
        """A conversation up to the assistant's next turn, with the control tokens in its texts hidden."""
        return self._apply([self._hidden(message) for message in self._merge(messages)])

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation up to the assistant's next turn."""
        return self.encoder.encode(self.render(messages))

    def answer_ids(self, text: str) -> list[int]:
        """Ids from the end token of an action to the assistant's next turn, around an environment's response."""
        rendered = self.render([RULES, FIRST, ACTION, Message("user", text)])
        # Encoded after an action because some tokenizers treat the start of their input differently.
        ids = self.encoder.encode(ACTION.text + self.after_action(rendered, ACTION)[self._skip :])
        return ids[ids.index(self.end_id) :]
