"""From pretraining to GRPO: a tokenizer that gives a network's symbols the words of a task group's texts.

A prediction game in terse style writes symbols as words. The tokenizer maps each word to the id that the source's
symbol has in pretraining; the special tokens and the few other words of the game (its rules, the separator between
episodes, the hidden position) get the ids after them. The pretrained model is saved with this tokenizer, so that
`model_name_or_path: runs/...` starts a GRPO run from it.
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from metarlgym import registry
from metarlgym.datatypes import ConfigError
from metarlgym.envs.prediction import HIDDEN, PredictionGame
from metarlgym.models.scratch import BOS, END, PAD, UNKNOWN
from metarlgym.sequences.sources import Source

OTHER_WORDS = ("/", HIDDEN)
"""The separator between episodes, and the mark of the hidden position."""


class Words:
    """Words that a task group uses for a source's symbols, and the prefix before a sequence in its trials.

    Args:
        env_id: a prediction game, such as `MetaLM-v0`.
        env_args: settings of the game.
        source: source of the training sequences; its symbols must be those of the game.
    """

    def __init__(self, env_id: str, env_args: dict[str, Any] | None, source: Source) -> None:
        env = registry.make(env_id, **{**(env_args or {}), "style": "terse"})
        if not isinstance(env, PredictionGame):
            raise ConfigError(f"words_of={env_id!r} is not a prediction game: use MetaLM-v0, RLM-v0 or Piecewise-v0.")
        names = list(env.words())
        if len(names) != source.vocab_size:
            raise ConfigError(
                f"words_of={env_id!r} has {len(names)} symbols, the source has {source.vocab_size}: give words_args "
                "that fit source_args."
            )
        # A symbol that is never written still gets an id.
        symbols = [name or f"<symbol-{i}>" for i, name in enumerate(names)]
        words = [*symbols, PAD, BOS, END, UNKNOWN, *env.rules().split(), *OTHER_WORDS]
        if env.answer == "probabilities":
            raise ConfigError(f"words_of={env_id!r}: its answers are probabilities; set answer='token' in words_args.")
        self.vocabulary = {word: i for i, word in enumerate(words)}
        self.prefix = [self.vocabulary[word] for word in (BOS, *env.rules().split())]
        """Token ids before the first symbol of a trial."""

    @property
    def size(self) -> int:
        """Vocabulary size that the network needs."""
        return len(self.vocabulary)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A tokenizer with one token per word."""
        backend = Tokenizer(models.WordLevel(self.vocabulary, unk_token=UNKNOWN))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(
            tokenizer_object=backend,
            clean_up_tokenization_spaces=False,
            pad_token=PAD,
            bos_token=BOS,
            eos_token=END,
            unk_token=UNKNOWN,
        )

    def before(self, batch: dict[str, torch.Tensor], ignored: int) -> dict[str, torch.Tensor]:
        """Prepend the prefix to each sequence of a batch; positions within the prefix have no targets."""
        inputs = batch["input_ids"]
        prefix = torch.tensor(self.prefix, device=inputs.device).expand(len(inputs), -1)
        blank = torch.full_like(prefix, ignored)
        return {
            "input_ids": torch.cat([prefix, inputs], 1),
            "labels": torch.cat([blank, batch["labels"]], 1),
        }
