"""PretrainConfig: transformers' TrainingArguments with what training by log-loss on fresh sequences adds."""

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
        source_args (`dict`): its settings, without its seed.
        source_seed (`int`): draws the sequences.
        loss_on (`str`): `all` positions, or the `last` symbol of each sequence.
        gradient_chunk (`int`, *optional*): backpropagate through this many symbols at a time, state carried on.
        variable_length (`bool`): cut each step's sequences to 2, 4, ... or all of their symbols, by chance.
        momentum (`float`): of `optim: sgd`.
        decay_steps (`int`, *optional*): the cosine reaches its end after this many steps, whatever `max_steps` is.
        min_lr_rate (`float`): where the cosine ends, over the peak.
        checkpoints (`int`): checkpoints at logarithmically spaced steps.
        eval_sequences (`int`): held-out sequences on which every checkpoint is examined.
        final_eval_sequences (`int`): held-out sequences for `summary.json`.
        words_of (`str`, *optional*): prediction game, such as `MetaLM-v0`, whose words the symbols get.
        words_args (`dict`, *optional*): the game's settings.
        context (`int`, *optional*): longest context of a network from scratch; trials may need more than a sequence.
    """

    source: str = field(default="", metadata={"help": f"What to learn: {', '.join(LEARNABLE)}."})
    source_args: dict[str, Any] | str | None = field(default=None, metadata={"help": "Its settings, as JSON."})
    source_seed: int = field(default=0, metadata={"help": "Draws the sequences."})
    loss_on: str = field(default="all", metadata={"help": "all positions, or the last symbol of each sequence."})
    gradient_chunk: int | None = field(
        default=None, metadata={"help": "Backpropagate through this many symbols at a time; the state goes on."}
    )
    variable_length: bool = field(
        default=False, metadata={"help": "Cut each step's sequences to 2, 4, ... or all of their symbols, by chance."}
    )
    momentum: float = field(default=0.9, metadata={"help": "Momentum of optim: sgd."})
    decay_steps: int | None = field(default=None, metadata={"help": "Steps of the cosine; default max_steps."})
    min_lr_rate: float = field(default=0.0, metadata={"help": "Where the cosine ends, over the peak."})
    checkpoints: int = field(default=10, metadata={"help": "Checkpoints at logarithmically spaced steps."})
    eval_sequences: int = field(default=256, metadata={"help": "Held-out sequences examined at each checkpoint."})
    final_eval_sequences: int = field(default=2000, metadata={"help": "Held-out sequences behind summary.json."})

    words_of: str | None = field(
        default=None, metadata={"help": "Prediction game whose words the symbols get, to train it by GRPO afterwards."}
    )
    words_args: dict[str, Any] | str | None = field(default=None, metadata={"help": "The game's settings, as JSON."})
    context: int | None = field(
        default=None, metadata={"help": "Longest context of a network from scratch; default: a sequence."}
    )

    # defaults other than transformers'
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Sequences in a batch on each device."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak step size."})
    max_steps: int = field(default=1000, metadata={"help": "Steps."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "cosine (our own, see decay_steps), or any."})
    warmup_steps: float = field(default=0, metadata={"help": "Steps of linear warm-up."})
    logging_steps: float = field(default=50, metadata={"help": "Steps between lines of metrics.jsonl."})
    save_strategy: str = field(default="no", metadata={"help": "Beside the logarithmically spaced checkpoints."})
    report_to: str | list[str] | None = field(default="none", metadata={"help": "Where else to log."})
    seed: int = field(default=0, metadata={"help": "Draws the weights."})

    def __post_init__(self) -> None:
        check_values(self)
        self.source_args = _mapping("source_args", self.source_args, '{"law": "lin"}')
        self.words_args = _mapping("words_args", self.words_args, '{"n": 5}')
        source = find_source(self.source, exact=True)
        if self.loss_on == "last" and not source.ends_in_target:
            raise ConfigError(f"loss_on='last' is for source=rlm, not {self.source}: leave it out.")
        if self.gradient_chunk is not None and self.loss_on == "last":
            raise ConfigError("gradient_chunk goes with loss_on='all': most chunks would have no loss.")
        if self.variable_length and self.loss_on == "last":
            raise ConfigError("variable_length goes with loss_on='all': cut sequences have no last symbol.")
        # The stream is told where to begin, which costs nothing; transformers would make and drop all before.
        self.ignore_data_skip = True
        self.remove_unused_columns = False
        if not torch.cuda.is_available():
            self.dataloader_pin_memory = False  # there is nothing to pin for
        super().__post_init__()
        check_launch(self.world_size)

    def make_words(self, source: Source) -> Words | None:
        """How symbols are written, if a game's words are wanted."""
        assert not isinstance(self.words_args, str)
        return None if self.words_of is None else Words(self.words_of, self.words_args, source)

    def make_source(self) -> Source:
        """The source that is learned.

        Raises:
            ConfigError: a setting it has not, or a value that does not fit.
        """
        assert not isinstance(self.source_args, str)
        return make_source(
            find_source(self.source), self.source_args or {}, self.source_seed, "source_args", "source_seed"
        )


def _mapping(name: str, value: dict[str, Any] | str | None, example: str) -> dict[str, Any] | None:
    """A mapping of settings, given as such or as JSON.

    Raises:
        ConfigError: neither.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{name}={value!r} is no JSON ({error}): write {example}.") from None
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{name}={value!r} must be a mapping of settings.")
    return value
