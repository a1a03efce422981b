"""Claim: a time limit, under which steps run in a thread that can be abandoned, costs at most a third of the manager's
speed at 1,024 trials with a zero-latency policy, and hanging steps end at the limit.

Direct: no time limit, steps run on the event loop. Thread: with `trial_seconds`, the steps of each tick are passed to a
thread. Inline: like thread, but without the thread, which isolates the cost of the hand-over. Trials never end early,
and all variants play the same trials.
"""

from __future__ import annotations

import time

from common import Report, Seconds, interleave, now, ratios, run

from metarlgym import Env, Step, Task, Trial, make
from metarlgym.policies.scripted import DelayedPolicy, ScriptedPolicy
from metarlgym.rollout import stepping
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.manager import RolloutManager, TrialSpec
from metarlgym.rollout.protocol import Policy

EPISODES, GUESSES, TRIAL_SECONDS = 3, 6, 1.0
SAY = ScriptedPolicy(lambda trial, rng: "1")


class Inline(stepping.Crew):
    """Runs the steps of a tick on the event loop itself."""

    def in_turn(self, players):  # type: ignore[no-untyped-def]
        return [player.step() for player in players]


def make_trial() -> Trial:
    return make("GuessNumber-v0", guesses=GUESSES, style="terse", episodes=EPISODES)  # type: ignore[return-value]


def specs(count: int) -> list[TrialSpec]:
    tasks = [Task("GuessNumber-v0", {"number": 11 + i % 10}) for i in range(10)]
    return [TrialSpec(make_trial, tasks[i % 10], i, ("threads", i)) for i in range(count)]


def play(trials: list[TrialSpec], limits: Limits, policy: Policy = SAY, crew: type | None = None) -> Seconds:
    from metarlgym.rollout import rollout

    kept, rollout.Crew = rollout.Crew, crew or rollout.Crew  # type: ignore[misc]
    try:
        start = now()
        played = RolloutManager(policy, None, limits).run(trials)
        taken = now() - start
    finally:
        rollout.Crew = kept  # type: ignore[misc]
    assert all(t.error is None and t.turns == EPISODES * GUESSES for t in played)
    return taken


class Hanging(Env):
    """An environment in which some trials hang in their first step."""

    def on_reset(self, params, rng):  # type: ignore[no-untyped-def]
        self.hang = params["hang"]
        return "go"

    def on_step(self, action):  # type: ignore[no-untyped-def]
        if self.hang:
            time.sleep(4 * TRIAL_SECONDS)
        return Step("done", 1.0, terminated=True)


class Blocking(Hanging):
    blocking = True


def hang(env: type[Env], count: int, every: int) -> float:
    """Wall time in seconds of a rollout in which one trial in `every` hangs; all others must end normally."""
    trials = [TrialSpec(lambda: Trial(env(), 1), Task("x", {"hang": i % every == 1}), i) for i in range(count)]
    start = time.perf_counter()
    played = RolloutManager(SAY, None, Limits(trial_seconds=TRIAL_SECONDS)).run(trials)
    seconds = time.perf_counter() - start
    assert [t.stop.value for t in played] == ["time_limit" if i % every == 1 else "terminated" for i in range(count)]
    return seconds


def main(quick: bool) -> int:
    count, repetitions = (128, 2) if quick else (1024, 7)
    report = Report(
        "step_threads",
        "Steps that can be cut off: what it costs, and that it works.",
        f"{count:,} trials of {EPISODES} episodes x {GUESSES} turns of GuessNumber-v0 (terse), never won, all at once, "
        f"{repetitions} repetitions, variants in turn, making the trials included; policy that answers at once, and "
        f"one with seeded lognormal latencies (mean 0.05 s, sigma 0.8). Hanging steps sleep {4 * TRIAL_SECONDS:g} s "
        f"under trial_seconds={TRIAL_SECONDS:g}.",
        quick,
    )
    trials, none, limited = specs(count), Limits(), Limits(trial_seconds=600.0)
    steps = count * EPISODES * GUESSES
    play(trials, limited)
    variants = interleave(
        {
            "direct": lambda: play(trials, none),
            "thread": lambda: play(trials, limited),
            "inline": lambda: play(trials, limited, crew=Inline),
        },
        repetitions,
    )
    for name, seconds in variants.items():
        report.add(f"{name}: by the clock", [steps / s.wall for s in seconds], "steps/s")
        report.add(f"{name}: by CPU time", [steps / s.cpu for s in seconds], "steps/s of CPU")
    direct = [s.cpu for s in variants["direct"]]
    walls = ratios([s.wall for s in variants["direct"]], [s.wall for s in variants["thread"]])
    report.add("speed with a limit / without, by the clock", walls)
    report.add("the same by CPU time", ratios(direct, [s.cpu for s in variants["thread"]]), at_least=0.66)
    report.add("the same without the thread itself", ratios(direct, [s.cpu for s in variants["inline"]]))
    slow = DelayedPolicy(SAY, mean=0.05)
    waited = interleave(
        {"direct": lambda: play(trials, none, slow), "thread": lambda: play(trials, limited, slow)}, min(repetitions, 3)
    )
    walls = ratios([s.wall for s in waited["direct"]], [s.wall for s in waited["thread"]])
    report.add("slow policy: speed with a limit / without, by the clock", walls, at_least=0.9)
    for env in (Hanging, Blocking):
        name = env.__name__.lower()
        report.add(f"{name}: 1 of 8 trials hangs", hang(env, 8, 8), "s", at_most=TRIAL_SECONDS + 1.5)
        report.add(f"{name}: 16 of 64 hang", hang(env, 64, 4), "s", at_most=TRIAL_SECONDS + 1.5)
        report.add(f"{name}: 256 of 1,024 hang", hang(env, 1024, 4), "s", at_most=TRIAL_SECONDS + 1.5)
    return report.finish()


if __name__ == "__main__":
    run(main, __doc__)
