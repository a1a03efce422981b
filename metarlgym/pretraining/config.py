"""PretrainConfig: transformers' TrainingArguments plus the settings of log-loss training on fresh sequences."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments

from metarlgym.datatypes import ConfigError
from metarlgym.pretraining.game_tokenizer import Words
from metarlgym.runtime.launch import check_launch
from metarlgym.sequences.sources import SOURCES, Source, find_source
from metarlgym.sequences.sources.settings import make_source
from metarlgym.settings.ranges import check_values

LEARNABLE = [name for name, kind in SOURCES.items() if kind.exact]


@dataclass
class PretrainConfig(TrainingArguments):
    r"""
    Configuration of the [`PretrainTrainer`]. Every field of [`~transformers.TrainingArguments`] can be set too.

    Parameters:
        source (`str`): `piecewise`, `rlm` or `metalm`.
        source_args (`dict`): settings of the source, except its seed.
        source_seed (`int`): seed of the sequences.
        loss_on (`str`): `all` positions, or only the `last` symbol of each sequence.
        gradient_chunk (`int`, *optional*): truncate backpropagation to chunks of this many symbols; the state carries
            over.
        variable_length (`bool`): truncate each step's sequences to a random length: 2, 4, ... or all symbols.
        momentum (`float`): momentum of `optim: sgd`.
        decay_steps (`int`, *optional*): length of the cosine schedule in steps, independent of `max_steps`.
        min_lr_rate (`float`): final learning rate of the cosine schedule, as a fraction of the peak.
        checkpoints (`int`): number of checkpoints, at logarithmically spaced steps.
        eval_sequences (`int`): held-out sequences for the evaluation of every checkpoint.
        final_eval_sequences (`int`): held-out sequences for `summary.json`.
        words_of (`str`, *optional*): prediction game, such as `MetaLM-v0`, whose vocabulary names the symbols.
        words_args (`dict`, *optional*): settings of that game.
        context (`int`, *optional*): maximum context of a network from scratch; trials may be longer than a sequence.
    """

    source: str = field(default="", metadata={"help": f"Source to learn: {', '.join(LEARNABLE)}."})
    source_args: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Settings of the source, as JSON."}
    )
    source_seed: int = field(default=0, metadata={"help": "Seed of the sequences."})
    loss_on: str = field(default="all", metadata={"help": "all positions, or only the last symbol of each sequence."})
    gradient_chunk: int | None = field(
        default=None,
        metadata={"help": "Truncate backpropagation to chunks of this many symbols; the state carries over."},
    )
    variable_length: bool = field(
        default=False, metadata={"help": "Truncate each step's sequences to a random length: 2, 4, ... or all symbols."}
    )
    momentum: float = field(default=0.9, metadata={"help": "Momentum of optim: sgd."})
    decay_steps: int | None = field(
        default=None, metadata={"help": "Length of the cosine schedule in steps; default max_steps."}
    )
    min_lr_rate: float = field(
        default=0.0, metadata={"help": "Final learning rate of the cosine, as a fraction of the peak."}
    )
    checkpoints: int = field(default=10, metadata={"help": "Number of logarithmically spaced checkpoints."})
    eval_sequences: int = field(default=256, metadata={"help": "Held-out sequences evaluated at each checkpoint."})
    final_eval_sequences: int = field(default=2000, metadata={"help": "Held-out sequences for summary.json."})

    words_of: str | None = field(
        default=None,
        metadata={"help": "Prediction game whose vocabulary names the symbols, for GRPO training afterwards."},
    )
    words_args: dict[str, Any] | str | None = field(default=None, metadata={"help": "Settings of that game, as JSON."})
    context: int | None = field(
        default=None, metadata={"help": "Maximum context of a network from scratch; default: the sequence length."}
    )

    # defaults that differ from transformers'
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Batch size per device, in sequences."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    max_steps: int = field(default=1000, metadata={"help": "Number of training steps."})
    lr_scheduler_type: str = field(
        default="cosine", metadata={"help": "cosine (our own, see decay_steps), or any other."}
    )
    warmup_steps: float = field(default=0, metadata={"help": "Linear warm-up steps."})
    logging_steps: float = field(default=50, metadata={"help": "Steps between lines of metrics.jsonl."})
    save_strategy: str = field(
        default="no", metadata={"help": "Checkpoints in addition to the logarithmically spaced ones."}
    )
    report_to: str | list[str] | None = field(default="none", metadata={"help": "Additional loggers."})
    seed: int = field(default=0, metadata={"help": "Seed of the initial weights."})

    def __post_init__(self) -> None:
        check_values(self)
        self.source_args = _mapping("source_args", self.source_args, '{"law": "lin"}')
        self.words_args = _mapping("words_args", self.words_args, '{"n": 5}')
        source = find_source(self.source, exact=True)
        if self.loss_on == "last" and not source.ends_in_target:
            raise ConfigError(
                f"loss_on='last' is for sources whose sequences end in a target, such as rlm, not {self.source}: "
                "leave it out."
            )
        if self.gradient_chunk is not None and self.loss_on == "last":
            raise ConfigError("gradient_chunk goes with loss_on='all': most chunks would have no loss.")
        if self.variable_length and self.loss_on == "last":
            raise ConfigError("variable_length goes with loss_on='all': cut sequences have no last symbol.")
        # The stream starts at the right index for free; transformers would generate and discard everything before it.
        self.ignore_data_skip = True
        self.remove_unused_columns = False
        if not torch.cuda.is_available():
            self.dataloader_pin_memory = False  # no GPU to pin memory for
        super().__post_init__()
        check_launch(self.world_size)

    def make_words(self, source: Source) -> Words | None:
        """The game's vocabulary, if `words_of` is set."""
        assert not isinstance(self.words_args, str)
        return None if self.words_of is None else Words(self.words_of, self.words_args, source)

    def make_source(self) -> Source:
        """Create the source to learn.

        Raises:
            ConfigError: an unknown setting, or an invalid value.
        """
        assert not isinstance(self.source_args, str)
        return make_source(
            find_source(self.source), self.source_args or {}, self.source_seed, "source_args", "source_seed"
        )


def _mapping(name: str, value: dict[str, Any] | str | None, example: str) -> dict[str, Any] | None:
    """Parse settings given as a mapping or as JSON.

    Raises:
        ConfigError: neither a mapping nor JSON of one.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{name}={value!r} is not JSON ({error}): write {example}.") from None
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{name}={value!r} must be a mapping of settings.")
    return value
