"""Settings of learned loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from metarlgym.datatypes import ConfigError
from metarlgym.settings.ranges import BOUNDS, SIZE, at_least, check_values

FIXED = ("uniform", "oracle")
"""Variants whose weights are not learned: all alike, or the true noise mask."""
LEARNED = ("weights-next", "weights-random", "weights-similar", "weights_full-next", "gist-next", "gist_ce-next")
"""Variants with a learned loss, and the chunks that judge it; in `weights_full` steps are judged at their full size."""


class Setting(NamedTuple):
    """The stream of a run, and how long and how large the run is."""

    redrawn: bool
    noise: dict[str, float]
    """MetaLM's V, n, l, e."""
    warm: int
    """Steps under uniform weights."""
    warm_rate: float | None
    """Step size of Adam in them; None: they are steps of SGD like the others."""
    steps: int
    """Steps after them."""
    batch: int
    rate: float
    """Step size of SGD."""


@dataclass
class Config:
    """Settings of learned loss. Steps are steps of the learner, chunks are sequences of the stream."""

    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2],
        metadata={"help": "Each seed draws a language and a stream."},
    )
    V: int = field(default=32, metadata={"help": "MetaLM: symbols are 1..V-1."})
    n: int = field(default=5, metadata={"help": "MetaLM: elements."})
    l: float = field(default=8.0, metadata={"help": "MetaLM: mean length of an element."})  # noqa: E741
    e: float = field(default=0.3, metadata={"help": "MetaLM: noise."})
    length: int = field(default=64, metadata={"help": "Places of a chunk."})
    batch: int = field(default=8, metadata={"help": "Chunks of a step."})
    hidden_size: int = field(default=32, metadata={"help": "Width of the learner."})
    layers: int = field(default=2, metadata={"help": "Transformer blocks."})
    heads: int = field(default=2, metadata={"help": "Attention heads."})
    rate: float = field(default=1.0, metadata={"help": "Step size of the learner's SGD, under every loss."})
    fixed_rates: list[float] = field(
        default_factory=lambda: [0.3, 1.0, 1.5],
        metadata={"help": "Step sizes that weights which are not learned are tried with; the best one is reported."},
    )
    warm_steps: int = field(default=300, metadata={"help": "Steps under uniform weights before the variants."})
    steps: int = field(default=300, metadata={"help": "Steps under each variant's loss while it is learned."})
    lookahead: float = field(
        default=0.3, metadata={"help": "Size of the step by which a loss is judged, over the one that is taken."}
    )
    loss_rate: float = field(default=0.003, metadata={"help": "Step size of the loss (Adam)."})
    loss_width: int = field(default=16, metadata={"help": "Units of the hidden layers behind the weights."})
    gist_size: int = field(default=16, metadata={"help": "Numbers in a gist."})
    gist_window: int = field(default=4, metadata={"help": "Neighbouring places that share a gist."})
    offline_runs: int = field(
        default=3,
        metadata={"help": "Fresh learners, each on a language of its own, that the loss is learned on first."},
    )
    offline_steps: int = field(default=40, metadata={"help": "Steps of each of them, after a share of warm_steps."})
    buffer: int = field(default=256, metadata={"help": "Chunks that random and similar ones are picked from."})
    redrawn: bool = field(
        default=True, metadata={"help": "Also run on a stream of which every chunk has its language."}
    )
    redrawn_V: int = field(
        default=16, metadata={"help": "MetaLM there, easier: a small learner must find each language."}
    )
    redrawn_n: int = field(default=2, metadata={"help": "Elements there."})
    redrawn_l: float = field(default=5.0, metadata={"help": "Mean length there."})
    redrawn_e: float = field(default=0.2, metadata={"help": "Noise there."})
    redrawn_warm_steps: int = field(default=2000, metadata={"help": "Steps under uniform weights there, by Adam."})
    redrawn_warm_rate: float = field(default=0.005, metadata={"help": "Their step size."})
    redrawn_steps: int = field(default=300, metadata={"help": "Steps of SGD under the learned loss there."})
    redrawn_batch: int = field(default=16, metadata={"help": "Chunks of a step there."})
    redrawn_rate: float = field(default=0.1, metadata={"help": "Step size of SGD there."})
    held_out: int = field(default=256, metadata={"help": "Chunks behind the reported figures."})
    check_every: int = field(default=25, metadata={"help": "Steps between checks."})
    check_chunks: int = field(default=64, metadata={"help": "Held-out chunks of a check."})

    def __post_init__(self) -> None:
        check_values(self, {"V": at_least(3, BOUNDS["V"].high), "hidden_size": at_least(2, SIZE.high)})
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"seeds={self.seeds} must hold at least one seed, each once.")
        if not self.fixed_rates:
            raise ConfigError("fixed_rates=[] is empty: give at least one learning rate.")
        if self.hidden_size % self.heads or self.hidden_size % 2:
            raise ConfigError(f"hidden_size={self.hidden_size} must be even and a multiple of heads={self.heads}.")

    def setting(self, redrawn: bool) -> Setting:
        """That of the variants on a fixed language, or of those on redrawn ones."""
        if redrawn:
            noise = {"V": self.redrawn_V, "n": self.redrawn_n, "l": self.redrawn_l, "e": self.redrawn_e}
            steps = (self.redrawn_warm_steps, self.redrawn_warm_rate, self.redrawn_steps)
            return Setting(True, noise, *steps, self.redrawn_batch, self.redrawn_rate)
        noise = {"V": self.V, "n": self.n, "l": self.l, "e": self.e}
        return Setting(False, noise, self.warm_steps, None, self.steps, self.batch, self.rate)
