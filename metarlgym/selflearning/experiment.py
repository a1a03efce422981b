"""The interface of an experiment: independent variants, and the evaluation of their results.

An experiment is a module with

- `Config`: a dataclass of settings, validated in `__post_init__`;
- `variants(config)`: names of its runs, such as `live-0` (critic, seed);
- `run_variant(config, variant, log)`: runs one of them; returns its results as JSON values;
- `summarize(config, results)`: the contents of `summary.json`, from the results of all variants by name;
- `pictures(config, results)`: the figures of the report page.

Variants are independent, so that they can run in parallel and finished ones need not be repeated after a crash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from matplotlib.figure import Figure


class Log(Protocol):
    """Callback for the measurements of a running variant."""

    def __call__(self, step: int, total: int, **values: Any) -> None:
        """Write a line of `variants/NAME.jsonl`, and update the progress.

        Args:
            step: steps done so far.
            total: total steps of the variant.
            values: JSON values.
        """


@dataclass
class Picture:
    """One figure of a report page."""

    title: str
    text: str
    """Caption: what it shows and how to read it; one paragraph."""
    figure: Figure


class Experiment(Protocol):
    """Functions that an experiment's module must define."""

    Config: type[Any]

    def variants(self, config: Any) -> list[str]: ...

    def run_variant(self, config: Any, variant: str, log: Log) -> dict[str, Any]: ...

    def summarize(self, config: Any, results: dict[str, dict[str, Any]]) -> dict[str, Any]: ...

    def pictures(self, config: Any, results: dict[str, dict[str, Any]]) -> list[Picture]: ...
