"""Run settings read from one flat YAML file with command-line overrides."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from trl import ModelConfig

from metarlgym.datatypes import ConfigError
from metarlgym.models.scratch import ScratchArguments
from metarlgym.registry import trial_defaults
from metarlgym.rollout.play_settings import PlaySettings
from metarlgym.runtime.optimizer_check import check_optimizer
from metarlgym.settings.flat import plain, read_flat
from metarlgym.settings.given import values_given
from metarlgym.settings.ranges import check_values
from metarlgym.settings.training_arguments import check_gpu
from metarlgym.training.conditional_fields import check_conditions
from metarlgym.training.config import MetaGRPOConfig
from metarlgym.training.refused_fields import REFUSED


@dataclass
class RunArguments:
    """The task group and how the run is handled. (TRL reserves the YAML key `env` for environment variables.)"""

    env_id: str = field(default="", metadata={"help": "Task group, such as Doors-v0; see `metarlgym list`."})
    env_args: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Keyword arguments of the environment, as JSON."}
    )
    task_seed: int = field(default=0, metadata={"help": "Seed for the tasks of both splits."})
    renderer: str = field(
        default="auto", metadata={"help": "chat, plain, or auto: chat if the tokenizer has a chat template."}
    )
    chat_template: str | None = field(
        default=None,
        metadata={
            "help": "Chat template used instead of the tokenizer's: a Jinja file, or trl for TRL's training template."
        },
    )
    final_eval_trials: int = field(
        default=2000, metadata={"help": "Number of held-out trials in the final evaluation."}
    )
    sample_every: int = field(default=50, metadata={"help": "Write trials to trials.jsonl every N steps."})
    sample_trials: int = field(default=4, metadata={"help": "Number of trials to write each time."})
    write_contexts: bool = field(
        default=False, metadata={"help": "Add the texts and tokens that the model saw to the trials in trials.jsonl."}
    )
    threads: int | None = field(
        default=None, metadata={"help": "Number of torch threads; for tiny models, 1 is often several times faster."}
    )
    resume: bool = field(default=False, metadata={"help": "Resume from the newest complete checkpoint in output_dir."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the existing run in output_dir."})

    def __post_init__(self) -> None:
        check_values(self)
        if isinstance(self.env_args, str):
            try:
                self.env_args = json.loads(self.env_args)
            except json.JSONDecodeError as error:
                raise ConfigError(f'env_args={self.env_args!r} is not JSON ({error}): write {{"doors": 4}}.') from None
        if self.env_args is not None and not isinstance(self.env_args, dict):
            raise ConfigError(f"env_args={self.env_args!r} must be a mapping of keyword arguments.")


@dataclass
class PolicyArguments(ModelConfig):
    """TRL's ModelConfig with one changed default."""

    lora_dropout: float = field(
        default=0.0,
        metadata={
            "help": "Keep it 0: with dropout, trials are scored by a different policy from the one that played them."
        },
    )

    def __post_init__(self) -> None:
        check_values(self)
        super().__post_init__()
        # TRL unwraps a one-element list, and PEFT matches a bare string against full module paths.
        name: Any = getattr(self, "lora_target_modules")  # noqa: B009 (mypy skips TRL)
        if isinstance(name, str) and name.isidentifier():
            self.lora_target_modules = [name]


GROUPS = (RunArguments, MetaGRPOConfig, ScratchArguments, PolicyArguments)


@dataclass
class Settings:
    """All resolved settings of a run."""

    run: RunArguments
    grpo: MetaGRPOConfig
    scratch: ScratchArguments
    model: PolicyArguments
    given: dict[str, Any]
    """Values from the file and the command line, merged."""
    arguments: list[str]
    """The original command line."""
    own: dict[str, Any] = field(default_factory=dict)
    """Settings of trials that come from the environment's registration."""
    idle: set[str] = field(default_factory=set)
    """Settings in the file that have no effect because of the command line."""

    @cached_property
    def play(self) -> PlaySettings:
        """The settings that determine how trials are played."""
        return PlaySettings.of({**vars(self.run), **vars(self.grpo)})

    def set_template_kwargs(self, kwargs: dict[str, Any]) -> None:
        """Replace `chat_template_kwargs`, in what is saved too."""
        self.grpo.chat_template_kwargs = self.given["chat_template_kwargs"] = kwargs
        self.__dict__.pop("play", None)  # cached from the old value

    def resolved(self) -> dict[str, Any]:
        """Our own settings and any others that were given; saved as a file, they reproduce the run."""
        out: dict[str, Any] = {}
        own = OWN_FIELDS - ({"steps_per_generation"} if "generation_batch_size" in self.given else set())
        for part in (self.run, self.grpo, self.scratch, self.model):
            for item in dataclasses.fields(part):
                if item.name in self.idle:
                    continue
                if item.name in own:
                    out[item.name] = plain(getattr(part, item.name))
                elif item.name in self.given and item.name not in ONCE:
                    # As given: a value that TRL or transformers has converted may not parse back to itself.
                    out[item.name] = plain(self.given[item.name])
        return out


ONCE = {"resume", "overwrite"}
"""Settings that apply to one launch and are never written to the run's config."""
OWN_FIELDS = {name for group in (RunArguments, MetaGRPOConfig, ScratchArguments) for name in group.__annotations__} - {
    *ONCE,
    "scale_rewards",
    "num_generations",
}  # the last two are derived unless given


def parse(arguments: Sequence[str], defaults: Mapping[str, Any] | None = None) -> Settings:
    """Read `--config FILE` and overrides such as `--max_steps 10`.

    Args:
        arguments: the command line.
        defaults: values for settings that neither the file nor the command line gives; they count as given. So do the
            environment's own settings of its trials.

    Raises:
        ConfigError: on an invalid name or value, before anything is loaded.
    """
    original = list(arguments)
    for name, value in (defaults or {}).items():
        arguments = [*arguments, f"--{name}", str(value)]
    said = values_given(arguments, "train")
    changed = said.changed(GROUPS)
    check_gpu(changed, bf16_on_cpu=True)  # before derived values hide what was given
    (run, grpo, scratch, model), given = read_flat(arguments, GROUPS, "train", REFUSED)
    if not run.env_id:
        raise ConfigError("env_id is missing: name a task group, such as env_id: Doors-v0 (see `metarlgym list`).")
    if missing := trial_defaults(run.env_id, given):
        settings = parse(original, {**missing, **(defaults or {})})
        settings.own = missing
        return settings
    settings = Settings(run, grpo, scratch, model, given, original)
    settings.idle = check_conditions(said, changed, settings)
    check_optimizer(grpo)
    return settings
