"""Renderers: environment text to tokens, around the policy's own tokens.

A renderer encodes the initial prompt once, and afterwards only new environment text with whatever the model expects
between two turns. Sampled tokens are never re-encoded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from metarlgym.datatypes import ConfigError, Message
from metarlgym.rollout.bounded_cache import BoundedCache, ids_bytes, text_bytes
from metarlgym.rollout.chat_template import ChatTemplate
from metarlgym.rollout.control_tokens import TextEncoder
from metarlgym.rollout.render_check import prove_chat, prove_text
from metarlgym.rollout.template_kwargs import broken, check_kinds, check_names
from metarlgym.rollout.thinking import Thinking
from metarlgym.rollout.thought_marks import find_thinking


class Renderer(ABC):
    """Base class. `end_id` closes rows; sampling any of `end_ids` ends an action.

    Texts never become control tokens, whatever they spell (`control_tokens.TextEncoder`). Caches are bounded by size.
    """

    tokenizer: Any
    end_id: int
    end_ids: frozenset[int]
    """The mark that ends a turn, the tokenizer's end of sequence, and what `end_also_with` added."""
    fixed_action_tokens: int | None = None
    """If set, an action has exactly this many tokens and needs no end token."""
    thinking: Thinking | None = None
    """How thoughts are marked; None if the tokenizer has no tokens for them."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.encoder = TextEncoder(tokenizer)
        self._encoded: BoundedCache[str, list[int]] = BoundedCache()
        self._decoded: BoundedCache[tuple[int, ...], str] = BoundedCache()
        self._prompts: BoundedCache[tuple[Message, ...], list[int]] = BoundedCache()

    def end_also_with(self, ids: Iterable[int]) -> None:
        """Let further tokens end an action: those that the model's own configuration lists as ends of sequence.

        Only control tokens count. A configuration that says nothing has its class's default, such as 2 for Llama, which
        may be an ordinary word of this tokenizer.
        """
        self.end_ids |= self.encoder.control.intersection(ids)

    def encode(self, text: str) -> list[int]:
        """Ids of a text without special tokens; cached, because environments repeat themselves."""
        ids = self._encoded.get(text)
        if ids is None:
            ids = self.encoder.encode_text(text)
            self._encoded.keep(text, ids, text_bytes(text) + ids_bytes(len(ids)))
        return ids

    def decode_action(self, ids: Sequence[int]) -> str:
        """The text of an action without its end token."""
        key = tuple(ids)
        text = self._decoded.get(key)
        if text is None:
            kept = key[:-1] if key and key[-1] in self.end_ids else key
            text = self.tokenizer.decode(list(kept), skip_special_tokens=False)
            self._decoded.keep(key, text, text_bytes(text) + ids_bytes(len(key)))
        return text

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the initial prompt, up to the policy's first action; cached."""
        key = tuple(messages)
        ids = self._prompts.get(key)
        if ids is None:
            ids = self._prompt(key)
            self._prompts.keep(key, ids, sum(text_bytes(message.text) for message in key) + ids_bytes(len(ids)))
        return ids

    @abstractmethod
    def _prompt(self, messages: Sequence[Message]) -> list[int]: ...

    @abstractmethod
    def bridge(self, text: str, ended: bool) -> list[int]:
        """Ids between two actions: environment text with the model's turn markers.

        Args:
            text: the environment's response.
            ended: whether the policy ended its action itself; if not, the end token is inserted here.
        """


class PlainRenderer(Renderer):
    """For models without a chat template: plain concatenation of texts.

    Args:
        tokenizer: a transformers tokenizer with an end-of-sequence token.
        fixed_action_tokens: the length of every action, if the task group fixes it; otherwise the policy ends an action
            with the end token.
        separator: appended to each environment text; a line break for tokenizers that preserve whitespace.
    """

    def __init__(self, tokenizer: Any, fixed_action_tokens: int | None = None, separator: str = "\n") -> None:
        super().__init__(tokenizer)
        if tokenizer.eos_token_id is None:
            raise ConfigError(f"tokenizer {tokenizer.name_or_path!r} has no end-of-sequence token: set eos_token.")
        self.end_id = tokenizer.eos_token_id
        self.end_ids = frozenset([self.end_id])
        self.fixed_action_tokens = fixed_action_tokens
        self.separator = separator
        prove_text(self.encoder)

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


class ChatRenderer(Renderer):
    """For chat models: the template renders the initial prompt; afterwards only what follows an action's end is added.

    That segment is the template's own rendering of a short conversation, cut at the control token that ends an action:
    it ends with the generation prompt, with whatever that opens, such as an empty thought or `<think>`. What was
    sampled is never rendered again, so a template may show earlier actions without their thoughts, or with empty ones.
    A check at start-up (`render_check`) verifies that its ids equal those of the segment inside longer conversations.
    Rules are a system message, or are prepended to the first user message if the template keeps only that in place.

    Raises:
        ConfigError: no template, or one that does not allow append-only transcripts; or arguments that it does not use.
    """

    def __init__(self, tokenizer: Any, template_kwargs: dict[str, Any] | None = None) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                f"tokenizer {tokenizer.name_or_path!r} has no chat template: set renderer='plain', or give a model "
                "with a template."
            )
        super().__init__(tokenizer)
        self._bridges: BoundedCache[str, list[int]] = BoundedCache()
        arguments = template_kwargs or {}
        check_names(tokenizer, arguments)
        self.template = self._proved(arguments)
        check_kinds(arguments, self.template.render_with)
        self.end_id = self.template.end_id
        self.end_ids = frozenset({self.end_id, tokenizer.eos_token_id} - {None})
        self.thinking = find_thinking(self.template)

    def _proved(self, template_kwargs: dict[str, Any]) -> ChatTemplate:
        """A verified template with the rules in a place where it keeps them."""
        problem: ConfigError | None = None
        for system in (True, False):
            try:
                template = ChatTemplate(self.tokenizer, self.encoder, template_kwargs, system)
                prove_chat(template)
                return template
            except ConfigError as error:
                problem = problem or error
            except Exception as error:  # templates may raise anything, for instance if they have no system role
                if not system:
                    problem = problem or broken(self.tokenizer, error, template_kwargs)
        assert problem is not None
        raise problem

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        return self.template.ids(messages)

    def bridge(self, text: str, ended: bool) -> list[int]:
        ids = self._bridges.get(text)
        if ids is None:
            ids = self.template.answer_ids(text)[1:]
            self._bridges.keep(text, ids, text_bytes(text) + ids_bytes(len(ids)))
        return ids if ended else [self.end_id, *ids]
