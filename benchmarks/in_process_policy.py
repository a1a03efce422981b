"""Claim: the in-process policy, which keeps KV caches over the turns of a trial, is at least 3 times as fast as calling
`model.generate` on the whole context, re-encoded at every turn (twice as fast for trials as short as the quickstart's),
reaches at least 0.7 of the speed of a bare rectangular cache, and is more than twice as fast as transformers' own
continuous batching (the decision rule: otherwise that would be used instead).

Variants, which differ in how tokens are generated:

* ours: `InProcessPolicy`.
* re-encode: lock-step; `model.generate` on the left-padded batch of whole contexts, with a cache within each turn.
* rectangle: lock-step; one `DynamicCache` for the whole batch, extended with each turn's new tokens. It works only
  because all trials here have the same length. Like ours, it computes log-probabilities.
* continuous batching: lock-step; one `ContinuousBatchingManager` for the whole rollout, and each turn submits the whole
  contexts. With `allow_block_sharing`, cached blocks of a context's prefix are reused.

In the first part only the policy runs: the environment's observations are precomputed tokens. In the second ("whole
rollouts") the same variants play the quickstart's Doors through sessions (environment, rendering, transcripts), ours
through `RolloutManager`; that work is the same for all variants and pulls the ratios towards 1.

Actions are greedy and have a fixed number of tokens, with end tokens treated as ordinary ones; all variants must return
the same tokens. Torch uses one thread. Ratios of CPU time are given next to those of wall time, since other processes
affect them less.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from dataclasses import replace

import torch
from common import Report, Seconds, interleave, ratios, run
from policy_variants import Bench, Shape
from transformers.utils import logging as hf_logging


def compare(report: Report, label: str, times: dict[str, list[Seconds]], other: str, **bounds: float | None) -> None:
    """Ratio of a variant's time to ours."""
    wall = ratios([t.wall for t in times[other]], [t.wall for t in times["ours"]])
    cpu = ratios([t.cpu for t in times[other]], [t.cpu for t in times["ours"]])
    report.add(f"{label}: {other}/ours", wall, "x", **bounds)
    report.add(f"{label}: {other}/ours in CPU time", cpu, "x")


def same_tokens(report: Report, bench: Bench, label: str) -> None:
    """Report the lowest fraction, over all variants, of trials whose actions equal ours token by token."""
    ours = bench.actions["ours"]
    shares = [sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours) for theirs in bench.actions.values()]
    report.add(f"{label}: trials with the same tokens in all variants", min(shares), at_least=0.95)


def against_loops(report: Report, shape: Shape, repetitions: int, bound: float | None, whole: bool = False) -> None:
    bench = Bench(shape, whole)
    label = shape.name + (", whole rollouts" if whole else "")
    variants = {"ours": bench.ours, "re-encode": bench.reencode, "rectangle": bench.rectangle}
    for variant in variants.values():
        variant()
    times = interleave(variants, repetitions)
    for name, values in times.items():
        report.add(f"{label}: {name}", [t.wall for t in values], "s")
    compare(report, label, times, "re-encode", at_least=bound)
    compare(report, label, times, "rectangle", at_least=None if whole else 0.7)
    same_tokens(report, bench, label)


def against_continuous(report: Report, shape: Shape, repetitions: int) -> None:
    bench = Bench(shape)
    label = f"{shape.name}, against continuous batching"
    variants = {
        "ours": bench.ours,
        "continuous batching": lambda: bench.continuous(True),
        "continuous batching, no sharing": lambda: bench.continuous(False),
    }
    bench.ours()
    times = interleave(variants, repetitions)
    for name, values in times.items():
        report.add(f"{label}: {name}", [t.wall for t in values], "s")
    compare(report, label, times, "continuous batching", at_least=2.0)
    compare(report, label, times, "continuous batching, no sharing", at_least=2.0)
    same_tokens(report, bench, label)


def main(quick: bool) -> int:
    torch.set_num_threads(1)
    hf_logging.set_verbosity_error()
    repetitions = 1 if quick else 5
    report = Report(
        "in_process_policy",
        "In-process policy: 3 times the speed of encoding the whole context at every turn, twice at the quickstart's "
        "shape, .7 or more of a bare rectangular cache; transformers' continuous batching would be used instead if it "
        "were within a factor of 2.",
        f"greedy actions, {repetitions} interleaved repetition(s) after a warm-up (3 times as many at the quickstart's "
        "shape, 1 or 2 against continuous batching), one torch thread; 2 layers; texts of 40 tokens and actions of 8 "
        "(quickstart: 1 and 1). Observations are fixed tokens; only `whole rollouts` plays Doors, through sessions.",
        quick,
    )
    chatter = Shape("d=64, 64 trials x 18 turns", 64, 18, observation=40, action=8, width=64, heads=4)
    doors = Shape(
        "quickstart, 512 trials x 6 turns", 512, 6, observation=1, action=1, width=32, heads=2, context=64, doors=True
    )
    small = replace(chatter, name="d=128, 16 trials x 18 turns", trials=16, width=128)
    if quick:
        chatter, doors, small = (replace(s, trials=s.trials // 8) for s in (chatter, doors, small))
    against_loops(report, doors, 3 * repetitions, 2.0)
    against_loops(report, doors, 3 * repetitions, None, whole=True)
    against_loops(report, chatter, repetitions, 3.0)
    against_loops(report, small, repetitions, None)
    # On a CPU their attention multiplies all queries with all keys of the batch, which is quadratic in the batch size:
    # the largest case is cut to its first 6 turns, which favors them.
    against_continuous(report, doors, 1 if quick else 2)
    against_continuous(report, small, 1 if quick else 2)
    against_continuous(report, replace(chatter, name=f"d=64, {chatter.trials} trials x 6 turns", turns=6), 1)
    return report.finish()


if __name__ == "__main__":
    run(main, __doc__)
