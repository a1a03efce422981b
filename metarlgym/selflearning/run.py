"""run_selflearning: runs all variants of an experiment, from settings to `summary.json` and a report page.

Variants are independent: they run in parallel and finished ones are kept, so a killed run resumes with the remaining
variants.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from metarlgym.datatypes import ConfigError
from metarlgym.files import expand, write_json
from metarlgym.runtime.before_claim import inputs_of, mode_of
from metarlgym.runtime.interrupt import Interrupted, status_of
from metarlgym.runtime.open_run import closing_folder, go_on
from metarlgym.runtime.resume_check import check_same, held_settings
from metarlgym.runtime.run_folder import RunFolder
from metarlgym.selflearning.experiment import Experiment
from metarlgym.selflearning.html_report import write_report
from metarlgym.selflearning.results import result_of, result_path, results
from metarlgym.selflearning.workers import in_turn, side_by_side
from metarlgym.settings.flat import plain, read_flat, said_in
from metarlgym.settings.ranges import check_values
from metarlgym.version import __version__

EXPERIMENTS = {
    "self_critic": "learn from the scores or targets of one's own critic",
    "gist_tokens": "learn gist tokens, then in the space of their states",
    "learned_loss": "learn a loss by second-order gradients",
}
"""Descriptions of the experiments by name; the name is also that of the subpackage and of the config."""


@dataclass
class SelfLearnRun:
    """Options of the run that are not settings of the experiment."""

    experiment: str = field(
        default="", metadata={"help": "; ".join(f"{name}: {text}" for name, text in EXPERIMENTS.items()) + "."}
    )
    output_dir: str = field(default="", metadata={"help": "Folder for results; default runs/NAME."})
    workers: int = field(default=2, metadata={"help": "Number of variants to run in parallel, one thread each."})
    only: list[str] = field(default_factory=list, metadata={"help": "Run only these variants."})
    resume: bool = field(default=False, metadata={"help": "Resume the run in output_dir; finished variants are kept."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the run in output_dir."})

    def __post_init__(self) -> None:
        check_values(self)
        _check_experiment(self.experiment)


@dataclass
class SelfLearnSettings:
    """All settings of a run, resolved."""

    run: SelfLearnRun
    config: Any
    arguments: list[str] = field(default_factory=list)
    """The command line as given."""

    def resolved(self) -> dict[str, Any]:
        """All settings; a file with them reproduces the run."""
        once = ("resume", "overwrite", "only")
        both = {**dataclasses.asdict(self.run), **dataclasses.asdict(self.config)}
        return {name: plain(value) for name, value in both.items() if name not in once}


def find_experiment(name: str) -> Experiment:
    """Import the module of an experiment."""
    return import_module(f"metarlgym.selflearning.{name}.experiment")  # type: ignore[return-value]


def _check_experiment(name: Any) -> None:
    if not isinstance(name, str) or name not in EXPERIMENTS:
        raise ConfigError(f"experiment={name!r} is not known: use one of {', '.join(EXPERIMENTS)}, or --config NAME.")


def parse(arguments: Sequence[str]) -> SelfLearnSettings:
    """Read `--config FILE` and overrides.

    Raises:
        ConfigError: an unknown name or an invalid value.
    """
    if (number := said_in(arguments, "plan", "selflearn")) is not None:
        raise ConfigError(f"plan={number} is no longer a setting: give experiment={'|'.join(EXPERIMENTS)} instead.")
    name = said_in(arguments, "experiment", "selflearn") or ""
    _check_experiment(name)
    (run, config), _ = read_flat(arguments, (SelfLearnRun, find_experiment(name).Config), "selflearn")
    return SelfLearnSettings(run, config, list(arguments))


def run_selflearning(settings: SelfLearnSettings, console: Console | None = None) -> dict[str, Any]:
    """Run the unfinished variants and write the report; returns the summary.

    Everything is written to `output_dir`: `config.yaml`, `variants/NAME.json` and `.jsonl`, `summary.json`,
    `report.html` and its figures.

    Raises:
        MetaRLGymError: a variant failed; finished variants are kept.
    """
    console = console or Console()
    run, config = settings.run, settings.config
    experiment = find_experiment(run.experiment)
    every = experiment.variants(config)
    twice = [name for name in every if every.count(name) > 1]
    if twice:
        raise ConfigError(f"variant {twice[0]} comes twice: give every seed, critic and the like once.")
    unknown = [name for name in run.only if name not in every]
    if unknown:
        raise ConfigError(f"only={unknown[0]!r} is not a variant: use some of {', '.join(every)}.")
    names = [name for name in every if not run.only or name in run.only]
    if not run.output_dir:
        raise ConfigError("output_dir='' is empty: say where results go.")
    path = Path(expand(run.output_dir))
    inputs = inputs_of(settings.arguments, "selflearn")
    folder = RunFolder.claim(path, "selflearn", mode_of(run.resume, run.overwrite), inputs)

    def stopped(by: type[BaseException]) -> Interrupted:
        done = len(results(path, names)[0])
        saved = f"{done} of {len(names)} variants are done and kept; resume with: " if folder.committed else ""
        again = go_on("selflearn", settings.arguments) if saved else f"{path} is left as it was."
        return Interrupted(saved + again, status_of(by))

    with closing_folder(lambda: folder, stopped):
        return _run(settings, experiment, every, names, folder, console)


def _run(
    settings: SelfLearnSettings,
    experiment: Experiment,
    every: list[str],
    names: list[str],
    claimed: RunFolder,
    console: Console,
) -> dict[str, Any]:
    """Execute the run in its claimed folder; returns the same as `run_selflearning`."""
    run, config, folder = settings.run, settings.config, claimed.path
    if claimed.resumed:
        _check(settings, folder)
    text = yaml.safe_dump(settings.resolved(), sort_keys=False, allow_unicode=True)
    (folder / "variants").mkdir(parents=True, exist_ok=True)
    found, damaged = results(folder, every)
    for name in damaged:
        what = "runs again" if name in names else "is left out of the summary; it runs again without --only"
        console.print(f"{result_path(folder, name)} is damaged: this variant {what}", highlight=False, soft_wrap=True)
    done = {name for name in names if name in found}
    console.print(
        f"experiment {run.experiment}: {len(names)} variants"
        + (f", {len(done)} of them done" if done else "")
        + f"; results in {folder}",
        highlight=False,
    )
    start = time.monotonic()
    for name in _run_all(settings, [name for name in names if name not in done], len(names), folder, console):
        if name not in done and not claimed.committed:
            claimed.commit({"config.yaml": text})
        claimed.check()
    claimed.commit({"config.yaml": text})
    # Include results of earlier runs of this config: `only` adds to them.
    finished, _ = results(folder, every)
    summary = {
        "experiment": run.experiment,
        **experiment.summarize(config, finished),
        "variant_seconds": {name: result["seconds"] for name, result in finished.items()},
        "config": {name: plain(value) for name, value in dataclasses.asdict(config).items()},
        "version": __version__,
    }
    write_json(summary, folder / "summary.json")
    write_report(folder, f"Self-learning, experiment {run.experiment}", summary, experiment.pictures(config, finished))
    console.print(
        f"written after {time.monotonic() - start:.0f} s: {folder}/summary.json, report.html", highlight=False
    )
    return summary


def _run_all(
    settings: SelfLearnSettings, names: list[str], total: int, folder: Path, console: Console
) -> Iterator[str]:
    """Run variants with a progress bar; yields the name of each finished variant."""
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    if not names:
        return
    experiment, config = find_experiment(settings.run.experiment), settings.config
    workers = min(settings.run.workers, len(names))
    with bar:
        task = bar.add_task("variants", total=total, completed=total - len(names))

        def notify(running: str) -> None:
            bar.update(task, description=f"variants [dim]{running}[/]" if running else "variants")

        if workers == 1:
            done = in_turn(experiment, config, names, folder, notify)
        else:
            done = side_by_side(experiment, config, names, folder, notify, workers)
        with closing(done):  # also ends the processes on an error here
            for name in done:
                bar.update(task, advance=1)
                yield name
                if not console.is_terminal:
                    console.print(f"{name}: done in {result_of(folder, name)['seconds']:.0f} s", highlight=False)


def _check(settings: SelfLearnSettings, folder: Path) -> None:
    """Reject adding variants of a different config.

    Raises:
        ConfigError: names the setting that differs.
    """
    if "plan" in held_settings(folder):
        raise ConfigError(f"{folder} holds a run of an earlier version (plan): give another --output_dir.")
    free = ("workers", "only", "output_dir")
    check_same(folder, settings.resolved(), free, re.compile("|".join(free)))
