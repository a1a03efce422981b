"""Settings shared by train, eval and play, under their names in a run's config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from metarlgym.datatypes import ConfigError
from metarlgym.registry import spec
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.make_renderer import make_renderer
from metarlgym.rollout.render import ChatRenderer, Renderer
from metarlgym.tasks import TaskGroup
from metarlgym.trial import TrialSettings

LIMITS = {f"max_{name}": name for name in ("action_tokens", "thought_tokens", "context_tokens")} | {
    f"max_{name}": name for name in ("episode_turns", "episode_tokens", "episode_seconds", "trial_seconds")
}
"""Run settings and the corresponding fields of `Limits`."""


@dataclass(frozen=True)
class PlaySettings:
    """A task group, how its trials are made, and how they are played."""

    env_id: str
    env_args: dict[str, Any] = field(default_factory=dict)
    task_seed: int = 0
    trial: TrialSettings = field(default_factory=TrialSettings)
    limits: Limits = field(default_factory=Limits)
    renderer: str = "auto"
    chat_template: str | None = None
    """The template in use instead of the tokenizer's own; given to the tokenizer before the renderer is made."""
    chat_template_kwargs: dict[str, Any] | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any], free_shots: int | None = None) -> PlaySettings:
        """Build from a run's settings by name; other names are ignored, and None means the default: the environment's
        own for its trials, else ours.

        Args:
            values: such as a run's `config.yaml`.
            free_shots: passed separately because a run's `free_shots` is a schedule.

        Raises:
            ConfigError: a limit is not above 0; names the setting.
        """
        given = {name: values[name] for name in PLAYED if values.get(name) is not None}
        own = {f.name: given[f.name] for f in fields(cls) if f.name in given}
        trial = {f.name: given[f.name] for f in fields(TrialSettings) if f.name in given}
        if free_shots is not None:
            trial["free_shots"] = free_shots
        trial = spec(given["env_id"]).trial_defaults(trial) | trial
        try:
            limits = Limits(**{field: given[name] for name, field in LIMITS.items() if name in given})
        except ConfigError as error:  # which begins with the field's name; the setting's has this prefix
            raise ConfigError(f"max_{error}") from None
        return cls(**own | {"trial": TrialSettings(**trial), "limits": limits})

    def group(self) -> TaskGroup:
        """The task group.

        Raises:
            ConfigError: invalid environment arguments.
        """
        return TaskGroup(self.env_id, self.env_args, self.task_seed)

    def make_renderer(self, model: str, tokenizer: Any, group: TaskGroup) -> Renderer:
        """The renderer for a model's tokenizer.

        Raises:
            ConfigError: the tokenizer does not fit the task group, or no chat template is used to which settings apply.
        """
        renderer = make_renderer(self.renderer, tokenizer, group, self.chat_template_kwargs)
        for name in () if isinstance(renderer, ChatRenderer) else ("chat_template", "chat_template_kwargs"):
            if value := getattr(self, name):
                why = "renderer='plain'" if self.renderer == "plain" else f"the tokenizer of {model!r}"
                raise ConfigError(f"{name}={value!r} would have no effect: {why} has no chat template; leave it out.")
        self._check_thoughts(model, renderer)
        return renderer

    def _check_thoughts(self, model: str, renderer: Renderer) -> None:
        """Refuse to limit or drop thoughts that the tokenizer does not mark."""
        if renderer.thinking is not None:
            return
        for name, value in {
            "max_thought_tokens": self.limits.thought_tokens,
            "keep_thoughts": self.trial.keep_thoughts,
        }.items():
            if value not in (None, "all"):
                raise ConfigError(
                    f"{name}={value} would have no effect: the tokenizer of {model!r} has no tokens for thoughts "
                    "(<think> and </think>); leave it out."
                )


PLAYED = [
    *(f.name for f in fields(PlaySettings) if f.name not in ("trial", "limits")),
    *(f.name for f in fields(TrialSettings) if f.name != "free_shots"),
    *LIMITS,
]
"""The settings that `PlaySettings.of` uses."""
