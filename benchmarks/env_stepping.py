"""Claim: text trials run at 150,000 steps/s or more in one process, the base class costs at most 2 us per step, and
importing the package takes at most 0.2 s on top of gymnasium.

Stepping: 8,192 concurrent `Trial`s of GuessNumber-v0 (terse, numbers 1..20), each with 3 episodes of 6 guesses, are
stepped round-robin with random legal guesses, drawn beforehand, until all have ended. The timing covers the complete
steps, including the resets of the second and third episode; the first reset of each trial is timed separately. Python's
garbage collector runs as by default; the rate with it disabled, as in `RolloutManager`, is reported too.

Base class: an environment whose `on_step` always returns the same `Step` is called through `on_step`, through
`Env.step`, and through `Trial.step`, 200,000 times each, in turn.

Import: fresh interpreters import gymnasium first and then metarlgym; the second import is timed within the interpreter.
"""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common import Report, interleave, now, run

from metarlgym import Env, Step, Task, Trial, make
from metarlgym.seeding import derive

IMPORT = "import time, gymnasium; t = time.perf_counter(); import metarlgym; print(time.perf_counter() - t)"


class Trivial(Env):
    """An environment that never ends and always returns the same constant step."""

    reply = Step("", 0.0, False, False, {"valid": True, "success": False})
    """`Bare` leaves the info to the base class, which then creates it together with a new `Step`."""

    def sample_task(self, rng: random.Random) -> dict[str, int]:
        return {}

    def on_reset(self, params: object, rng: random.Random) -> str:
        return ""

    def on_step(self, action: str) -> Step:
        return self.reply


class Bare(Trivial):
    reply = Step("", 0.0, False, False)


@contextmanager
def collector(on: bool) -> Iterator[None]:
    """Garbage collection in its default state, or disabled."""
    gc.collect()
    if not on:
        gc.disable()
    try:
        yield
    finally:
        gc.enable()


def play(live: int, seed: int, collect: bool) -> dict[str, float]:
    """Reset and play all trials; returns rates per second."""
    trials: list[Trial] = [make("GuessNumber-v0", guesses=6, style="terse", episodes=3) for _ in range(live)]  # type: ignore[misc]
    tasks = [trial.env.new_task(seed, i) for i, trial in enumerate(trials)]
    rng = random.Random(seed)
    guesses = [str(rng.randint(1, 20)) for _ in range(4096)]
    with collector(collect):
        start = now()
        for i, trial in enumerate(trials):
            trial.reset(options={"task": tasks[i], "episode_seed": derive(seed, i)})
        middle = now()
        steps, turn = 0, 0
        alive = trials
        while alive:
            turn += 1
            going = []
            for i, trial in enumerate(alive):
                step = trial.step(guesses[(i * 7 + turn) & 4095])
                if not (step[2] or step[3]):
                    going.append(trial)
            steps += len(alive)
            alive = going
        end = now()
    assert all(trial.result()["stop"] is not None for trial in trials)
    return {
        "steps/s": steps / (end.wall - middle.wall),
        "steps/s of CPU": steps / (end.cpu - middle.cpu),
        "with resets": steps / (end.wall - start.wall),
        "resets/s": live / (middle.wall - start.wall),
        "steps": steps / live,
    }


def calls(function: Callable[[str], object], count: int) -> float:
    """Microseconds per call, with garbage collection off: the endless trial's growing transcript would dominate it."""
    with collector(False):
        start = time.perf_counter()
        for _ in range(count):
            function("x")
        return (time.perf_counter() - start) / count * 1e6


def base_class(count: int, repetitions: int) -> dict[str, list[float]]:
    env, bare = Trivial(), Bare()
    task = Task(env.env_id, {})
    for each in (env, bare):
        each.reset(options={"task": task, "episode_seed": 0})

    def trial_step() -> float:
        trial = Trial(Trivial(), 1)
        trial.reset(options={"task": task, "episode_seed": 0})
        return calls(trial.step, count)

    return interleave(
        {
            "on_step": lambda: calls(env.on_step, count),
            "env": lambda: calls(env.step, count),
            "bare": lambda: calls(bare.step, count),
            "trial": trial_step,
        },
        repetitions,
    )


def import_seconds() -> float:
    out = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    return float(out.stdout)


def main(quick: bool) -> int:
    live, count, repetitions = (512, 20_000, 2) if quick else (8192, 200_000, 7)
    report = Report(
        "env_stepping",
        "Stepping text trials: 150,000 steps/s in one process; the base class costs at most 2 us a step; the import "
        "takes at most .2 s beyond gymnasium.",
        f"{live:,} live trials of GuessNumber-v0 (terse), 3 episodes x 6 guesses, round-robin, random legal guesses, "
        f"{repetitions} repetitions; {count:,} calls on a trivial environment; imports in fresh interpreters.",
        quick,
    )
    default, quiet = [], []
    for seed in range(repetitions):
        default.append(play(live, seed, True))
        quiet.append(play(live, seed, False))
    report.add("Trial.step", [r["steps/s"] for r in default], "steps/s", at_least=150_000)
    report.add("the same by CPU time", [r["steps/s of CPU"] for r in default], "steps/s")
    report.add("the same, each trial's first reset included", [r["with resets"] for r in default], "steps/s")
    report.add("the same without garbage collection", [r["steps/s"] for r in quiet], "steps/s")
    report.add("Trial.reset", [r["resets/s"] for r in default], "resets/s")
    report.add("steps in a trial", [r["steps"] for r in default], note="a right guess ends an episode")
    times = base_class(count, repetitions)
    report.add("on_step of a trivial environment", times["on_step"], "us")
    over_step = [env - bare for env, bare in zip(times["env"], times["on_step"], strict=True)]
    over_env = [trial - env for trial, env in zip(times["trial"], times["env"], strict=True)]
    over_bare = [env - bare for env, bare in zip(times["bare"], times["on_step"], strict=True)]
    report.add("Env.step beyond on_step", over_step, "us", at_most=2.0)
    report.add("the same where on_step gives no info", over_bare, "us", at_most=2.0)
    report.add("Trial.step beyond Env.step", over_env, "us")
    import_seconds()  # warm-up: compiles the bytecode
    seconds = [import_seconds() for _ in range(2 if quick else 5)]
    report.add("import metarlgym beyond gymnasium", seconds, "s", at_most=0.2)
    return report.finish()


if __name__ == "__main__":
    run(main, __doc__)
