"""Settings of the gist-tokens experiment."""

from __future__ import annotations

from dataclasses import dataclass, field

from metarlgym.datatypes import ConfigError
from metarlgym.settings.ranges import SIZE, at_least, check_heads, check_values

SPACES = ("token", "frozen", "ema", "live", "guarded", "noise")
"""Scores of phase B, see `scores.py`."""


@dataclass
class Config:
    """Settings of the gist-tokens experiment.

    Raises:
        ConfigError: an invalid value.
    """

    alphabet: int = field(default=32, metadata={"help": "Alphabet size A of the source."})
    concentration: float = field(
        default=0.1, metadata={"help": "Concentration of the Dirichlet prior of each sequence's distribution."}
    )
    n1: int = field(default=24, metadata={"help": "Length of chunk 1 in symbols."})
    n2: int = field(
        default=24, metadata={"help": "Length of chunk 2 in symbols; phase B encodes it, so best equal to n1."}
    )
    world: int = field(default=0, metadata={"help": "Seed of the held-out sequences."})
    hidden_size: int = field(default=32, metadata={"help": "Hidden size of the network."})
    layers: int = field(default=2, metadata={"help": "Number of transformer blocks."})
    heads: int = field(default=4, metadata={"help": "Number of attention heads."})
    kv_heads: int = field(
        default=1, metadata={"help": "Number of key-value heads; fewer heads make a narrower bottleneck per gist."}
    )
    gists: list[int] = field(
        default_factory=lambda: [1, 2, 4, 8], metadata={"help": "Phase A: numbers of gist tokens to try."}
    )
    gist_seeds: list[int] = field(default_factory=lambda: [0, 1], metadata={"help": "Phase A: seeds, one run each."})
    steps: int = field(default=2000, metadata={"help": "Phase A: number of steps."})
    batch: int = field(default=32, metadata={"help": "Phase A: batch size in sequences."})
    lr: float = field(default=1e-2, metadata={"help": "Phase A: peak learning rate."})
    warmup_steps: int = field(default=50, metadata={"help": "Phase A: warm-up steps."})
    log_every: int = field(default=100, metadata={"help": "Phase A: steps between log lines."})
    held: int = field(default=2000, metadata={"help": "Phase A: held-out sequences."})
    leak_sequences: int = field(default=64, metadata={"help": "Phase A: sequences for the leak check."})

    spaces: list[str] = field(default_factory=lambda: list(SPACES), metadata={"help": f"Phase B: {', '.join(SPACES)}."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Phase B: seeds, one run each."})
    space_gists: int = field(default=4, metadata={"help": "Phase B: number of gist tokens."})
    space_warm_steps: int = field(default=1000, metadata={"help": "Phase B: steps of the preceding phase A."})
    space_steps: int = field(default=200, metadata={"help": "Phase B: number of steps."})
    prompts: int = field(default=8, metadata={"help": "Phase B: prompts per step."})
    group: int = field(default=8, metadata={"help": "Phase B: group size (continuations per prompt)."})
    space_lr: float = field(default=1e-3, metadata={"help": "Phase B: learning rate."})
    tau: float = field(default=0.99, metadata={"help": "ema: decay of the moving average per step."})
    score_weight: float = field(default=1.0, metadata={"help": "live, guarded: weight of the score's own gradient."})
    guard_weight: float = field(default=1.0, metadata={"help": "guarded: weight of the variance regularizer."})
    check_every: int = field(default=10, metadata={"help": "Phase B: steps between checks."})
    check_sequences: int = field(default=128, metadata={"help": "Phase B: held-out prompts per check."})
    check_samples: int = field(default=4, metadata={"help": "Phase B: continuations per prompt of a check."})

    def __post_init__(self) -> None:
        check_values(self, {"layers": at_least(2, SIZE.high)})
        if self.heads % self.kv_heads:
            raise ConfigError(f"kv_heads={self.kv_heads} must divide heads={self.heads}.")
        check_heads("heads", self.heads, "hidden_size", self.hidden_size)
        for space in self.spaces:
            if space not in SPACES:
                raise ConfigError(f"spaces={space!r} is not known: use {', '.join(SPACES)}.")
        if not (self.gists and self.gist_seeds) and not (self.spaces and self.seeds):
            raise ConfigError("gists=[] and spaces=[] leave nothing to run: give at least one of them, and a seed.")
