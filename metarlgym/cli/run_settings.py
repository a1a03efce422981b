"""The settings of the run that wrote a model, from the `config.yaml` beside the model's folder."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from metarlgym import registry
from metarlgym.cli.common import parse_json
from metarlgym.datatypes import ConfigError
from metarlgym.models.chat_templates import TRL, read_template
from metarlgym.rollout.play_settings import PLAYED
from metarlgym.rollout.template_date import CLOCK, DATE


class RunSettings:
    """Empty unless one of our runs wrote the model and `env`, if given, is the environment it was trained on.

    Args:
        model: a model's folder or hub id, or None.
        env: the requested environment, or None.

    Raises:
        ConfigError: the file cannot be read.
    """

    def __init__(self, model: str | None, env: str | None) -> None:
        self.settings: dict[str, Any] = {}
        self.taken: list[str] = []
        """The settings that were used, for one line of output."""
        self.path = Path()
        if model is None or not Path(model).is_dir():
            return
        import yaml

        path = Path(model).resolve().parent / "config.yaml"
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"{path}, with the settings of the run that wrote the model, cannot be read ({reason}): correct it, or "
                "move the model's folder to evaluate it without."
            ) from None
        if not isinstance(content, dict) or "env_id" not in content:
            return
        if env is not None and registry.spec(env).env_id != registry.spec(content["env_id"]).env_id:
            return
        if isinstance(kwargs := content.get("chat_template_kwargs"), str):  # as written on the command line
            content["chat_template_kwargs"] = parse_json(kwargs, f"chat_template_kwargs in {path}", "correct it")
        self.settings = content
        self.path = Path(os.path.relpath(path)) if path.is_relative_to(Path.cwd()) else path

    def default(self, name: str, given: Any, otherwise: Any) -> Any:
        """The user's value, else the run's, else `otherwise`."""
        if given is not None:
            return given
        value = self.settings.get(name)
        if value is None:
            return otherwise
        return self._note(name, value)

    def merged(self, given: dict[str, Any]) -> dict[str, Any]:
        """For all settings of `PlaySettings`: the user's values and, where those are None, the run's.

        The run's chat template is the one saved with its model. Its date stays, whatever else the template is given.
        The plain renderer is given no arguments of a template, and a template that tells no date is given none.
        """
        left_out = {"chat_template", *(["renderer"] if self.from_scratch() else [])}
        if given.get("renderer") == "plain":
            left_out.add("chat_template_kwargs")
        names = [name for name in PLAYED if name not in left_out]
        merged = given | {name: self.default(name, given.get(name), None) for name in names}
        arguments, trained = merged.get("chat_template_kwargs"), self.settings.get("chat_template_kwargs")
        if arguments is None or "chat_template_kwargs" in left_out or not isinstance(trained, dict):
            return merged
        if DATE in trained and _tells_date(given.get("chat_template")):
            merged["chat_template_kwargs"] = {DATE: trained[DATE], **arguments}
        elif DATE in trained and given.get("chat_template_kwargs") is None:
            merged["chat_template_kwargs"] = {name: value for name, value in arguments.items() if name != DATE}
        return merged

    def trained_with(self, name: str, given: Any, otherwise: Any) -> Any:
        """`default` for a TRL setting, which `config.yaml` contains only if it was set."""
        if given is not None or not self.settings:
            return otherwise if given is None else given
        if self.settings.get(name) is not None:
            return self._note(name, self.settings[name])
        from metarlgym.training.config import MetaGRPOConfig

        return self._note(name, next(f.default for f in dataclasses.fields(MetaGRPOConfig) if f.name == name))

    def free_shots(self, given: int | None) -> int | None:
        """Free shots at the run's end, as used in its own evaluation; None: neither given nor known."""
        if given is not None or self.settings.get("free_shots") is None:
            return given
        from metarlgym.training.schedule import Schedule

        schedule = Schedule.parse("free_shots", self.settings["free_shots"])
        return int(self._note("free_shots", round(schedule(self.settings.get("max_steps") or 0))))

    def from_scratch(self) -> bool:
        """Whether the run created its model from scratch; such a model always uses the plain renderer."""
        return bool(self.settings) and not self.settings.get("model_name_or_path")

    def left_out(self) -> list[str]:
        """Truncated sampling of a run's server: the policy here samples from the full distribution."""
        usual = {"top_p": 1.0, "top_k": 0, "min_p": None}
        return [
            f"{name} {self.settings[name]}" for name in usual if self.settings.get(name, usual[name]) != usual[name]
        ]

    def _note(self, name: str, value: Any) -> Any:
        self.taken.append(f"{name} {value if isinstance(value, str) else json.dumps(value)}")
        return value


def _tells_date(chat_template: str | None) -> bool:
    """Whether a template given instead of the run's own may tell a date; TRL's are of the same family."""
    if chat_template in (None, TRL):
        return True
    text = read_template(chat_template)
    return DATE in text or CLOCK in text
