"""Small models made from scratch, with tokenizers built from a task group's own text."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from metarlgym.seeding import derive
from metarlgym.settings.ranges import check_heads, check_values

PAD, BOS, END, UNKNOWN = "<pad>", "<bos>", "<end>", "<unk>"
TURN, END_OF_TURN = "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML, as used by Qwen models."""


@dataclass
class ScratchArguments:
    """A model made from scratch, used if no `model_name_or_path` is given."""

    scratch_tokenizer: str = field(
        default="word", metadata={"help": "word: one token per word of the task group; byte: one token per byte."}
    )
    scratch_hidden_size: int = field(default=32, metadata={"help": "Hidden size."})
    scratch_layers: int = field(default=2, metadata={"help": "Number of transformer layers."})
    scratch_heads: int = field(default=4, metadata={"help": "Number of attention heads; must divide the hidden size."})
    scratch_init_std: float | None = field(
        default=None, metadata={"help": "Standard deviation of the initial weights; default: 1/sqrt(hidden size)."}
    )
    imitation_trials: int = field(
        default=20_000, metadata={"help": "Number of random-play trials for the warm-up; 0: no warm-up."}
    )
    imitation_max_steps: int = field(default=1_000, metadata={"help": "Maximum number of warm-up steps."})
    imitation_batch_size: int = field(default=256, metadata={"help": "Batch size of the warm-up, in trials."})
    imitation_learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of the warm-up (AdamW)."})

    def __post_init__(self) -> None:
        check_values(self)
        check_heads("scratch_heads", self.scratch_heads, "scratch_hidden_size", self.scratch_hidden_size)


def word_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the whitespace-separated words of `texts`."""
    words = sorted({word for text in texts for word in text.split()})
    vocabulary = {token: i for i, token in enumerate([PAD, BOS, END, UNKNOWN, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _wrap(tokenizer, unk_token=UNKNOWN)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges, which can encode any text."""
    return _wrap(_bytes([PAD, BOS, END]))


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a ChatML template."""
    marks = {"bos_token": None, "eos_token": END_OF_TURN, "extra_special_tokens": [TURN]}
    tokenizer = _wrap(_bytes([PAD, TURN, END_OF_TURN]), **marks)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _bytes(special: list[str]) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _wrap(tokenizer: Tokenizer, **special: Any) -> PreTrainedTokenizerFast:
    names = {"pad_token": PAD, "bos_token": BOS, "eos_token": END, **special}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names)


def scratch_model(
    args: ScratchArguments, tokenizer: Any, context: int, seed: int, tied: bool = False
) -> Qwen3ForCausalLM:
    """A Qwen3 model with random weights.

    The initialization scales with the width: the library default of 0.02 suits widths of 768 and more; at width 32 it
    is so small that attention never forms (docs/decisions.md).

    Args:
        args: sizes.
        tokenizer: provides the vocabulary size and special tokens.
        context: maximum context length in tokens.
        seed: seed for the weights.
        tied: tie the output head to the embedding.
    """
    width = args.scratch_hidden_size
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=args.scratch_layers,
        num_attention_heads=args.scratch_heads,
        num_key_value_heads=args.scratch_heads,
        head_dim=width // args.scratch_heads,
        max_position_embeddings=context,
        initializer_range=args.scratch_init_std or 1 / math.sqrt(width),
        tie_word_embeddings=tied,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights") % 2**31)
        return Qwen3ForCausalLM(config)
