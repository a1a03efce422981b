"""What an experiment of this package is made of: variants that run by themselves, and what is made of their results.

An experiment is a module with

- `Config`: a data class of settings, checked in `__post_init__`;
- `variants(config)`: names of the runs that it consists of, such as `live-0` (critic, seed);
- `run_variant(config, variant, log)`: one of them; returns its results as JSON values;
- `summarise(config, results)`: `summary.json`, from the results of all variants by name;
- `pictures(config, results)`: what the report page shows.

Variants are independent, so that they can share out the cores, and those that are done are not repeated after a kill.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from matplotlib.figure import Figure


class Log(Protocol):
    """Takes what a variant measures on its way."""

    def __call__(self, step: int, total: int, **values: Any) -> None:
        """A line of `variants/NAME.jsonl`, and progress.

        Args:
            step: steps done.
            total: steps of the variant.
            values: JSON values.
        """


@dataclass
class Picture:
    """One picture of a report page."""

    title: str
    text: str
    """What it shows and how to read it; one paragraph."""
    figure: Figure


class Experiment(Protocol):
    """The functions of an experiment's module."""

    Config: type[Any]

    def variants(self, config: Any) -> list[str]: ...

    def run_variant(self, config: Any, variant: str, log: Log) -> dict[str, Any]: ...

    def summarise(self, config: Any, results: dict[str, dict[str, Any]]) -> dict[str, Any]: ...

    def pictures(self, config: Any, results: dict[str, dict[str, Any]]) -> list[Picture]: ...
