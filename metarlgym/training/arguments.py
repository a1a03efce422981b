"""Run settings read from one flat YAML file with command-line overrides."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from trl import ModelConfig

from metarlgym.datatypes import ConfigError
from metarlgym.models.scratch import ScratchArguments
from metarlgym.rollout.play_settings import PlaySettings
from metarlgym.runtime.optimizer_check import check_optimizer
from metarlgym.settings.flat import plain, read_flat
from metarlgym.settings.given import values_given
from metarlgym.settings.ranges import check_values
from metarlgym.settings.training_arguments import check_gpu
from metarlgym.training.config import MetaGRPOConfig
from metarlgym.training.fields import REFUSED
from metarlgym.training.needs import check_conditions


@dataclass
class RunArguments:
    """What to play and what to do with the run. (`env` in a YAML file sets environment variables: TRL's rule.)"""

    env_id: str = field(default="", metadata={"help": "Task group, such as Doors-v0; see `metarlgym list`."})
    env_args: dict[str, Any] | str | None = field(default=None, metadata={"help": "Its keyword arguments, as JSON."})
    task_seed: int = field(default=0, metadata={"help": "Names the task streams of both splits."})
    renderer: str = field(default="auto", metadata={"help": "chat, plain, or auto: chat if there is a template."})
    final_eval_trials: int = field(default=2000, metadata={"help": "Held-out trials of the evaluation at the end."})
    sample_every: int = field(default=50, metadata={"help": "Steps between trials written to trials.jsonl."})
    sample_trials: int = field(default=4, metadata={"help": "Trials written each time."})
    threads: int | None = field(
        default=None, metadata={"help": "Torch threads; one is often several times faster for tiny models."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on from the newest complete checkpoint in output_dir."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the run that output_dir holds."})

    def __post_init__(self) -> None:
        check_values(self)
        if isinstance(self.env_args, str):
            try:
                self.env_args = json.loads(self.env_args)
            except json.JSONDecodeError as error:
                raise ConfigError(f'env_args={self.env_args!r} is no JSON ({error}): write {{"doors": 4}}.') from None
        if self.env_args is not None and not isinstance(self.env_args, dict):
            raise ConfigError(f"env_args={self.env_args!r} must be a mapping of keyword arguments.")


@dataclass
class PolicyArguments(ModelConfig):
    """TRL's ModelConfig with a default of ours."""

    lora_dropout: float = field(
        default=0.0,
        metadata={"help": "Dropout would score trials with another policy than the one that played them: keep it 0."},
    )

    def __post_init__(self) -> None:
        check_values(self)
        super().__post_init__()
        # TRL takes a single name out of its list, and PEFT would then match it against whole paths of modules.
        name: Any = getattr(self, "lora_target_modules")  # noqa: B009 (mypy skips TRL)
        if isinstance(name, str) and name.isidentifier():
            self.lora_target_modules = [name]


GROUPS = (RunArguments, MetaGRPOConfig, ScratchArguments, PolicyArguments)


@dataclass
class Settings:
    """All settings of a run, resolved."""

    run: RunArguments
    grpo: MetaGRPOConfig
    scratch: ScratchArguments
    model: PolicyArguments
    given: dict[str, Any]
    """What the file and the command line said, merged."""
    arguments: list[str]
    """The command line, as it was given."""
    idle: set[str] = field(default_factory=set)
    """Settings of the file that the command line left without effect."""

    @cached_property
    def play(self) -> PlaySettings:
        """What is played and how."""
        return PlaySettings.of({**vars(self.run), **vars(self.grpo)})

    def resolved(self) -> dict[str, Any]:
        """Our own settings and whatever else was given; a file of them starts the same run again."""
        out: dict[str, Any] = {}
        own = OWN_FIELDS - ({"steps_per_generation"} if "generation_batch_size" in self.given else set())
        for part in (self.run, self.grpo, self.scratch, self.model):
            for item in dataclasses.fields(part):
                if item.name in self.idle:
                    continue
                if item.name in own:
                    out[item.name] = plain(getattr(part, item.name))
                elif item.name in self.given and item.name not in ONCE:
                    # As it was given: what TRL and transformers make of a value need not read back as the same one.
                    out[item.name] = plain(self.given[item.name])
        return out


ONCE = {"resume", "overwrite"}
"""Said of one start of a run, and never written to its config."""
OWN_FIELDS = {name for group in (RunArguments, MetaGRPOConfig, ScratchArguments) for name in group.__annotations__} - {
    *ONCE,
    "scale_rewards",
    "num_generations",
}  # the last two are derived unless given


def parse(arguments: Sequence[str]) -> Settings:
    """Read `--config FILE` and overrides such as `--max_steps 10`.

    Raises:
        ConfigError: a name or a value that does not fit, before anything is loaded.
    """
    original = list(arguments)
    said = values_given(arguments, "train")
    changed = said.changed(GROUPS)
    check_gpu(changed)  # before derived values hide what was given
    (run, grpo, scratch, model), given = read_flat(arguments, GROUPS, "train", REFUSED)
    if not run.env_id:
        raise ConfigError("env_id is missing: name a task group, such as env_id: Doors-v0 (see `metarlgym list`).")
    settings = Settings(run, grpo, scratch, model, given, original)
    settings.idle = check_conditions(said, changed, settings)
    check_optimizer(grpo)
    return settings
