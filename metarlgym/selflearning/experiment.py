"""What an experiment of this package is made of: arms that run by themselves, and what is made of their results.

A plan is a module with

- `Config`: a data class of settings, checked in `__post_init__`;
- `arms(config)`: names of the runs that it consists of, such as `live-0` (critic, seed);
- `run_arm(config, arm, log)`: one of them; returns its results as JSON values;
- `summarise(config, results)`: `summary.json`, from the results of all arms by name;
- `pictures(config, results)`: what the report page shows.

Arms are independent, so that they can share out the cores, and those that are done are not repeated after a kill.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from matplotlib.figure import Figure


class Log(Protocol):
    """Takes what an arm measures on its way."""

    def __call__(self, step: int, total: int, **values: Any) -> None:
        """A line of `arms/NAME.jsonl`, and progress.

        Args:
            step: steps done.
            total: steps of the arm.
            values: JSON values.
        """


@dataclass
class Picture:
    """One picture of a report page."""

    title: str
    text: str
    """What it shows and how to read it; one paragraph."""
    figure: Figure


class Plan(Protocol):
    """The functions of a plan's module."""

    Config: type[Any]

    def arms(self, config: Any) -> list[str]: ...

    def run_arm(self, config: Any, arm: str, log: Log) -> dict[str, Any]: ...

    def summarise(self, config: Any, results: dict[str, dict[str, Any]]) -> dict[str, Any]: ...

    def pictures(self, config: Any, results: dict[str, dict[str, Any]]) -> list[Picture]: ...
