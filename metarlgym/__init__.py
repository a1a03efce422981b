"""MetaRLGym: multi-episode trials on hidden tasks for language models, exact optima, and GRPO on TRL as the outer loop.

Importing it loads neither torch nor transformers.
"""

from metarlgym import envs as _envs  # registers the task groups
from metarlgym.contracts.check_env import check_env
from metarlgym.datatypes import (
    ConfigError,
    Episode,
    EpisodeOver,
    MetaRLGymError,
    MetaTrajectory,
    Optimum,
    Step,
    StopReason,
    Task,
    Turn,
)
from metarlgym.env import Env
from metarlgym.memory import FullHistory, LastK, Memory, NoMemory, Shuffled, make_memory, register_memory
from metarlgym.parsing import parse_action
from metarlgym.registry import announce_plugins as _announce_plugins
from metarlgym.registry import list_envs, make, register
from metarlgym.tasks import TaskGroup
from metarlgym.trial import Trial, TrialSettings
from metarlgym.version import __version__

__all__ = [
    "ConfigError",
    "Env",
    "Episode",
    "EpisodeOver",
    "FullHistory",
    "LastK",
    "Memory",
    "MetaRLGymError",
    "MetaTrajectory",
    "NoMemory",
    "Optimum",
    "Shuffled",
    "Step",
    "StopReason",
    "Task",
    "TaskGroup",
    "Trial",
    "TrialSettings",
    "Turn",
    "__version__",
    "check_env",
    "list_envs",
    "make",
    "make_memory",
    "parse_action",
    "register",
    "register_memory",
]

_announce_plugins()
del _announce_plugins, _envs
