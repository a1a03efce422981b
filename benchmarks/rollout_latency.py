"""Claim: against a server with seeded lognormal latencies (mean 0.2 s, sigma 0.8) the rollout manager reaches at least
95% of the ideal speed, and is at least twice as fast as a lock-step loop.

Every trial has 3 episodes x 6 turns of GuessNumber-v0 (terse), with a wrong guess at every turn so that all trials are
equally long. A trial's latencies depend only on its request seeds, so all variants see the same ones. Without a limit
on concurrency, the ideal time is the longest trial's sum of latencies. With a limit C it is max(sum of all / C, longest
trial), a bound for every scheduler. A scheduler that does not know the latencies in advance ends with a ragged tail, so
the time of list scheduling without overhead (each free slot takes the next trial) is computed too, and the manager is
compared with that.

Lock-step: the same sessions and latencies, but each turn waits for all trials (`asyncio.gather`), as loops over batched
environments do. Sequential: 8 trials one after the other, extrapolated by the latencies of the rest. All variants wait
in real time.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time

from common import Report, ratios, run

from metarlgym import Task, Trial, make
from metarlgym.policies.scripted import DelayedPolicy, ScriptedPolicy
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.manager import RolloutManager, TrialSpec
from metarlgym.rollout.protocol import ActReply, ActRequest
from metarlgym.rollout.session import Session

EPISODES, GUESSES = 3, 6


def wrong(trial: Trial, rng: random.Random) -> str:
    """A legal guess that is never right, since the hidden numbers are above 10."""
    return str(rng.randint(1, 10))


def make_trial() -> Trial:
    return make("GuessNumber-v0", guesses=GUESSES, style="terse", episodes=EPISODES)  # type: ignore[return-value]


def specs(count: int, repetition: int) -> list[TrialSpec]:
    return [
        TrialSpec(make_trial, Task("GuessNumber-v0", {"number": 11 + i % 10}), i, ("latency", repetition, i))
        for i in range(count)
    ]


def open_session(spec: TrialSpec) -> Session:
    return Session(spec.make_trial(), spec.task, spec.seed, spec.policy_seed, None, Limits())


def latencies(policy: DelayedPolicy, specs: list[TrialSpec]) -> list[list[float]]:
    """Latencies of each trial by turn, found by playing without waiting."""
    table = []
    for spec in specs:
        session = open_session(spec)
        request = session.begin()
        row = []
        while request is not None:
            row.append(policy.latency(request.seed))
            request = session.receive(ActReply([], [], "end", "1"))
        table.append(row)
    return table


def list_schedule(sums: list[float], places: int) -> float:
    """End time of the last trial if each free slot takes the next one immediately."""
    free = [0.0] * min(places, len(sums))
    for length in sums:
        heapq.heapreplace(free, free[0] + length)
    return max(free)


async def lock_step(policy: DelayedPolicy, specs: list[TrialSpec]) -> None:
    """In each turn: request all actions, wait for all, step all."""
    sessions = [open_session(spec) for spec in specs]
    requests = [session.begin() for session in sessions]

    async def answer(request: ActRequest) -> ActReply:
        await asyncio.sleep(policy.latency(request.seed))
        text = policy.policy.act(request.trial, random.Random(request.seed))
        return ActReply([], [], "end", text)

    while any(requests):
        asked = {i: request for i, request in enumerate(requests) if request is not None}
        replies = await asyncio.gather(*map(answer, asked.values()))
        requests = [None] * len(sessions)
        for i, reply in zip(asked, replies, strict=True):
            requests[i] = sessions[i].receive(reply)


def timed_run(policy: DelayedPolicy, specs: list[TrialSpec], concurrency: int | None) -> tuple[float, float]:
    """Wall and CPU time of the manager, in seconds."""
    manager = RolloutManager(policy, concurrency=concurrency)
    wall, cpu = time.perf_counter(), time.process_time()
    played = manager.run(specs)
    result = time.perf_counter() - wall, time.process_time() - cpu
    assert all(t.error is None and t.turns == EPISODES * GUESSES for t in played)
    return result


def timed_lock_step(policy: DelayedPolicy, specs: list[TrialSpec]) -> float:
    start = time.perf_counter()
    asyncio.run(lock_step(policy, specs))
    return time.perf_counter() - start


def measure(report: Report, policy: DelayedPolicy, concurrency: int, repetitions: int, floor: int) -> None:
    """Measure the manager and lock-step at one limit; lock-step only where the manager also requests all at once."""
    count = max(floor, concurrency)
    unlimited = concurrency >= count
    walls, cpus, locks, against_bound, against_list = [], [], [], [], []
    for repetition in range(repetitions):
        trials = specs(count, repetition)
        sums = [sum(row) for row in latencies(policy, trials)]
        wall, cpu = timed_run(policy, trials, None if unlimited else concurrency)
        walls.append(wall)
        cpus.append(cpu / (count * EPISODES * GUESSES) * 1e3)
        against_bound.append(max(sum(sums) / concurrency, max(sums)) / wall)
        against_list.append(list_schedule(sums, concurrency) / wall)
        if unlimited:
            locks.append(timed_lock_step(policy, trials))
    name = f"{count} trials, " + (f"all {count} at once" if unlimited else f"{concurrency} at once")
    report.add(f"{name}: manager", walls, "s")
    report.add(f"{name}: manager's CPU time", cpus, "ms/action")
    if unlimited:
        report.add(f"{name}: efficiency, ideal/actual", against_bound, at_least=0.95)
        report.add(f"{name}: lock-step loop", locks, "s")
        report.add(f"{name}: lock-step/manager", ratios(locks, walls), "x", at_least=2.0)
    else:
        report.add(f"{name}: efficiency against list scheduling", against_list, at_least=0.95)
        report.add(f"{name}: efficiency against the bound", against_bound)
        report.remarks.append(
            f"{name}: the bound max(sum / {concurrency}, longest) is out of reach for a scheduler that does not know "
            "the latencies beforehand: list scheduling without any overhead takes "
            f"{sum(a / b for a, b in zip(against_list, against_bound, strict=True)) / repetitions:.3f} times as long."
        )


def sequential(report: Report, policy: DelayedPolicy, count: int, scale_to: int) -> None:
    trials = specs(scale_to, 0)
    sums = [sum(row) for row in latencies(policy, trials)]
    wall, _ = timed_run(policy, trials[:count], 1)
    together, _ = timed_run(policy, trials, None)
    whole = wall * sum(sums) / sum(sums[:count])
    report.add(f"sequential: {count} trials, one at a time", wall, "s")
    report.add(f"sequential: scaled to {scale_to} trials", whole, "s")
    report.add("sequential/manager", whole / together, "x")


def main(quick: bool) -> int:
    mean, repetitions, floor = (0.02, 1, 32) if quick else (0.2, 3, 256)
    limits = (8, 32) if quick else (32, 256, 1024)
    policy = DelayedPolicy(ScriptedPolicy(wrong), mean=mean)
    report = Report(
        "rollout_latency",
        "Rollouts against slow policies: at least 95% of the ideal speed, twice the speed of a lock-step loop or more.",
        f"seeded lognormal latencies, mean {mean} s, sigma .8, really waited; trials of {EPISODES} episodes x "
        f"{GUESSES} turns of GuessNumber-v0, never won; {repetitions} repetition(s) with different latencies, manager "
        "and lock-step in turn on the same ones.",
        quick,
    )
    for concurrency in limits:
        measure(report, policy, concurrency, repetitions, floor)
    sequential(report, policy, 2 if quick else 8, floor)
    return report.finish()


if __name__ == "__main__":
    run(main, __doc__)
