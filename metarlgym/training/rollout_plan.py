"""What a trainer's rollouts play, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from metarlgym.datatypes import MetaTrajectory
from metarlgym.rollout.meter import Meter


@dataclass(frozen=True)
class RolloutPlan:
    """A rollout to play: which tasks, and when it is trained on."""

    index: int
    """Number of the rollout since this process began."""
    step: int
    """Optimizer step that trains on it first; schedules and seeds are those of this step."""
    number: int
    """Number of the rollout within this step."""
    tasks: tuple[int, ...]
    """Index of the task of each of this process's trials."""


@dataclass
class PlayedRollout:
    """The outcome of a plan: the trials, or why there are none."""

    plan: RolloutPlan
    meter: Meter
    trajectories: list[MetaTrajectory]
    failure: Exception | None = None
    counts: Any = None
    """What the backend counted meanwhile."""
