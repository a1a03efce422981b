"""Limits on episodes and trials. A limit that is reached becomes a `StopReason`; none raises."""

from __future__ import annotations

from dataclasses import dataclass, fields

from metarlgym.datatypes import ConfigError

THOUGHT_TOKENS = 512
"""The limit on thoughts if none is set."""


@dataclass(frozen=True)
class Limits:
    """None means no limit. An episode limit ends that episode and the trial continues; a trial limit ends the trial."""

    action_tokens: int = 64
    """Maximum number of tokens of one action; longer ones are truncated, passed to the environment and counted."""
    thought_tokens: int | None = None
    """Maximum number of tokens of a thought, in addition to those of its action; 0 closes each at once. None: 512 where
    the tokenizer marks thoughts. A thought that reaches the limit is closed, and the action follows.
    """
    episode_turns: int | None = None
    """Maximum number of actions in an episode, in addition to the environment's own `max_turns`."""
    episode_tokens: int | None = None
    """Maximum number of tokens in an episode, from policy and environment together."""
    episode_seconds: float | None = None
    """Wall time of an episode, checked at every action. A step still running half a second later ends the trial,
    because its environment cannot start another episode.
    """
    trial_turns: int | None = None
    context_tokens: int | None = None
    """Maximum tokens of one context (a training row), including the prompt; set it to the model's context length."""
    trial_seconds: float | None = None
    """Wall time of a trial. When it runs out, a pending policy request is abandoned at once, a running environment step
    half a second later.
    """

    @property
    def counts_no_turns_or_time(self) -> bool:
        """Whether only tokens are limited, as is usual."""
        others = (self.episode_turns, self.episode_seconds, self.trial_turns, self.trial_seconds)
        return all(limit is None for limit in others)

    @property
    def counts_time(self) -> bool:
        """Whether a hanging step has to be cut off."""
        return self.episode_seconds is not None or self.trial_seconds is not None

    def __post_init__(self) -> None:
        for field in fields(self):
            value, thoughts = getattr(self, field.name), field.name == "thought_tokens"
            if value is None or value > 0 or (thoughts and value == 0):
                continue
            default = (
                f"{THOUGHT_TOKENS} where the tokenizer marks thoughts" if thoughts else field.default or "no limit"
            )
            must = "at least 0" if thoughts else "above 0"
            raise ConfigError(f"{field.name}={value} must be {must}; leave it out for {default}.")
