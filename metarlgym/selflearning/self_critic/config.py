"""Settings of the self-critic experiment."""

from __future__ import annotations

from dataclasses import dataclass, field

from metarlgym.datatypes import ConfigError
from metarlgym.selflearning.self_critic.critics import ema_share
from metarlgym.selflearning.self_critic.language import CONTEXTS
from metarlgym.settings.ranges import check_heads, check_values

FORMS = ("score", "target", "target_seen")
SCORE_ONLY = ("live_detached", "grounded")
"""Critics only for form `score`: targets have no gradient, so a live critic is always detached there."""
ACTIONS = ("stop", "reanchor", "phase_a")


@dataclass
class Config:
    """Settings of the self-critic experiment.

    Raises:
        ConfigError: an invalid value.
    """

    forms: list[str] = field(
        default_factory=lambda: list(FORMS),
        metadata={
            "help": "score; target; target_seen: targets from a critic that sees the answer, as in the original."
        },
    )
    critics: list[str] = field(
        default_factory=lambda: ["live", "live_detached", "frozen", "ema_0.99", "refreshed", "grounded"],
        metadata={"help": "live, frozen, ema_T, refreshed; live_detached and grounded only with form score."},
    )
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds, one run per critic and seed."}
    )
    actions: list[str] = field(
        default_factory=lambda: list(ACTIONS),
        metadata={
            "help": "Actions on an alarm: stop (one run per critic), reanchor, phase_a (one run each, with frozen)."
        },
    )
    V: int = field(default=24, metadata={"help": "Vocabulary size of the language."})
    n_gram: int = field(
        default=3, metadata={"help": "Context window of the language's network; the oldest token has no effect."}
    )
    scale: float = field(default=2.0, metadata={"help": "Logit scale; higher is more predictable."})
    length: int = field(default=16, metadata={"help": "Sequence length in tokens."})
    language: int = field(default=0, metadata={"help": "Seed of the language."})
    hidden_size: int = field(default=32, metadata={"help": "Hidden size of the network."})
    layers: int = field(default=2, metadata={"help": "Number of transformer blocks."})
    heads: int = field(default=2, metadata={"help": "Number of attention heads."})
    batch: int = field(default=64, metadata={"help": "Batch size in real sequences."})
    phase_a_steps: int = field(default=300, metadata={"help": "Steps of phase A, on real tokens."})
    phase_a_lr: float = field(default=3e-3, metadata={"help": "Learning rate of phase A."})
    steps: int = field(default=1600, metadata={"help": "Maximum number of phase B steps with scores."})
    target_steps: int = field(default=400, metadata={"help": "Maximum number of phase B steps with targets."})
    action_steps: int = field(
        default=400, metadata={"help": "Maximum number of phase B steps of runs that reanchor or return to phase A."}
    )
    lr: float = field(default=1e-4, metadata={"help": "Learning rate of phase B with scores."})
    target_lr: float = field(default=1e-4, metadata={"help": "Learning rate of phase B with targets."})
    prompt: int = field(default=4, metadata={"help": "Real tokens before a sample."})
    prompts: int = field(default=8, metadata={"help": "Prompts per step."})
    group: int = field(default=8, metadata={"help": "Group size (samples per prompt)."})
    thought: int = field(default=4, metadata={"help": "grounded: length of a thought in tokens."})
    tau: float = field(default=0.99, metadata={"help": "grounded: decay of the moving average per step."})
    spoilt: float = field(default=0.6, metadata={"help": "Corruption rate of the critic's negatives."})
    own_weight: float = field(
        default=0.08,
        metadata={"help": "Loss weight of self-generated negatives, relative to real and corrupted sequences."},
    )
    targets: str = field(default="argmax", metadata={"help": "argmax of the critic's verdict, or sample from it."})
    refresh_every: int = field(default=25, metadata={"help": "refreshed: steps between returns to phase A."})
    refresh_steps: int = field(default=25, metadata={"help": "refreshed: steps per return to phase A."})
    check_every: int = field(default=5, metadata={"help": "Steps between checks."})
    close_checks: int = field(
        default=40, metadata={"help": "Number of frequent checks, after which checks are five times less frequent."}
    )
    patience: int = field(default=3, metadata={"help": "Number of consecutive bad checks that trigger an alarm."})
    held: int = field(default=256, metadata={"help": "Held-out sequences."})

    def __post_init__(self) -> None:
        check_values(self)
        for form in self.forms:
            if form not in FORMS:
                raise ConfigError(f"forms: {form!r} is not known: use {', '.join(FORMS)}.")
        for action in self.actions:
            if action not in ACTIONS:
                raise ConfigError(f"actions: {action!r} is not known: use {', '.join(ACTIONS)}.")
        for critic in self.critics:
            ema_share(critic)
        if not self.seeds:
            raise ConfigError("seeds=[] is empty: give at least one.")
        if not self.n_gram - 1 <= self.prompt < self.length:
            raise ConfigError(f"prompt={self.prompt} must be at least n_gram - 1 and below length={self.length}.")
        if self.V ** (self.n_gram - 1) > CONTEXTS:
            raise ConfigError(f"n_gram={self.n_gram} with V={self.V}: V^(n_gram - 1) must be at most {CONTEXTS}.")
        check_heads("heads", self.heads, "hidden_size", self.hidden_size)
