"""Settings of gist tokens, learning in gist space."""

from __future__ import annotations

from dataclasses import dataclass, field

from metarlgym.datatypes import ConfigError
from metarlgym.settings.ranges import SIZE, at_least, check_heads, check_values

SPACES = ("token", "frozen", "ema", "live", "guarded", "noise")
"""What the score of phase B is, see `scores.py`."""


@dataclass
class Config:
    """Settings of gist tokens.

    Raises:
        ConfigError: a value that does not fit.
    """

    alphabet: int = field(default=32, metadata={"help": "Symbols A of the source."})
    concentration: float = field(default=0.1, metadata={"help": "Of the Dirichlet behind each sequence."})
    n1: int = field(default=24, metadata={"help": "Symbols of chunk 1."})
    n2: int = field(
        default=24, metadata={"help": "Symbols of chunk 2; phase B encodes them, so best as many as chunk 1 has."}
    )
    world: int = field(default=0, metadata={"help": "Draws the held-out sequences."})
    hidden_size: int = field(default=32, metadata={"help": "Width."})
    layers: int = field(default=2, metadata={"help": "Transformer blocks."})
    heads: int = field(default=4, metadata={"help": "Attention heads."})
    kv_heads: int = field(
        default=1, metadata={"help": "Heads of keys and values: what can be read of one gist is this narrow."}
    )
    gists: list[int] = field(default_factory=lambda: [1, 2, 4, 8], metadata={"help": "Phase A: numbers of gists."})
    gist_seeds: list[int] = field(default_factory=lambda: [0, 1], metadata={"help": "Phase A: a run for each."})
    steps: int = field(default=2000, metadata={"help": "Phase A: steps."})
    batch: int = field(default=32, metadata={"help": "Phase A: sequences of a step."})
    lr: float = field(default=1e-2, metadata={"help": "Phase A: step size at its peak."})
    warmup_steps: int = field(default=50, metadata={"help": "Phase A: steps of warm-up."})
    log_every: int = field(default=100, metadata={"help": "Phase A: steps between lines of the log."})
    held: int = field(default=2000, metadata={"help": "Phase A: held-out sequences."})
    leak_sequences: int = field(default=64, metadata={"help": "Phase A: sequences of the leak check."})

    spaces: list[str] = field(default_factory=lambda: list(SPACES), metadata={"help": f"Phase B: {', '.join(SPACES)}."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Phase B: a run for each."})
    space_gists: int = field(default=4, metadata={"help": "Phase B: number of gists."})
    space_warm_steps: int = field(default=1000, metadata={"help": "Phase B: steps of the phase A before it."})
    space_steps: int = field(default=200, metadata={"help": "Phase B: steps."})
    prompts: int = field(default=8, metadata={"help": "Phase B: prompts of a step."})
    group: int = field(default=8, metadata={"help": "Phase B: continuations of each."})
    space_lr: float = field(default=1e-3, metadata={"help": "Phase B: step size."})
    tau: float = field(default=0.99, metadata={"help": "ema: share that the moving average keeps at each step."})
    score_weight: float = field(default=1.0, metadata={"help": "live, guarded: weight of the score's own gradient."})
    guard_weight: float = field(default=1.0, metadata={"help": "guarded: weight of the variance guard."})
    check_every: int = field(default=10, metadata={"help": "Phase B: steps between checks."})
    check_sequences: int = field(default=128, metadata={"help": "Phase B: held-out prompts of a check."})
    check_samples: int = field(default=4, metadata={"help": "Phase B: continuations of each."})

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
