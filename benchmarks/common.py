"""Shared parts of the benchmark scripts: interleaved timing, and a dated result file with checks of the bounds.

The variants of a comparison run in turn (A B A B ...), so that a change of the machine's load affects all of them.
Figures are medians over repetitions, and ratios are medians of the ratios within each repetition.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple, TypeVar

HERE = Path(__file__).resolve().parent
PACKAGES = ("numpy", "gymnasium", "torch", "transformers", "trl", "accelerate")


@dataclass
class Figure:
    """One measured value, with its bound if it has one."""

    name: str
    value: float
    unit: str = ""
    spread: tuple[float, float] | None = None
    """Minimum and maximum over the repetitions."""
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def bound(self) -> str:
        if self.at_least is not None:
            return f">= {number(self.at_least)}"
        return f"<= {number(self.at_most)}" if self.at_most is not None else ""

    @property
    def passed(self) -> bool | None:
        """Whether the bound is met; None if there is no bound."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return self.value <= self.at_most if self.at_most is not None else None


@dataclass
class Report:
    """The figures of one benchmark; `finish` prints them and writes `results/<name>.md`.

    Args:
        name: name of the script and of the result file.
        claim: the claim, in one paragraph.
        method: how it was measured, in one paragraph.
        quick: smoke test: no file is written, and missed bounds do not count as failures.
    """

    name: str
    claim: str
    method: str
    quick: bool = False
    figures: list[Figure] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    load_before: tuple[float, float, float] = field(default_factory=os.getloadavg)
    started: float = field(default_factory=time.monotonic)

    def add(self, name: str, value: float | Iterable[float], unit: str = "", **kwargs: object) -> float:
        """Add a value, or the median of several; returns it."""
        if isinstance(value, int | float):
            figure = Figure(name, float(value), unit, **kwargs)  # type: ignore[arg-type]
        else:
            values = list(value)
            figure = Figure(name, statistics.median(values), unit, (min(values), max(values)), **kwargs)  # type: ignore[arg-type]
        self.figures.append(figure)
        shown = f"  {figure.name}: {number(figure.value)} {figure.unit}"
        print(shown + (f"  ({figure.bound})" if figure.bound else ""), flush=True)
        return figure.value

    def finish(self) -> int:
        """Print and write the report; returns the exit status: 1 if a full run missed a bound."""
        missed = [figure.name for figure in self.figures if figure.passed is False]
        text = self.render()
        print(text)
        if self.quick:
            return 0
        path = HERE / "results" / f"{self.name}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        print(f"written to {path}" + (f"; MISSED: {', '.join(missed)}" if missed else ""))
        return int(bool(missed))

    def render(self) -> str:
        load = "{:.2f} {:.2f} {:.2f}".format
        lines = [
            f"# {self.name}",
            "",
            self.claim,
            "",
            f"How: {self.method}",
            "",
            "| figure | median | min .. max | bound | |",
            "|---|---|---|---|---|",
        ]
        for figure in self.figures:
            spread = f"{number(figure.spread[0])} .. {number(figure.spread[1])}" if figure.spread else ""
            verdict = {True: "pass", False: "**MISSED**", None: ""}[figure.passed]
            name = figure.name + (f" ({figure.note})" if figure.note else "")
            lines.append(f"| {name} | {number(figure.value)} {figure.unit} | {spread} | {figure.bound} | {verdict} |")
        lines += ["", *(f"- {remark}" for remark in self.remarks)] if self.remarks else []
        lines += [
            "",
            f"- Date: {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, {time.monotonic() - self.started:.0f} s",
            f"- Hardware: {cpu_model()}, {os.cpu_count()} core(s); load before {load(*self.load_before)}, "
            f"after {load(*os.getloadavg())} (this script included)",
            f"- Versions: python {platform.python_version()}, {', '.join(versions())}",
            f"- Commit: {commit()}",
            "",
        ]
        return "\n".join(lines)


class Seconds(NamedTuple):
    """Elapsed wall time, and CPU time of all threads of this process."""

    wall: float
    cpu: float

    def __add__(self, other: Seconds) -> Seconds:  # type: ignore[override]
        return Seconds(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall - other.wall, self.cpu - other.cpu)


def now() -> Seconds:
    return Seconds(time.perf_counter(), time.process_time())


class Clock:
    """Times its `with` block into `seconds`."""

    seconds: Seconds

    def __enter__(self) -> Clock:
        self._start = now()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = now() - self._start


Measurement = TypeVar("Measurement")


def interleave(variants: dict[str, Callable[[], Measurement]], repetitions: int) -> dict[str, list[Measurement]]:
    """Run the variants in turn, `repetitions` times; each returns its own measurement, such as `Seconds`."""
    results: dict[str, list[Measurement]] = {name: [] for name in variants}
    for _ in range(repetitions):
        for name, variant in variants.items():
            gc.collect()
            results[name].append(variant())
    return results


def ratios(slow: list[float], fast: list[float]) -> list[float]:
    """Ratio of the first time to the second, by repetition."""
    return [a / b for a, b in zip(slow, fast, strict=True)]


def number(value: float | None) -> str:
    """Format a number with its significant digits."""
    if value is None:
        return ""
    if value and abs(value) < 0.01:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions() -> list[str]:
    from metarlgym import __version__

    found = [f"metarlgym {__version__}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The current commit, marked if the package has uncommitted changes."""

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=False)
        return run.stdout.strip()

    changed = git("status", "--porcelain", "--", "../metarlgym", "../configs", "*.py")
    return (git("rev-parse", "--short=10", "HEAD") or "unknown") + (" with uncommitted changes" if changed else "")


def arguments(doc: str | None) -> argparse.Namespace:
    """Parse the command line shared by all benchmarks."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="smoke test: small sizes, no file, bounds not enforced")
    return parser.parse_args()


def run(main: Callable[[bool], int], doc: str | None) -> None:
    """Entry point of a script."""
    sys.exit(main(arguments(doc).quick))
