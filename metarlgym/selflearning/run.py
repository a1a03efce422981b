"""run_selflearning: all arms of a plan, from settings to `summary.json` and a report page.

Arms are independent: they share out the cores, and one that is done is kept. So a run that was killed goes on with the
arms that are left.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from metarlgym import __version__
from metarlgym.datatypes import ConfigError, MetaRLGymError
from metarlgym.evaluation.model_eval import write_json
from metarlgym.selflearning.plan import Plan
from metarlgym.selflearning.report import remove_pictures, write_report
from metarlgym.training.bounds import check_values
from metarlgym.training.flat import plain, read_flat, said_in

PLANS = {"1": "plan1", "2": "plan2", "3": "plan3"}


@dataclass
class SelfLearnRun:
    """What to do with the run."""

    plan: str = field(
        default="", metadata={"help": "1: self-produced targets, 2: gist tokens, 3: learned losses of second order."}
    )
    output_dir: str = field(default="", metadata={"help": "Where results go; default runs/NAME."})
    workers: int = field(default=2, metadata={"help": "Arms that run at the same time, one thread each."})
    only: list[str] = field(default_factory=list, metadata={"help": "Run these arms alone."})
    resume: bool = field(default=False, metadata={"help": "Keep the arms that are done in output_dir."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the run that output_dir holds."})

    def __post_init__(self) -> None:
        self.plan = str(self.plan)
        if self.plan not in PLANS:
            raise ConfigError(f"plan={self.plan!r} is not known: use one of {', '.join(PLANS)}.")
        check_values(self)


@dataclass
class SelfLearnSettings:
    """All settings of a run, resolved."""

    run: SelfLearnRun
    config: Any

    def resolved(self) -> dict[str, Any]:
        """A file of them starts the same run again."""
        once = ("resume", "overwrite", "only")
        both = {**dataclasses.asdict(self.run), **dataclasses.asdict(self.config)}
        return {name: plain(value) for name, value in both.items() if name not in once}


def find_plan(number: str) -> Plan:
    """The module of a plan."""
    return import_module(f"metarlgym.selflearning.{PLANS[number]}")  # type: ignore[return-value]


def parse(arguments: Sequence[str]) -> SelfLearnSettings:
    """Read `--config FILE` and overrides.

    Raises:
        ConfigError: a name or a value that does not fit.
    """
    number = str(said_in(arguments, "plan", "selflearn") or "")
    if number not in PLANS:
        raise ConfigError(f"plan={number!r} is not known: use one of {', '.join(PLANS)}, or a config such as plan1.")
    (run, config), _ = read_flat(arguments, (SelfLearnRun, find_plan(number).Config), "selflearn")
    return SelfLearnSettings(run, config)


def run_selflearning(settings: SelfLearnSettings, console: Console | None = None) -> dict[str, Any]:
    """Run the arms that are not done and report; returns the summary.

    Everything goes to `output_dir`: `config.yaml`, `arms/NAME.json` and `.jsonl`, `summary.json`, `report.html` and its
    pictures.

    Raises:
        MetaRLGymError: an arm failed; those that are done are kept.
    """
    console = console or Console()
    run, config = settings.run, settings.config
    plan = find_plan(run.plan)
    every = plan.arms(config)
    twice = [name for name in every if every.count(name) > 1]
    if twice:
        raise ConfigError(f"arm {twice[0]} comes twice: give every seed, critic and the like once.")
    unknown = [name for name in run.only if name not in every]
    if unknown:
        raise ConfigError(f"only={unknown[0]!r} is no arm: use some of {', '.join(every)}.")
    names = [name for name in every if not run.only or name in run.only]
    if not run.output_dir:
        raise ConfigError("output_dir='' is empty: say where results go.")
    folder = Path(run.output_dir)
    _claim(settings, folder)
    (folder / "arms").mkdir(parents=True, exist_ok=True)
    done = {name: _result(folder, name) for name in names if _result_path(folder, name).exists()}
    console.print(
        f"plan {run.plan}: {len(names)} arms"
        + (f", {len(done)} of them done" if done else "")
        + f"; results in {folder}",
        highlight=False,
    )
    start = time.monotonic()
    _run_all(settings, [name for name in names if name not in done], len(names), folder, console)
    # All that is there, of earlier runs of this config too: `only` adds to them.
    results = {name: _result(folder, name) for name in every if _result_path(folder, name).exists()}
    summary = {
        "plan": run.plan,
        **plan.summarise(config, results),
        "arm_seconds": {name: result["seconds"] for name, result in results.items()},
        "config": {name: plain(value) for name, value in dataclasses.asdict(config).items()},
        "version": __version__,
    }
    write_json(summary, folder / "summary.json")
    write_report(folder, f"Self-learning, plan {run.plan}", summary, plan.pictures(config, results))
    console.print(
        f"written after {time.monotonic() - start:.0f} s: {folder}/summary.json, report.html", highlight=False
    )
    return summary


def _run_all(settings: SelfLearnSettings, names: list[str], total: int, folder: Path, console: Console) -> None:
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    if not names:
        return
    workers = min(settings.run.workers, len(names))
    # Fresh processes: what torch, matplotlib and the console hold in this one is not for sharing.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        with bar:
            task = bar.add_task("arms", total=total, completed=total - len(names))
            waiting: dict[Future[None], str] = {
                pool.submit(_run_one, settings.run.plan, settings.config, name, str(folder)): name for name in names
            }
            left = set(waiting)
            while left:
                finished, left = wait(left, timeout=1.0, return_when="FIRST_COMPLETED")
                for future in finished:
                    name = waiting[future]
                    error = future.exception()
                    if isinstance(error, BrokenProcessPool):
                        raise MetaRLGymError(f"arm {name}: its process was ended; --resume goes on with what is left.")
                    if isinstance(error, MetaRLGymError):
                        raise type(error)(f"arm {name}: {error}") from error
                    if error is not None:
                        error.add_note(f"in arm {name}; those that are done are kept, --resume goes on with the others")
                        raise error
                    bar.update(task, advance=1)
                    if not console.is_terminal:
                        console.print(f"{name}: done in {_result(folder, name)['seconds']:.0f} s", highlight=False)
                running = ", ".join(_progress(folder, waiting[f]) for f in left if f.running())
                bar.update(task, description=f"arms [dim]{running}[/]" if running else "arms")
    finally:
        processes = list((pool._processes or {}).values())  # shutdown forgets them
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()


def _run_one(number: str, config: Any, name: str, folder: str) -> None:
    """In a process of its own."""
    import torch

    torch.set_num_threads(1)
    place = Path(folder) / "arms" / f"{name}.jsonl"
    start = time.monotonic()
    with place.open("w") as file:

        def log(step: int, total: int, **values: Any) -> None:
            seconds = round(time.monotonic() - start, 2)
            file.write(json.dumps({"step": step, "of": total, "seconds": seconds, **values}) + "\n")
            file.flush()

        result = find_plan(number).run_arm(config, name, log)
    # Written whole or not at all: what exists is done.
    path = _result_path(Path(folder), name)
    path.with_suffix(".part").write_text(json.dumps({**result, "seconds": round(time.monotonic() - start, 1)}))
    path.with_suffix(".part").replace(path)


def _progress(folder: Path, name: str) -> str:
    path = folder / "arms" / f"{name}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    try:
        last = json.loads(lines[-1])
        return f"{name} {last['step']}/{last['of']}"
    except (IndexError, ValueError, TypeError, KeyError):
        # No line yet, or one that is being written: the next look will see it, and the run must not end for it.
        return name


def _result_path(folder: Path, name: str) -> Path:
    return folder / "arms" / f"{name}.json"


def _result(folder: Path, name: str) -> dict[str, Any]:
    return json.loads(_result_path(folder, name).read_text())


def _remove(folder: Path) -> None:
    """What an earlier run left in the folder, and nothing else.

    Raises:
        ConfigError: the folder holds something else.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / "config.yaml").exists() or not (folder / "arms").is_dir():
        raise ConfigError(f"output_dir={str(folder)!r} holds no run of selflearn to overwrite: give another one.")
    shutil.rmtree(folder / "arms")
    for name in ("config.yaml", "summary.json", "report.html"):
        (folder / name).unlink(missing_ok=True)
    remove_pictures(folder)


def _claim(settings: SelfLearnSettings, folder: Path) -> None:
    """Make the run folder ours.

    Raises:
        ConfigError: it holds another run, or one with other settings.
    """
    path = folder / "config.yaml"
    loose = ("workers", "output_dir")
    wanted = settings.resolved()
    if settings.run.resume and settings.run.overwrite:
        raise ConfigError("resume and overwrite exclude each other: keep the arms that are done, or replace them.")
    if path.exists() and not settings.run.overwrite:
        held = yaml.safe_load(path.read_text())
        if not settings.run.resume:
            raise ConfigError(
                f"output_dir={str(folder)!r} holds another run: give another --output_dir, go on with it by --resume, "
                "or replace it by --overwrite."
            )
        for name, value in wanted.items():
            if name not in loose and held.get(name) != value:
                raise ConfigError(
                    f"{name}={value!r} was {held.get(name)!r} in {folder}: resume with the same settings, or give "
                    "another --output_dir."
                )
    elif settings.run.overwrite:
        _remove(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True))
