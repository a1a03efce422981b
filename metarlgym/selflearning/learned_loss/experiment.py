"""Learned loss: learn a loss with second-order gradients, so that a step under it helps most on validation chunks.

A small transformer learns from MetaLM's noisy stream. Clean labels only serve to evaluate its steps, and this signal
trains only the loss, so a good loss must discover by itself which targets are wrong. A variant is one loss, one way to
choose the validation chunks, and one seed. Sources: the third experiment of METALEARN; ML3 (arXiv:1906.05374) and
AdaLFL (arXiv:2301.13247), from which the offline start and the one-to-one alternation are taken.
"""

from __future__ import annotations

from typing import Any

from metarlgym.datatypes import ConfigError
from metarlgym.selflearning.experiment import Log
from metarlgym.selflearning.learned_loss.config import FIXED, LEARNED, Config
from metarlgym.selflearning.learned_loss.plots import pictures
from metarlgym.selflearning.learned_loss.report import summarize
from metarlgym.selflearning.learned_loss.variants import run_check, run_fixed, run_learned

__all__ = ["Config", "pictures", "run_variant", "summarize", "variants"]

CHECK = "hypergradient"
REDRAWN = {"redrawn": "weights-next", "redrawn_uniform": "uniform"}


def variants(config: Config) -> list[str]:
    """The check of the hypergradients, then KIND-seedN."""
    kinds = [*FIXED, *LEARNED, *(REDRAWN if config.redrawn else ())]
    return [CHECK, *(f"{kind}-seed{seed}" for seed in config.seeds for kind in kinds)]


def run_variant(config: Config, variant: str, log: Log) -> dict[str, Any]:
    """Run one variant.

    Raises:
        ConfigError: not a variant of this configuration.
    """
    if variant not in variants(config):
        raise ConfigError(f"variant={variant!r} is not known: use one of {', '.join(variants(config))}.")
    if variant == CHECK:
        return run_check(config, log)
    kind, _, seed = variant.rpartition("-seed")
    redrawn, kind = kind in REDRAWN, REDRAWN.get(kind, kind)
    run = run_fixed if kind in FIXED else run_learned
    return run(config, int(seed), kind, redrawn, log)
