"""Small tokenizers of the kinds that models have, each with its family's chat template."""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from pathlib import Path

import trl
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from metarlgym.models.scratch import byte_tokenizer, chat_tokenizer

TEMPLATES = Path(trl.__file__).parent / "chat_templates"

LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set rules = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% set rules = '' %}{% endif %}"
    "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
    "{% endif %}{% set content = m['content'] %}{% if loop.first and rules %}"
    "{% set content = '<<SYS>>\n' + rules + '\n<</SYS>>\n\n' + content %}{% endif %}"
    "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (  # rules stand in the last user message, as in Mistral-Nemo
    "{% set rules = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{% set rest = messages[1:] if rules else messages %}{{ bos_token }}"
    "{% for m in rest %}{% if m['role'] == 'user' %}[INST]{% if loop.last and rules %}{{ rules + '\n\n' }}{% endif %}"
    "{{ m['content'] }}[/INST]{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)


def trl_template(name):
    return (TEMPLATES / f"{name}.jinja").read_text()


def byte_family(template, marks, words=(), bos=None, eos=None):
    """A tokenizer of bytes with special tokens `marks` and ordinary added tokens `words`."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in words])
    tokenizer.bos_token, tokenizer.eos_token = bos, eos or marks[-1]
    tokenizer.chat_template = template
    return tokenizer


def sentencepiece(template, pre_tokenizer=None, normalizer=None, marks=(), words=(), rstrip=False, unigram=False):
    """A tokenizer of pieces, with bytes for what has no piece and special tokens in its vocabulary, as Llama-2's is."""
    special = ["<unk>", "<s>", "</s>", *marks]
    letters = [c for c in string.printable if c not in " \t\r\x0b\x0c"]
    pieces = [*special, *(f"<0x{b:02X}>" for b in range(256)), "▁", *letters]
    merges = [("▁", "▁"), ("h", "i"), ("▁", "hi"), ("▁", "["), ("\n", "\n"), ("Y", "o"), ("Yo", "u"), ("<", "|")]
    pieces += [a + b for a, b in merges]
    if unigram:
        model = models.Unigram([(p, 0.0 if p in special else -float(i)) for i, p in enumerate(pieces)], 0, True)
    else:
        vocabulary = {piece: i for i, piece in enumerate(pieces)}
        model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    backend = Tokenizer(model)
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in special[:3]])
    backend.add_special_tokens([AddedToken(mark, special=True, normalized=False, rstrip=rstrip) for mark in marks])
    backend.add_tokens([AddedToken(word, special=False, normalized=False) for word in words])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
    )
    tokenizer.chat_template = template
    return tokenizer


def metaspace(scheme):
    return pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)


SPACES = normalizers.Replace(" ", "▁")
LEGACY = normalizers.Sequence([normalizers.Prepend("▁"), SPACES])
CHATML_MARKS = ["<|im_start|>", "<|im_end|>"]
THINKING = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
LLAMA_3_MARKS = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
PHI_3_MARKS = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
GEMMA_MARKS = ["<start_of_turn>", "<end_of_turn>"]
MISTRAL_MARKS = ["[INST]", "[/INST]", "[AVAILABLE_TOOLS]"]


@dataclass(frozen=True)
class Family:
    """A kind of tokenizer with its template; what a renderer should make of it."""

    make: object
    end: str
    system: bool = True
    """Whether rules stay a system message."""
    same_header: bool = True
    """Whether the template writes into its history what invites the next action."""
    arguments: dict = field(default_factory=dict)


FAMILIES = {
    "ChatML": Family(chat_tokenizer, "<|im_end|>"),
    "Qwen3": Family(lambda: byte_family(trl_template("qwen3"), CHATML_MARKS, THINKING), "<|im_end|>"),
    "Qwen3, no thinking": Family(
        lambda: byte_family(trl_template("qwen3"), CHATML_MARKS, THINKING),
        "<|im_end|>",
        same_header=False,
        arguments={"enable_thinking": False},
    ),
    "Llama-3": Family(
        lambda: byte_family(trl_template("llama3"), LLAMA_3_MARKS, bos="<|begin_of_text|>"), "<|eot_id|>"
    ),
    "Llama-3.2": Family(
        lambda: byte_family(trl_template("llama3_2"), LLAMA_3_MARKS, bos="<|begin_of_text|>"), "<|eot_id|>"
    ),
    "Phi-3": Family(
        lambda: sentencepiece(trl_template("phi3"), metaspace("first"), marks=PHI_3_MARKS, rstrip=True), "<|end|>"
    ),
    "Phi-3, legacy": Family(
        lambda: sentencepiece(trl_template("phi3"), normalizer=LEGACY, marks=PHI_3_MARKS, rstrip=True), "<|end|>"
    ),
    "Gemma": Family(
        lambda: sentencepiece(
            trl_template("gemma"), normalizer=SPACES, marks=GEMMA_MARKS, words=["\n", "\n\n", "▁▁", "<b>", "</b>"]
        ),
        "<end_of_turn>",
        system=False,
    ),
    "Llama-2, first": Family(lambda: sentencepiece(LLAMA_2, metaspace("first")), "</s>"),
    "Llama-2, always": Family(lambda: sentencepiece(LLAMA_2, metaspace("always")), "</s>"),
    "Llama-2, never": Family(lambda: sentencepiece(LLAMA_2, metaspace("never")), "</s>"),
    "Llama-2, legacy": Family(lambda: sentencepiece(LLAMA_2, normalizer=LEGACY), "</s>"),
    "Llama-2, unigram": Family(lambda: sentencepiece(LLAMA_2, metaspace("always"), unigram=True), "</s>"),
    "Mistral": Family(lambda: sentencepiece(MISTRAL, metaspace("always"), marks=MISTRAL_MARKS), "</s>", system=False),
    "Mistral, bytes": Family(
        lambda: byte_family(MISTRAL, ["<s>", *MISTRAL_MARKS, "</s>"], bos="<s>"), "</s>", system=False
    ),
}
