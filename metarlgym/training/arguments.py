"""Run settings read from one flat YAML file with command-line overrides, through TRL's parser."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from trl import ModelConfig, TrlParser

from metarlgym.datatypes import ConfigError
from metarlgym.training.config import MetaGRPOConfig
from metarlgym.training.scratch import ScratchArguments


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
        if isinstance(self.env_args, str):
            try:
                self.env_args = json.loads(self.env_args)
            except json.JSONDecodeError as error:
                raise ConfigError(f'env_args={self.env_args!r} is no JSON ({error}): write {{"doors": 4}}.') from None
        if self.env_args is not None and not isinstance(self.env_args, dict):
            raise ConfigError(f"env_args={self.env_args!r} must be a mapping of keyword arguments.")
        if self.renderer not in ("auto", "chat", "plain"):
            raise ConfigError(f"renderer={self.renderer!r} is not known: use auto, chat or plain.")


@dataclass
class PolicyArguments(ModelConfig):
    """TRL's ModelConfig with a default of ours."""

    lora_dropout: float = field(
        default=0.0,
        metadata={"help": "Dropout would score trials with another policy than the one that played them: keep it 0."},
    )


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

    def resolved(self) -> dict[str, Any]:
        """Our own settings and whatever else was given; a file of them starts the same run again."""
        out: dict[str, Any] = {}
        for part in (self.run, self.grpo, self.scratch, self.model):
            for item in dataclasses.fields(part):
                given = item.name in self.given and item.name not in ONCE
                if given or item.name in OWN_FIELDS:
                    out[item.name] = _plain(getattr(part, item.name))
        return out


ONCE = {"resume", "overwrite"}
"""Said of one start of a run, and never written to its config."""
OWN_FIELDS = {name for group in (RunArguments, MetaGRPOConfig, ScratchArguments) for name in group.__annotations__} - {
    *ONCE,
    "scale_rewards",
    "num_generations",
}  # the last two are derived unless given


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | float | bool | None):
        return getattr(value, "value", value)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return str(getattr(value, "value", value))


def known_fields() -> list[str]:
    """Names that a config file may set."""
    return sorted({item.name for group in GROUPS for item in dataclasses.fields(group) if item.init})


def find_config(name: str) -> Path:
    """A config file by path, or by name among those that ship with the package."""
    path = Path(name)
    if path.is_file():
        return path
    bundled = Path(str(files("metarlgym"))) / "configs"
    shipped = bundled if bundled.is_dir() else Path(str(files("metarlgym"))).parent / "configs"
    for candidate in (shipped / path.name, shipped / f"{path.name}.yaml"):
        if candidate.is_file():
            return candidate
    runs = [p for p in shipped.glob("*.yaml") if "compute_environment" not in p.read_text()]  # others are accelerate's
    names = ", ".join(sorted(p.stem for p in runs))
    raise ConfigError(f"config={name!r}: no such file, and none of that name ships with the package ({names}).")


def _check_names(names: Sequence[str], where: str) -> None:
    known = known_fields()
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "see `metarlgym train --help-config`."
            raise ConfigError(f"{name!r} in {where} is no setting: {hint}")


def parse(arguments: Sequence[str]) -> Settings:
    """Read `--config FILE` and overrides such as `--max_steps 10`.

    Raises:
        ConfigError: a name or a value that does not fit, before anything is loaded.
    """
    original = list(arguments)
    arguments = [part for a in arguments for part in (a.split("=", 1) if a.startswith("--") and "=" in a else [a])]
    given: dict[str, Any] = {}
    if "--config" in arguments:
        place = arguments.index("--config") + 1
        if place >= len(arguments):
            raise ConfigError("--config needs a file: --config configs/quickstart.yaml.")
        path = find_config(arguments[place])
        arguments[place] = str(path)
        try:
            content = yaml.safe_load(path.read_text()) or {}
        except yaml.YAMLError as error:
            raise ConfigError(f"config={str(path)!r} is no YAML: {' '.join(str(error).split())}.") from None
        if not isinstance(content, dict):
            raise ConfigError(f"config={str(path)!r} must hold `name: value` lines.")
        _check_names([name for name in content if name != "env"], str(path))
        given |= {k: v for k, v in content.items() if k != "env"}
        if "output_dir" not in given and "--output_dir" not in arguments:
            arguments += ["--output_dir", f"runs/{path.stem}"]
    else:
        arguments += [] if "--output_dir" in arguments else ["--output_dir", "runs/run"]
    names = [a[2:].replace("-", "_") for a in arguments if a.startswith("--")]
    arguments = [f"--{a[2:].replace('-', '_')}" if a.startswith("--") else a for a in arguments]
    _check_names([name for name in names if name != "config" and not name.startswith("no_")], "the command line")
    given |= dict.fromkeys(names, True)
    parser = TrlParser(GROUPS)
    problems: list[str] = []

    def problem(message: str) -> None:
        problems.append(message)
        raise ConfigError(message)

    parser.error = problem  # argparse would print its usage and exit
    try:
        run, grpo, scratch, model = parser.parse_args_and_config(arguments)
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"settings: {error}") from error
    if not run.env_id:
        raise ConfigError("env_id is missing: name a task group, such as env_id: Doors-v0 (see `metarlgym list`).")
    return Settings(run, grpo, scratch, model, given, original)
