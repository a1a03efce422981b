"""Reproduction of reference values: losses and regrets of exact predictors on their sources.

Each row holds our value, its standard error, the reference and whether the two agree. The references were computed
independently of this code, from the published definitions with 10,000 sequences unless noted otherwise; for MetaLM the
number of sequences is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from metarlgym.sequences.predictors import KT, LIN, PTW, MetaLMFilter, RLMPredictor, regret
from metarlgym.sequences.sources import RLM, MetaLM, Piecewise

TOLERANCE = 4.0
"""Two values agree if they differ by at most this many standard errors of the difference."""
T = 256
PREDICTORS = ("PTW_8", "LIN", "KT", "KT of the last 20", "KT, switches known")
ORACLE_TABLE: dict[str, tuple[float, ...]] = {
    "ptw": (8.15, 11.02, 29.6, 15.6, 5.80),
    "lin": (23.79, 19.50, 44.6, 27.0, 11.70),
    "regular": (36.91, 32.47, 76.0, 62.6, 17.06),
    "random": (37.97, 30.67, 74.4, 51.9, 16.13),
    "static": (2.84, 4.16, 2.23, 6.05, 2.23),
}
"""Cumulative regret in nats over t = 2..256, binary, Dirichlet(1/2) segments; `regular` has period 20, `random` gaps of
1..39. Columns are `PREDICTORS`."""
ORACLE_SE = {
    "ptw": (0.08, 0.10),
    "lin": (0.14, 0.12),
    "regular": (0.08, 0.07),
    "random": (0.09, 0.07),
    "static": (0.02, 0.02, 0.02),
}
"""Standard errors of the first columns; where missing, ours are used."""
SWITCHES = {"ptw": 4.0, "lin": 17.1, "regular": 12.0, "random": 12.4, "static": 0.0}
"""Mean number of switches."""
RLM_TABLE: dict[tuple[int, float], tuple[tuple[float, float], ...]] = {
    (32, 0.8): ((3.385, 3.424), (3.383, 3.423), (3.383, 3.423), (3.383, 3.423)),
    (32, 1.2): ((3.136, 3.291), (3.089, 3.276), (3.082, 3.273), (3.077, 3.272)),
    (32, 2.0): ((2.290, 2.822), (1.763, 2.621), (1.549, 2.552), (1.499, 2.539)),
    (32, 3.0): ((1.590, 2.415), (0.713, 1.962), (0.423, 1.754), (0.339, 1.671)),
    (64, 1.2): ((3.767, 3.958), (3.711, 3.945), (3.713, 3.943)),
    (64, 2.0): ((2.569, 3.322), (1.795, 3.022), (1.432, 2.890)),
}
"""By (V, beta), then L = 1, 2, ...: floor of the last token and mean floor per token, in nats."""
RLM_GRAMMARS = {32: 4, 64: 2}
"""Number of grammars behind each entry, by V."""
METALM_TABLE = {(4, 32, 0.05): 0.043, (9, 32, 0.1): 0.074, (10, 32, 0.1): 0.082, (9, 64, 0.1): 0.039}
"""By (n, l, e), V = 64: loss given the dictionary, in nats per token."""

METALM_PRECISION = 0.05
"""Assumed relative error of these references. They were sampled with an unknown number of sequences, and cannot all be
accurate to better than about 3%: from 9 to 10 elements they grow by 11%, of which ln 10 / ln 9 explains 5%."""


class Row(NamedTuple):
    """One value with its reference."""

    name: tuple[str, ...]
    value: float
    se: float
    """Standard error; for RLM, the spread over grammars."""
    reference: float
    tolerance: float
    """Largest difference that counts as agreement."""

    @property
    def agrees(self) -> bool:
        return abs(self.value - self.reference) <= self.tolerance


def piecewise_rows(sequences: int = 10_000, seed: int = 0) -> Iterator[Row]:
    """Reproduce every cell of `ORACLE_TABLE`, then the mean number of switches of each law."""
    for law, references in ORACLE_TABLE.items():
        batch = Piecewise(law, T, seed=seed).batch(0, sequences)
        for k, (predictor, reference) in enumerate(zip(PREDICTORS, references, strict=True)):
            total = regret(batch.theta, _predict(predictor, batch.tokens, batch.switches))[:, 1:].sum(1)
            se = total.std() / math.sqrt(sequences)
            theirs = ORACLE_SE[law][k] if k < len(ORACLE_SE[law]) else se
            # Half a unit in the last digit of the rounded reference.
            digit = 0.05 if round(reference, 1) == reference else 0.005
            yield Row((law, predictor), float(total.mean()), se, reference, TOLERANCE * math.hypot(se, theirs) + digit)
        switches = batch.switches.sum(1)
        se = switches.std() / math.sqrt(sequences)
        tolerance = TOLERANCE * math.hypot(se, se) + 0.05
        yield Row((law, "switches"), float(switches.mean()), se, SWITCHES[law], tolerance)


def _predict(name: str, tokens: np.ndarray, switches: np.ndarray) -> np.ndarray:
    if name == "PTW_8":
        return PTW(8).predictions(tokens)
    if name == "LIN":
        return LIN().predictions(tokens)
    if name == "KT, switches known":
        return KT().predictions(tokens, switches)
    return KT(window=20 if name == "KT of the last 20" else None).predictions(tokens)


def rlm_rows(grammars: int = 30, sequences: int = 500, seed: int = 0) -> Iterator[Row]:
    """Reproduce every cell of `RLM_TABLE`: means over grammars, which must agree within 3 standard deviations of the
    difference of two such means, estimated from the spread over our grammars."""
    for (v, beta), references in RLM_TABLE.items():
        for L, pair in enumerate(references, 1):
            floors = []
            for g in range(grammars):
                source = RLM(v, L, beta, seed_rules=seed + g, seed_samples=seed)
                entropy = RLMPredictor(source).entropy(source.tokens(0, sequences)).mean(0)
                floors.append((entropy[-1], entropy.mean()))
            for k, place in enumerate(("last token", "per token")):
                found = np.array(floors)[:, k]
                spread = float(found.std(ddof=1))
                tolerance = 3 * spread * math.sqrt(1 / grammars + 1 / RLM_GRAMMARS[v])
                name = (f"V={v}", f"beta={beta}", f"L={L}", place)
                yield Row(name, float(found.mean()), spread, pair[k], tolerance)


def metalm_rows(sequences: int = 1000, length: int = 4096, seed: int = 0) -> Iterator[Row]:
    """Reproduce every entry of `METALM_TABLE`."""
    for (n, mean, e), reference in METALM_TABLE.items():
        source = MetaLM(64, n, mean, e, length, seed)
        means = []
        for first in range(0, sequences, 50):
            size = min(50, sequences - first)
            x, y = source.batch(first, size)
            means.append(MetaLMFilter(source, source.dictionaries(first, size)).log_loss(x, y).mean(1))
        losses = np.concatenate(means)
        se = float(losses.std() / math.sqrt(sequences))
        name = (f"n={n}", f"l={mean}", f"e={e}")
        yield Row(name, float(losses.mean()), se, reference, TOLERANCE * se + METALM_PRECISION * reference)
