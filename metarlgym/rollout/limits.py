"""Limits on an episode and on a trial. Each that is hit becomes a `StopReason`; none raises."""

from __future__ import annotations

from dataclasses import dataclass, fields

from metarlgym.datatypes import ConfigError


@dataclass(frozen=True)
class Limits:
    """None means no limit. An episode's limit ends that episode, and the trial goes on; a trial's ends the trial."""

    action_tokens: int = 64
    """Most tokens of one action; a longer one is cut, given to the environment as it is, and counted."""
    episode_turns: int | None = None
    """Most actions in an episode, on top of the environment's own `max_turns`."""
    episode_tokens: int | None = None
    """Most tokens, the policy's and the environment's, in an episode."""
    episode_seconds: float | None = None
    """Wall time of an episode, checked at every action. A step that is still running half a second later ends the
    trial: its environment cannot begin another episode."""
    trial_turns: int | None = None
    context_tokens: int | None = None
    """Most tokens of one context (a training row), prompt included; set it to what the model can hold."""
    trial_seconds: float | None = None
    """Wall time of a trial. When it passes, a pending answer of the policy is abandoned at once, a running step of the
    environment half a second later."""

    @property
    def counts_no_turns_or_time(self) -> bool:
        """Whether only tokens are limited, as is usual."""
        others = (self.episode_turns, self.episode_seconds, self.trial_turns, self.trial_seconds)
        return all(limit is None for limit in others)

    @property
    def counts_time(self) -> bool:
        """Whether a step that hangs has to be cut off."""
        return self.episode_seconds is not None or self.trial_seconds is not None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and value <= 0:
                raise ConfigError(f"{field.name}={value} must be positive; leave it out for no limit.")
