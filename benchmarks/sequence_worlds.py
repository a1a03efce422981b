"""Claim: MetaLM batches are generated at least 50 times as fast as by the published algorithm in plain Python, Random
Language Model leaves at 10 million per second or more (V = 128, L = 5), and PTW and LIN predict 10,000 binary sequences
of length 256 in under 5 and under 20 seconds, on one core.

MetaLM: the defaults (V 64, n 10, l 64, e 0.1) at L = 4096; the plain loop draws with Python's `random` and appends
symbol by symbol. Both generate the same number of samples in turn, by batch size. RLM: batches of 2,000, 8,000 and
20,000 complete trees, with alias tables built beforehand (their time is reported); the plain loop draws each pair by
bisection of the cumulative rules. PTW and LIN: predictions of both symbols for all sequences, compared with a
plain-Python implementation of each on a few sequences, extrapolated. Growth: one sequence of T = 2^12 to 2^16 (PTW, of
depth log2 T) and 2^10 to 2^14 (LIN); the exponent is the slope of log time over log T at the long end. Everything is
compiled before timing.
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections.abc import Callable

from common import Report, interleave, now, ratios, run

from metarlgym.sequences.predictors import LIN, PTW, MetaLMFilter, RLMPredictor
from metarlgym.sequences.sources import RLM, MetaLM, Piecewise


def main(quick: bool) -> int:
    claim, _, method = (__doc__ or "").strip().partition("\n\n")
    report = Report("sequence_worlds", " ".join(claim.split()), " ".join(method.split()), quick)
    repetitions = 2 if quick else 7
    metalm(report, repetitions, quick)
    rlm(report, repetitions, quick)
    predictors(report, 1 if quick else 3, quick)
    growth(report, quick)
    return report.finish()


def metalm(report: Report, repetitions: int, quick: bool) -> None:
    source = MetaLM(seed=0)
    source.batch(0, 2)
    for batch in (1, 16, 64, 256):
        count = 512 if quick else 2048

        def ours(batch: int = batch, count: int = count) -> float:
            def consume() -> None:
                for i in range(0, count, batch):
                    source.batch(i, batch)  # freed immediately, as in a training loop

            return timed(consume) / count

        def plain(count: int = 64) -> float:
            def consume() -> None:
                for _ in range(count):
                    plain_metalm(64, 10, 64, 0.1, 4096)

            return timed(consume) / count

        found = interleave({"plain": plain, "ours": ours}, repetitions)
        speedup = ratios(found["plain"], found["ours"])
        bound = 50.0 if batch >= 64 else None
        report.add(f"MetaLM against plain Python, batches of {batch}", speedup, "x", at_least=bound)
        report.add(f"MetaLM, batches of {batch}", [4096 / s / 1e6 for s in found["ours"]], "M tokens/s")
    x, y = source.batch(0, 64)
    known = MetaLMFilter(source, source.dictionaries(0, 64))
    seconds = [timed(lambda: known.log_loss(x, y)) for _ in range(repetitions)][1:]
    report.add("MetaLM known-dictionary filter", [x.size / s / 1e6 for s in seconds], "M tokens/s")


def rlm(report: Report, repetitions: int, quick: bool) -> None:
    source = RLM(128, 5, 2.0)
    report.add("RLM V=128: grammar and alias tables", timed(lambda: source.tokens(0, 1)), "s")
    cumulative = source.M.reshape(128, -1).cumsum(1).tolist()
    for batch in (2_000,) if quick else (2_000, 8_000, 20_000):

        def ours(batch: int = batch) -> float:
            return timed(lambda: source.tokens(0, batch)) / batch

        def plain() -> float:
            return timed(lambda: [plain_rlm(cumulative, 128, 5) for _ in range(200)]) / 200

        found = interleave({"plain": plain, "ours": ours}, repetitions)
        report.add(
            f"RLM leaves, batches of {batch:,}", [32 / s / 1e6 for s in found["ours"]], "M tokens/s", at_least=10
        )
        report.add(f"RLM against plain Python, batches of {batch:,}", ratios(found["plain"], found["ours"]), "x")
    tokens = source.tokens(0, 8 if quick else 64)
    exact = RLMPredictor(source)
    seconds = [timed(lambda: exact.predictions(tokens)) for _ in range(repetitions)]
    report.add("RLM exact prediction, V=128, L=5", [tokens.size / s / 1e3 for s in seconds], "k tokens/s")


def predictors(report: Report, repetitions: int, quick: bool) -> None:
    count = 200 if quick else 10_000
    tokens = Piecewise("lin", 256, seed=0).tokens(0, count)
    ptw, lin = PTW(8), LIN()
    for predictor in (ptw, lin):
        predictor.predictions(tokens[:2])
    few = 2 if quick else 5
    plain: dict[str, Callable[[list[int]], float]] = {"PTW": plain_ptw, "LIN": plain_lin}
    for name, predictor, bound in (("PTW", ptw, 5.0), ("LIN", lin, 20.0)):

        def ours(predictor: PTW | LIN = predictor) -> float:
            return timed(lambda: predictor.predictions(tokens))

        def theirs(name: str = name) -> float:
            return timed(lambda: [plain[name](row) for row in tokens[:few].tolist()]) * count / few

        found = interleave({"ours": ours, "plain": theirs}, repetitions)
        report.add(f"{name}, {count:,} x 256", found["ours"], "s", at_most=bound)
        report.add(f"{name} against plain Python", ratios(found["plain"], found["ours"]), "x")
        row = tokens[0].tolist()
        gap = abs(predictor.log_loss(tokens[:1]).sum() - plain[name](row))
        report.add(f"{name}: our log-loss of a sequence less the plain one's", gap, "nats", at_most=1e-9)


def growth(report: Report, quick: bool) -> None:
    tokens = Piecewise("lin", 2**16, seed=0).tokens(0, 1)
    for name, longest in (("PTW", 10 if quick else 16), ("LIN", 10 if quick else 14)):

        def seconds(power: int, name: str = name) -> float:
            predictor = PTW(power) if name == "PTW" else LIN()
            return min(timed(lambda: predictor.predictions(tokens[:, : 2**power])) for _ in range(3))

        times = {power: seconds(power) for power in range(longest - 4, longest + 1)}
        for power, found in times.items():
            report.add(f"{name}, T = 2^{power}", 1e9 * found / 2**power, "ns a symbol")
        slopes = [math.log2(b / a) for a, b in itertools.pairwise(list(times.values())[-3:])]
        report.add(f"{name}: exponent of T", sum(slopes) / len(slopes))


def timed(call: Callable[[], object]) -> float:
    """CPU time of this process in seconds: one core, independent of other processes."""
    start = now()
    call()
    return (now() - start).cpu


def plain_metalm(V: int, n: int, mean: float, e: float, L: int) -> tuple[list[int], list[int]]:
    """The published algorithm, symbol by symbol."""
    elements = [[random.randint(1, V - 1) for _ in range(max(3, plain_poisson(mean)))] for _ in range(n)]
    x: list[int] = []
    y: list[int] = []
    while len(x) < L + 1:
        for symbol in random.choice(elements):
            y.append(symbol)
            if random.random() < e:
                x.append(0 if random.random() < 0.3 else random.randint(1, V - 1))
            else:
                x.append(symbol)
        x.append(V + 1)
        y.append(V + 1)
    return x[:L], y[1 : L + 1]


def plain_poisson(mean: float) -> int:
    """Poisson sample by Knuth's method."""
    limit, k, product = math.exp(-mean), 0, random.random()
    while product > limit:
        k += 1
        product *= random.random()
    return k


def plain_rlm(cumulative: list[list[float]], v: int, depth: int) -> list[int]:
    level = [random.randrange(v)]
    for _ in range(depth):
        below = []
        for symbol in level:
            pair = min(bisect.bisect(cumulative[symbol], random.random()), v * v - 1)
            below += [pair // v, pair % v]
        level = below
    return level


def plain_ptw(row: list[int], depth: int = 8) -> float:
    """Log-loss by the published online algorithm in the log domain (Veness et al. 2013, algorithm 1)."""
    half = math.log(0.5)
    b, w, kt = [0.0] * (depth + 2), [0.0] * (depth + 2), [0.0] * (depth + 2)
    counts = [[0, 0] for _ in range(depth + 1)]
    for t, symbol in enumerate(row):
        i = 0 if t == 0 else depth - (t ^ (t - 1)).bit_length()
        i = max(i, 0)
        b[i] = w[i + 1] if t else 0.0
        for j in range(i + 1, depth + 1):
            b[j] = w[j] = kt[j] = 0.0
            counts[j] = [0, 0]
        for j in range(depth + 1):
            c = counts[j]
            kt[j] += math.log((c[symbol] + 0.5) / (c[0] + c[1] + 1))
            c[symbol] += 1
        w[depth] = kt[depth]
        for j in range(depth - 1, -1, -1):
            one, two = half + kt[j], half + w[j + 1] + b[j]
            high = max(one, two)
            w[j] = high + math.log(math.exp(one - high) + math.exp(two - high))
    return -w[0]


def plain_lin(row: list[int]) -> float:
    """Log-loss by Willems' recursion over the start of the current segment."""
    states: list[tuple[float, int, list[int]]] = [(1.0, 0, [0, 0])]
    loss = 0.0
    for t, symbol in enumerate(row):
        weighted = []
        total = 0.0
        for weight, start, c in states:
            prob = weight * (c[symbol] + 0.5) / (c[0] + c[1] + 1)
            total += prob
            weighted.append((prob, start, c))
        loss -= math.log(total)
        new, states = 0.0, []
        for prob, start, c in weighted:
            m = t + 1 - start
            new += prob / total * 0.5 / m
            c[symbol] += 1
            states.append((prob / total * (m - 0.5) / m, start, c))
        states.append((new, t + 1, [0, 0]))
    return loss


if __name__ == "__main__":
    run(main, __doc__)
