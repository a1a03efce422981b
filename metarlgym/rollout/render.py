"""Renderers: text of the environment into tokens, around the tokens of the policy.

A renderer encodes the initial prompt once, and from then on only new environment text with whatever the model expects
between two turns. What the policy sampled is never re-encoded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from metarlgym.datatypes import ConfigError

_CACHE_LIMIT = 65_536


class Message(NamedTuple):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    text: str


class Renderer(ABC):
    """Base class. `end_id` closes rows; sampling any of `end_ids` ends an action."""

    tokenizer: Any
    end_id: int
    end_ids: frozenset[int]
    fixed_action_tokens: int | None = None
    """Where set, an action is exactly this many tokens and needs no end token."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._encoded: dict[str, list[int]] = {}
        self._decoded: dict[tuple[int, ...], str] = {}
        self._prompts: dict[tuple[Message, ...], list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Ids of a text without special tokens added; cached, because environments repeat themselves."""
        ids = self._encoded.get(text)
        if ids is None:
            if len(self._encoded) >= _CACHE_LIMIT:
                self._encoded.clear()
            ids = self._encoded[text] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def decode_action(self, ids: Sequence[int]) -> str:
        """The text of an action without its end token."""
        key = tuple(ids)
        text = self._decoded.get(key)
        if text is None:
            if len(self._decoded) >= _CACHE_LIMIT:
                self._decoded.clear()
            kept = key[:-1] if key and key[-1] in self.end_ids else key
            text = self._decoded[key] = self.tokenizer.decode(list(kept), skip_special_tokens=False)
        return text

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the initial prompt, up to where the policy speaks; cached."""
        key = tuple(messages)
        ids = self._prompts.get(key)
        if ids is None:
            if len(self._prompts) >= 4096:
                self._prompts.clear()
            ids = self._prompts[key] = self._prompt(key)
        return ids

    @abstractmethod
    def _prompt(self, messages: Sequence[Message]) -> list[int]: ...

    @abstractmethod
    def bridge(self, text: str, ended: bool) -> list[int]:
        """Ids between an action and the next: environment text with the model's turn marks.

        Args:
            text: what the environment answered.
            ended: whether the policy ended its action itself; where not, the end token is put in here.
        """


class PlainRenderer(Renderer):
    """For models without a chat template: texts one after the other.

    Args:
        tokenizer: a transformers tokenizer with an end-of-sequence token.
        fixed_action_tokens: the length of every action, if the task group fixes it; otherwise the policy ends an action
            with the end token.
        separator: put after each text of the environment; a line break for tokenizers that keep spaces.
    """

    def __init__(self, tokenizer: Any, fixed_action_tokens: int | None = None, separator: str = "\n") -> None:
        super().__init__(tokenizer)
        if tokenizer.eos_token_id is None:
            raise ConfigError(f"tokenizer {tokenizer.name_or_path!r} has no end-of-sequence token: set eos_token.")
        self.end_id = tokenizer.eos_token_id
        self.end_ids = frozenset([self.end_id])
        self.fixed_action_tokens = fixed_action_tokens
        self.separator = separator

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        bos = self.tokenizer.bos_token_id
        ids = [] if bos is None else [bos]
        for role, text in messages:
            if role == "assistant":
                ids += self.encode(text)
                ids += [] if self.fixed_action_tokens else [self.end_id]
            else:
                ids += self._environment(text)
        return ids or [self.end_id]

    def _environment(self, text: str) -> list[int]:
        return self.encode(text + self.separator) if text else []

    def bridge(self, text: str, ended: bool) -> list[int]:
        ids = self._environment(text)
        return ids if ended or self.fixed_action_tokens else [self.end_id, *ids]


_ACTION, _TEXT = "ACTIONSENTINEL", "TEXTSENTINEL"


class ChatRenderer(Renderer):
    """For chat models: the template renders the initial prompt; afterwards only its own between-turn tokens are added.

    Those are found by rendering a dummy conversation: what stands between an assistant message and the next user text,
    and between that text and the next assistant message. The first of them must be a special token, which ends actions.

    Raises:
        ConfigError: no template; or a template that rewrites earlier turns, so that a transcript could not just grow.
    """

    def __init__(self, tokenizer: Any, template_kwargs: dict[str, Any] | None = None) -> None:
        super().__init__(tokenizer)
        self.template_kwargs = template_kwargs or {}
        name = tokenizer.name_or_path
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                f"tokenizer {name!r} has no chat template: set renderer='plain', or give a model with a template."
            )
        self._system = True
        dummy = [Message("system", "RULES"), Message("user", "FIRST")]
        try:
            prompt = self._render(dummy)
        except Exception:  # templates raise what they like when they know no system role
            self._system = False
            prompt = self._render(dummy)
        whole = self._render([*dummy, Message("assistant", _ACTION), Message("user", _TEXT)])
        if not whole.startswith(prompt + _ACTION):
            raise ConfigError(
                f"the chat template of {name!r} rewrites earlier turns (a prompt followed by its answer is no prefix "
                "of the longer conversation), so a trial could not grow token by token. Use a template that keeps "
                "earlier turns, or chat_template_kwargs that make it so."
            )
        between = whole[len(prompt) + len(_ACTION) : whole.index(_TEXT)]
        self._tail = whole[whole.index(_TEXT) + len(_TEXT) :]
        first = tokenizer.encode(between, add_special_tokens=False)[:1]
        if not first or first[0] not in tokenizer.all_special_ids:
            raise ConfigError(
                f"the chat template of {name!r} ends an assistant turn with {between!r}, not with a special token: "
                "add its end-of-turn mark to the tokenizer's special tokens."
            )
        self.end_id = first[0]
        self.end_ids = frozenset({self.end_id, tokenizer.eos_token_id} - {None})
        self._head = between[len(tokenizer.convert_ids_to_tokens(self.end_id)) :]

    def _render(self, messages: Sequence[Message]) -> str:
        if not self._system and messages[0].role == "system":
            merged = f"{messages[0].text}\n\n{messages[1].text}".strip()
            messages = [Message(messages[1].role, merged), *messages[2:]]
        return self.tokenizer.apply_chat_template(
            [{"role": role, "content": text} for role, text in messages],
            tokenize=False,
            add_generation_prompt=True,
            **self.template_kwargs,
        )

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        return self.tokenizer.encode(self._render(messages), add_special_tokens=False)

    def bridge(self, text: str, ended: bool) -> list[int]:
        ids = self.encode(self._head + text + self._tail)
        return ids if ended else [self.end_id, *ids]
