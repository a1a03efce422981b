"""Encode text as text: a copy of the tokenizer whose control tokens have names that no text can contain.

A tokenizer turns the characters `<|im_end|>` into the token that ends a turn, whoever wrote them. This copy has the
same vocabulary, ids and rules, but private names for its control tokens. Text written by an environment or a model is
therefore split like any other text, and the template's own control tokens are passed by their private names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import orjson

from metarlgym.datatypes import ConfigError, MetaRLGymError

THOUGHT_START, THOUGHT_END = "<think>", "</think>"
_THINKING = {THOUGHT_START, THOUGHT_END, "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"}
_BAR_MARK = re.compile(r"<([|｜]).*\1>", re.DOTALL)
_BRACKET_MARK = re.compile(r"<.*>|\[.*\]", re.DOTALL)

# Unicode noncharacters are not for interchange and may be replaced by U+FFFD, so replacing them loses no text. Two of
# them enclose a control token's name in the copy, two others a control token's text while a template is rendered.
_NAME, _HIDDEN = "\ufdd2{}\ufdd3", "\ufdd0{}\ufdd1"
_NONCHARACTERS = re.compile("[\ufdd0-\ufdd3]")
_HIDDEN_PATTERN = re.compile("\ufdd0([0-9]+)\ufdd1")


def control_tokens(tokenizer: Any) -> dict[str, int]:
    """Texts and ids of a tokenizer's control tokens.

    These are its special tokens, as declared by `AddedToken.special` or the tokenizer's attributes (`eos_token` ...),
    and those added tokens that look like a control token (`<|...|>`) or are used by the chat template or a model's
    reasoning. Other added tokens count as text: Gemma-3 has 6,405 of them, including the newline.
    """
    template = str(getattr(tokenizer, "chat_template", None) or "")
    special = set(tokenizer.all_special_ids)
    found = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids))
    for i, token in tokenizer.added_tokens_decoder.items():
        mark = token.content
        used = mark in _THINKING or (_BRACKET_MARK.fullmatch(mark) and mark in template)
        if token.special or i in special or used or _BAR_MARK.fullmatch(mark):
            found[mark] = i
    return found


class TextEncoder:
    """Encodes texts such that their characters never become control tokens.

    Args:
        tokenizer: a transformers tokenizer with a `tokenizers` backend.

    Raises:
        ConfigError: the tokenizer has no such backend, or cannot be copied.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        if not hasattr(getattr(tokenizer, "backend_tokenizer", None), "to_str"):
            raise ConfigError(
                f"tokenizer {tokenizer.name_or_path!r} ({type(tokenizer).__name__}) has no tokenizer.json, so its "
                "control tokens cannot be distinguished from text: convert it to a fast tokenizer."
            )
        self.marks = control_tokens(tokenizer)
        """Control tokens: text to id."""
        self._literals = list(self.marks)
        self._numbers = {mark: i for i, mark in enumerate(self._literals)}
        # Longest first, as tokenizers match added tokens. An empty alternation would match everywhere.
        longest_first = sorted(self._literals, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        """Finds control tokens in a text."""
        # An unknown word may become the unknown token, unless that is also another control token.
        ends = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
        unknown = {tokenizer.unk_token_id} - ends
        self.control = frozenset(self.marks.values()) - unknown
        """Ids that no text encodes to."""
        self._copy = self._rename({mark: _NAME.format(i) for mark, i in self._numbers.items()})

    def _rename(self, names: Mapping[str, str]) -> Any:
        """The copy of the tokenizer, with control tokens renamed."""
        name, backend = self.tokenizer.name_or_path, self.tokenizer.backend_tokenizer
        try:
            copy = _renamed(type(backend).from_str, backend.to_str(), tuple(names.items()))
        except Exception as error:  # tokenizers raises bare exceptions
            raise ConfigError(f"tokenizer {name!r} cannot be copied without its control tokens: {error}.") from error
        ids = {names.get(token.content, token.content): i for i, token in self.tokenizer.added_tokens_decoder.items()}
        ids.update((names[mark], i) for mark, i in self.marks.items())
        wrong = [i for text, i in ids.items() if copy.token_to_id(text) != i]
        if wrong:
            raise ConfigError(
                f"tokenizer {name!r} cannot be copied without its control tokens: the copy has other ids than "
                f"{wrong[:3]} for its added tokens. Save it again with save_pretrained."
            )
        return copy

    def encode_text(self, text: str) -> list[int]:
        """Ids of a text, without special tokens.

        Raises:
            MetaRLGymError: the result contains a control token, despite the checks at start-up.
        """
        if not text.isascii():
            text = _NONCHARACTERS.sub("\ufffd", text)
        ids = self._copy.encode(text, add_special_tokens=False).ids
        if not self.control.isdisjoint(ids):
            raise self._leak(text, ids, [])
        return ids

    def hide(self, text: str) -> str:
        """`text` with placeholders for the control tokens it spells, to be passed to a template."""
        if not text.isascii():
            text = _NONCHARACTERS.sub("\ufffd", text)
        return self.pattern.sub(lambda match: _HIDDEN.format(self._numbers[match[0]]), text)

    def encode(self, rendered: str) -> list[int]:
        """Ids of a rendering of hidden texts: the template's marks become control tokens, those in the texts do not.

        Raises:
            MetaRLGymError: the resulting control tokens are not the template's own.
        """
        own: list[int] = []

        def name(match: re.Match[str]) -> str:
            own.append(self.marks[match[0]])
            return _NAME.format(self._numbers[match[0]])

        named = self.pattern.sub(name, rendered)
        text = _HIDDEN_PATTERN.sub(lambda match: self._literals[int(match[1])], named)
        ids = self._copy.encode(text, add_special_tokens=False).ids
        if [i for i in ids if i in self.control] != [i for i in own if i in self.control] or "\ufdd0" in text:
            raise self._leak(rendered, ids, own)
        return ids

    def _leak(self, text: str, ids: list[int], own: list[int]) -> MetaRLGymError:
        tokens = self.tokenizer.convert_ids_to_tokens
        found = tokens([i for i in ids if i in self.control])
        return MetaRLGymError(
            f"text would be encoded with the control tokens {found}, where {tokens(own)} belong: {text[:200]!r}."
        )


@lru_cache(maxsize=1)  # a run makes several renderers of one tokenizer, and large ones take seconds to copy
def _renamed(from_str: Callable[[str], Any], serialized: str, names: tuple[tuple[str, str], ...]) -> Any:
    renamed = dict(names)
    data = orjson.loads(serialized)
    data["post_processor"] = data["truncation"] = data["padding"] = None
    for token in data["added_tokens"]:
        token["content"] = renamed.get(token["content"], token["content"])
    _rename_vocabulary(data["model"], renamed)
    return from_str(orjson.dumps(data).decode())


def _rename_vocabulary(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Rename tokens in the model's own vocabulary too, where word-level and unigram models would find them."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(token, token): i for token, i in vocabulary.items()}
    else:
        model["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
    if "unk_token" in model:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if model.get("merges"):
        model["merges"] = [merge for merge in model["merges"] if not _merges_to(merge, names)]


def _merges_to(merge: str | list[str], names: Mapping[str, str]) -> bool:
    first, second = merge.split(" ", 1) if isinstance(merge, str) else merge
    return first + second in names or first in names or second in names
