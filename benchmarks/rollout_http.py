"""Claim: over HTTP, rollouts reach at least 95% of the ideal speed at 256 concurrent requests, using at most 0.5 ms of
client CPU time per call.

The same trials and seeded lognormal latencies as in `rollout_latency`, but behind a server (`latency_server`) in its
own process that answers like vLLM. It accepts any number of concurrent requests, so the ideal time is known: the
longest trial's sum of latencies if all trials run concurrently, otherwise the time of list scheduling (each free slot
takes the next trial immediately). The variants are in `http_variants`; each runs in its own process after a warm-up of
one trial.

Two of them need packages that are not dependencies of this project, and are skipped without them:

    uv pip install "openai>=3.54"
    uv venv ../verifiers && uv pip install --python ../verifiers/bin/python verifiers aiohttp orjson gymnasium
    python benchmarks/rollout_http.py --verifiers-python ../verifiers/bin/python
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from common import HERE, Report, number
from latency_server import Answers, running, utterances
from rollout_latency import EPISODES, GUESSES, latencies, list_schedule

from metarlgym import Task, Trial, make
from metarlgym.rollout.manager import TrialSpec
from metarlgym.seeding import derive

TURNS = EPISODES * GUESSES
SEQUENTIAL, PROGRAMS = 8, 4
"""Number of trials for the slowest variants."""
REMARKS = (
    "`ours` is RolloutManager, VLLMServerPolicy and ServerPool. Efficiency is the ideal time over the actual one. The "
    "ideal is list scheduling of whole trials, but max(sum of latencies / places, longest trial) for `lock-step` and "
    "for `the limit on requests`. CPU is user and system time of the client's process and its children; peak memory "
    "includes torch, which the tokenizer's module imports (not for verifiers, and not for aiohttp alone).",
    "With few requests at once a call takes more processor time because the process sleeps and wakes for each, as the "
    "loop without HTTP shows; the bounds are for 256 at once and more. 1,024 at once ask for 5,000 answers a second at "
    "first, more than client and server can do on these cores, hence the efficiency there.",
    "`openai client`: token ids as the prompt, as documented. `tuned`: its aiohttp transport without a limit on "
    "connections, and the ids past its recursion over every one of them (`extra_body`).",
    "`verifiers`: an Agent's interaction for each trial, the environment as its user, text instead of token ids, other "
    "latencies and their own ideal. Its own harness `null` starts a program for every turn, hence the few trials.",
    "TRL's `environment_factory` cannot express the case: `GRPOTrainer._tool_call_loop` goes on with a row only where "
    "the model's answer parses into tool calls, so a turn of plain text ends the row; and each round hands all rows "
    "together to `_generate_single_turn`, so its schedule is that of the lock-step variant. The worker of the "
    "experimental AsyncGRPOTrainer lets rows drift apart, but ends a row in the same way.",
)


@dataclass(frozen=True)
class Case:
    """The trials to play, and the server."""

    url: str = ""
    trials: int = 256
    concurrency: int = 256
    repetition: int = 0
    """Seed of the latencies."""
    mean: float = 0.2
    guesses: tuple[int, int] = (1, 10)
    """Range of the policy's guesses; up to 10 it never wins, so that all trials are equally long."""

    @property
    def specs(self) -> list[TrialSpec]:
        return [
            TrialSpec(make_trial, Task("GuessNumber-v0", {"number": 11 + i % 10}), i, ("http", self.repetition, i))
            for i in range(self.trials)
        ]

    @property
    def answers(self) -> Answers:
        return Answers(utterances(*self.guesses), self.mean)


def make_trial() -> Trial:
    return make("GuessNumber-v0", guesses=GUESSES, episodes=EPISODES)  # type: ignore[return-value]


def system_text(case: Case, index: int) -> str:
    """System message that identifies the trial; the server derives latencies from it for clients without seeds."""
    return f"{make_trial().rules()} This is trial {index} of set {case.repetition}."


def chat_sums(case: Case, answers: Answers) -> list[float]:
    """Sum of each trial's latencies, for chat clients."""

    def row(index: int) -> list[float]:
        return [answers.latency(derive("chat", system_text(case, index), 2 + 2 * turn)) for turn in range(TURNS)]

    return [sum(row(index)) for index in range(case.trials)]


def seeded_sums(case: Case, answers: Answers) -> list[float]:
    """Sum of each trial's latencies, for clients that send seeds."""
    return [sum(row) for row in latencies(answers.delayed, case.specs)]


class Run(NamedTuple):
    """One measurement, and its efficiency relative to the ideal time."""

    wall: float
    efficiency: float
    cpu_ms: float
    peak_mib: float
    late_ms: float
    """99th percentile of the delay of the server's answers."""


@dataclass
class HttpReport(Report):
    """A report with a table of all variants; `figures` are the claims."""

    runs: dict[tuple[str, str], list[Run]] = field(default_factory=lambda: defaultdict(list))
    server: list[dict[str, float]] = field(default_factory=list)

    def values(self, case: str, variant: str, name: str) -> list[float]:
        return [getattr(run, name) for run in self.runs[case, variant]]

    def render(self) -> str:
        names = (
            "case",
            "variant",
            "runs",
            "wall, s",
            "efficiency",
            "CPU, ms/call",
            "peak MiB",
            "server late (p99), ms",
        )
        lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
        for (case, variant), runs in self.runs.items():
            medians = [number(statistics.median(values)) for values in zip(*runs, strict=True)]
            lines.append("| " + " | ".join([case, variant, str(len(runs)), *medians]).replace("nan", "-") + " |")
        head, mark, tail = super().render().partition("\n| figure |")
        return "\n".join([head, *lines, mark + tail])


@dataclass
class Bench:
    """Runs variants against one server and keeps their measurements."""

    report: HttpReport
    url: str
    answers: Answers
    verifiers_python: str | None

    def play(self, label: str, variant: str, title: str, case: Case, ideal: Callable[[list[float]], float]) -> Run:
        """Run a variant once; `ideal` computes the lowest possible time from the trials' sums of latencies."""
        chats = variant.startswith("verifiers")
        python = (self.verifiers_python if chats else None) or sys.executable
        command = [python, str(HERE / "http_variants.py"), variant, json.dumps(asdict(case) | {"url": self.url})]
        # Make this package importable in the interpreter for `verifiers`, where it is not installed.
        env = {**os.environ, "PYTHONPATH": str(HERE.parent)}
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        if done.returncode:
            raise RuntimeError(f"variant {variant} failed:\n{done.stderr[-3000:]}")
        measured = json.loads(done.stdout.splitlines()[-1])
        stats = self.stats()
        assert measured["calls"] == case.trials * TURNS, f"{variant} played {measured['calls']} calls"
        if variant != "loop":
            assert stats["calls"] == measured["calls"] + TURNS, f"{variant} sent {stats['calls']} requests"
        sums = (chat_sums if chats else seeded_sums)(case, self.answers)
        wall, cpu = measured["wall"], measured["cpu"] / measured["calls"] * 1e3
        efficiency = math.nan if variant == "bare" else ideal(sums) / wall  # the bare client uses other seeds
        run = Run(wall, efficiency, cpu, measured["peak_mib"], stats["late_p99_ms"])
        self.report.runs[label, title].append(run)
        if variant == "ours":
            self.report.server.append(stats)
        print(f"  {label}: {title}: {wall:.2f} s, efficiency {efficiency:.3f}, {cpu:.3f} ms/call", flush=True)
        return run

    def stats(self) -> dict[str, float]:
        with urllib.request.urlopen(self.url + "/stats") as answer:
            return json.loads(answer.read())


def measure(bench: Bench, mean: float, trials: int, concurrency: int, repetitions: int) -> None:
    """Measure all variants at one limit, those of the claims in turn."""
    report, count = bench.report, max(trials, concurrency)
    limited = concurrency < count
    label = f"{count} trials, " + (f"{concurrency} at once" if limited else "all at once")

    def case(repetition: int) -> Case:
        return Case("", count, concurrency, repetition, mean)

    def listed(sums: list[float]) -> float:
        return list_schedule(sums, concurrency)

    def bound(sums: list[float]) -> float:
        return max(sum(sums) / concurrency, max(sums))

    for repetition in range(repetitions):
        bench.play(label, "ours", "ours", case(repetition), listed)
        if limited:
            bench.play(label, "pooled", "ours, all trials alive, the limit on requests", case(repetition), bound)
        bench.play(label, "loop", "our loop alone, no HTTP", case(repetition), listed)
        if not limited:
            bench.play(label, "bare", "aiohttp alone, nothing played", case(repetition), listed)
    bench.play(label, "lock_step", "lock-step, our client", case(0), bound)
    if importlib.util.find_spec("openai"):
        bench.play(label, "openai", "openai client, one task a trial", case(0), listed)
        bench.play(label, "openai_tuned", "openai client, tuned", case(0), listed)
    if bench.verifiers_python and concurrency == count <= trials:
        bench.play(label, "verifiers", "verifiers, harness in the process", case(0), listed)
        if not report.quick:
            few = Case("", PROGRAMS, PROGRAMS, 0, mean)
            bench.play(f"{PROGRAMS} trials, all at once", "verifiers_null", "verifiers, harness `null`", few, listed)
    claims(report, label, concurrency, limited)


def claims(report: HttpReport, label: str, concurrency: int, limited: bool) -> None:
    """Add the figures with bounds, and a breakdown of the client's time."""
    of = report.values
    against = "efficiency against list scheduling" if limited else "efficiency, ideal/actual"
    least, most = 0.95 if concurrency <= 256 else None, 0.5 if concurrency >= 256 else None  # see the remarks
    report.add(f"{label}: {against}", of(label, "ours", "efficiency"), at_least=least)
    total, loop = of(label, "ours", "cpu_ms"), of(label, "our loop alone, no HTTP", "cpu_ms")
    report.add(f"{label}: client's CPU time", total, "ms/call", at_most=most)
    rest = [a - b for a, b in zip(total, loop, strict=True)]
    report.add(f"{label}: of it HTTP (less the loop alone)", rest, "ms/call")
    if not limited:
        slow = of(label, "lock-step, our client", "wall")[0] / of(label, "ours", "wall")[0]
        report.add(f"{label}: lock-step/ours, wall", slow, "x", at_least=2.0)


def sequential(bench: Bench, mean: float, trials: int) -> None:
    """Measure one trial after the other, extrapolated by the latencies of the rest."""
    few = min(SEQUENTIAL, trials)
    case = Case("", few, 1, 0, mean)
    run = bench.play(f"{few} trials", "ours", "sequential", case, sum)
    sums = seeded_sums(Case("", trials, 1, 0, mean), bench.answers)
    bench.report.add(
        f"sequential, scaled to {trials} trials by their latencies", run.wall * sum(sums) / sum(sums[:few]), "s"
    )


def remarks(report: HttpReport, verifiers_python: str | None) -> None:
    stats = {name: statistics.median(row[name] for row in report.server) for name in report.server[0]}
    server = (
        f"The server took {stats['cpu_ms_per_call']:.2f} ms CPU a call, on the same cores as the client; bodies of "
        f"{stats['request_bytes']:,.0f} bytes out and {stats['response_bytes']:,.0f} back on average."
    )
    report.remarks += [*REMARKS, server]
    found = [f"{name} {version(name)}" for name in ("aiohttp", "orjson", "openai") if importlib.util.find_spec(name)]
    if verifiers_python:
        found.append(f"verifiers {verifiers_version(verifiers_python)}")
    report.remarks.append(f"Clients: {', '.join(found)}.")


def verifiers_version(python: str) -> str | None:
    """Version of `verifiers` in that interpreter; None if it is not installed."""
    code = "import verifiers.v1, importlib.metadata as m; print(m.version('verifiers'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() if not done.returncode else None


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="smoke test: small sizes, no file, bounds not enforced")
    parser.add_argument("--trials", type=int, default=256, help="number of trials; at least the concurrency")
    parser.add_argument(
        "--concurrency", type=int, nargs="+", default=[32, 256, 1024], help="maximum numbers of concurrent trials"
    )
    parser.add_argument("--repetitions", type=int, default=3, help="repetitions of our own variants")
    parser.add_argument("--write", action="store_true", help="write the result file even with non-default sizes")
    parser.add_argument(
        "--verifiers-python", default=sys.executable, help="Python interpreter with `verifiers` installed"
    )
    args = parser.parse_args()
    usual = (args.quick, args.trials, args.concurrency) == (False, 256, [32, 256, 1024])
    mean, trials, limits = (0.02, 16, [8, 16]) if args.quick else (0.2, args.trials, args.concurrency)
    report = HttpReport(
        "rollout_http",
        "Rollouts through HTTP: at least 95% of the ideal speed at 256 requests at once, and at most .5 ms of the "
        "client's processor time a call.",
        f"a server in its own process answers as vLLM does after seeded lognormal latencies, mean {mean} s, sigma .8, "
        f"any number at once; trials of {EPISODES} episodes x {GUESSES} turns of GuessNumber-v0, never won, one token "
        "a byte; every run in a process of its own after a warm-up of one trial; our variants in turn; medians.",
        quick=not (usual or args.write),
    )
    has_verifiers = Path(args.verifiers_python).exists() and verifiers_version(args.verifiers_python)
    if not has_verifiers:
        print("no `verifiers` here: that variant is left out; see the head of this file for how to install it")
    if not importlib.util.find_spec("openai"):
        print("no `openai` here: that variant is left out; `uv pip install openai` brings it")
    answers = Case(mean=mean).answers
    with running(answers) as url:
        bench = Bench(report, url, answers, args.verifiers_python if has_verifiers else None)
        for concurrency in limits:
            measure(bench, mean, trials, concurrency, 1 if args.quick else args.repetitions)
        sequential(bench, mean, trials)
    remarks(report, bench.verifiers_python)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
