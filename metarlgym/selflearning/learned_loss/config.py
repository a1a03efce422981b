"""Settings of the learned-loss experiment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from metarlgym.datatypes import ConfigError
from metarlgym.settings.ranges import BOUNDS, SIZE, at_least, check_values

FIXED = ("uniform", "oracle")
"""Variants with fixed token weights: uniform, or the true noise mask."""
LEARNED = ("weights-next", "weights-random", "weights-similar", "weights_full-next", "gist-next", "gist_ce-next")
"""Variants with a learned loss, LOSS-CHUNKS (its validation chunks); `weights_full` evaluates full steps."""


class Setting(NamedTuple):
    """The data stream of a run, and the number and size of its steps."""

    redrawn: bool
    noise: dict[str, float]
    """MetaLM's V, n, l, e."""
    warm: int
    """Number of warm-up steps under uniform weights."""
    warm_rate: float | None
    """Learning rate of Adam for the warm-up steps; None to use SGD as for the other steps."""
    steps: int
    """Number of steps after the warm-up."""
    batch: int
    rate: float
    """Learning rate of SGD."""


@dataclass
class Config:
    """Settings of the learned-loss experiment. Steps are steps of the learner; chunks are sequences of the stream."""

    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2],
        metadata={"help": "Seeds, each with its own language and stream."},
    )
    V: int = field(default=32, metadata={"help": "MetaLM: symbols are 1..V-1."})
    n: int = field(default=5, metadata={"help": "MetaLM: number of elements."})
    l: float = field(default=8.0, metadata={"help": "MetaLM: mean element length."})  # noqa: E741
    e: float = field(default=0.3, metadata={"help": "MetaLM: probability that a symbol is corrupted."})
    length: int = field(default=64, metadata={"help": "Length of a chunk."})
    batch: int = field(default=8, metadata={"help": "Batch size in chunks."})
    hidden_size: int = field(default=32, metadata={"help": "Hidden size of the learner."})
    layers: int = field(default=2, metadata={"help": "Number of transformer blocks."})
    heads: int = field(default=2, metadata={"help": "Number of attention heads."})
    rate: float = field(default=1.0, metadata={"help": "Learning rate of the learner's SGD, under every loss."})
    fixed_rates: list[float] = field(
        default_factory=lambda: [0.3, 1.0, 1.5],
        metadata={"help": "Learning rates to try with fixed weights, relative to rate; the best one is reported."},
    )
    warm_steps: int = field(
        default=300, metadata={"help": "Warm-up steps under uniform weights before the variants start."}
    )
    steps: int = field(default=300, metadata={"help": "Steps under each variant's loss, while it is being learned."})
    lookahead: float = field(
        default=0.3,
        metadata={"help": "Size of the step used to evaluate a loss, relative to the learner's actual step."},
    )
    loss_rate: float = field(default=0.003, metadata={"help": "Learning rate of the loss (Adam)."})
    loss_width: int = field(default=16, metadata={"help": "Hidden units of the network that computes the weights."})
    gist_size: int = field(default=16, metadata={"help": "Dimension of a gist."})
    gist_window: int = field(default=4, metadata={"help": "Number of neighboring positions that share a gist."})
    offline_runs: int = field(
        default=3,
        metadata={"help": "Number of fresh learners, each with its own language, for pretraining the loss offline."},
    )
    offline_steps: int = field(
        default=40, metadata={"help": "Steps of each offline learner, after a fraction of warm_steps."}
    )
    buffer: int = field(
        default=256, metadata={"help": "Chunks in the buffer for random and similar validation chunks."}
    )
    redrawn: bool = field(
        default=True, metadata={"help": "Also run on a redrawn stream, where every chunk has its own language."}
    )
    redrawn_V: int = field(
        default=16,
        metadata={
            "help": "Redrawn stream: MetaLM's V; an easier setting, since a small learner must infer each language."
        },
    )
    redrawn_n: int = field(default=2, metadata={"help": "Redrawn stream: number of elements."})
    redrawn_l: float = field(default=5.0, metadata={"help": "Redrawn stream: mean element length."})
    redrawn_e: float = field(default=0.2, metadata={"help": "Redrawn stream: probability that a symbol is corrupted."})
    redrawn_warm_steps: int = field(
        default=2000, metadata={"help": "Redrawn stream: Adam warm-up steps under uniform weights."}
    )
    redrawn_warm_rate: float = field(
        default=0.005, metadata={"help": "Redrawn stream: learning rate of the warm-up steps."}
    )
    redrawn_steps: int = field(default=300, metadata={"help": "Redrawn stream: SGD steps under the learned loss."})
    redrawn_batch: int = field(default=16, metadata={"help": "Redrawn stream: batch size in chunks."})
    redrawn_rate: float = field(default=0.1, metadata={"help": "Redrawn stream: learning rate of SGD."})
    held_out: int = field(default=256, metadata={"help": "Held-out chunks for the reported figures."})
    check_every: int = field(default=25, metadata={"help": "Steps between checks."})
    check_chunks: int = field(default=64, metadata={"help": "Held-out chunks per check."})

    def __post_init__(self) -> None:
        check_values(self, {"V": at_least(3, BOUNDS["V"].high), "hidden_size": at_least(2, SIZE.high)})
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"seeds={self.seeds} must hold at least one seed, each once.")
        if not self.fixed_rates:
            raise ConfigError("fixed_rates=[] is empty: give at least one learning rate.")
        if self.hidden_size % self.heads or self.hidden_size % 2:
            raise ConfigError(f"hidden_size={self.hidden_size} must be even and a multiple of heads={self.heads}.")

    def setting(self, redrawn: bool) -> Setting:
        """The setting of variants with a fixed language, or of those with redrawn languages."""
        if redrawn:
            noise = {"V": self.redrawn_V, "n": self.redrawn_n, "l": self.redrawn_l, "e": self.redrawn_e}
            steps = (self.redrawn_warm_steps, self.redrawn_warm_rate, self.redrawn_steps)
            return Setting(True, noise, *steps, self.redrawn_batch, self.redrawn_rate)
        noise = {"V": self.V, "n": self.n, "l": self.l, "e": self.e}
        return Setting(False, noise, self.warm_steps, None, self.steps, self.batch, self.rate)
