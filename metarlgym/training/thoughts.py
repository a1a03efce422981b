"""Thoughts in training: which of them may be dropped, and a warning when most of them are cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from metarlgym.datatypes import ConfigError
from metarlgym.rollout.play_settings import PlaySettings
from metarlgym.rollout.thinking import cut_warning
from metarlgym.tasks import TaskGroup


def check_kept(play: PlaySettings, group: TaskGroup) -> None:
    """Refuse to drop thoughts within an episode, because the tokens before an action would not be those of its row.

    Raises:
        ConfigError: `keep_thoughts` is `none` and episodes have several turns.
    """
    turns = group.env.max_turns
    if play.trial.keep_thoughts == "none" and turns != 1 and play.limits.episode_turns != 1:
        many = "any number of" if turns is None else turns
        raise ConfigError(
            f"keep_thoughts='none' with {group.env_id}, whose episodes have {many} turns: in training it is for "
            "episodes of one turn, since each turn would need a training row of its own; use 'episode'."
        )


class ThoughtAlarm(TrainerCallback):
    """Warns once when more than half of the actions end with a cut thought.

    Args:
        notify: called with the warning.
    """

    def __init__(self, notify: Callable[[str], None]) -> None:
        self.notify = notify
        self.warned = False

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if self.warned or not state.is_world_process_zero or not logs or "thought_rate" not in logs:
            return
        warning = cut_warning(logs["thought_rate"] * logs["thought_cut_rate"])
        if warning is not None:
            self.warned = True
            self.notify(warning)
