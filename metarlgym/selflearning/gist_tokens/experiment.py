"""Gist tokens: learn gist tokens through an attention bottleneck, then train in the space of their states.

Phase A trains models with different numbers of gist tokens and two controls, and measures how many bits pass through
the bottleneck. Phase B starts from such a model and asks whether a score in gist space is harder or easier to hack than
one in token space. A variant of phase A is a view and a seed; a variant of phase B is a space and a seed.
"""

from __future__ import annotations

from typing import Any

import torch

from metarlgym.datatypes import ConfigError
from metarlgym.seeding import derive
from metarlgym.selflearning.experiment import Log
from metarlgym.selflearning.gist_tokens.config import Config
from metarlgym.selflearning.gist_tokens.leak import chunk_1_gradient
from metarlgym.selflearning.gist_tokens.model import held_out_loss, make_source, train_gists
from metarlgym.selflearning.gist_tokens.plots import pictures
from metarlgym.selflearning.gist_tokens.policy_learning import held_out, run_space
from metarlgym.selflearning.gist_tokens.references import exact_losses
from metarlgym.selflearning.gist_tokens.report import summarize

__all__ = ["Config", "pictures", "run_variant", "summarize", "variants"]

CONTROLS = ("no_bottleneck", "no_gist")


def variants(config: Config) -> list[str]:
    """`gist-K-seedS` and the controls for phase A, `space-NAME-seedS` for phase B."""
    views = [f"gist-{k}" for k in config.gists] + (list(CONTROLS) if config.gists else [])
    found = [f"{view}-seed{seed}" for seed in config.gist_seeds for view in views]
    return found + [f"space-{space}-seed{seed}" for seed in config.seeds for space in config.spaces]


def run_variant(config: Config, variant: str, log: Log) -> dict[str, Any]:
    """Run one variant.

    Returns:
        Phase A: `view`, `gists`, `seed`; `loss` on chunk 2 (expected under the truth) and its standard error `loss_se`
        over sequences; `exact`; `leak_max_abs` with gists cut off, and `gradient_max_abs` without, see `leak.py`. Phase
        B: see `run_space`.

    Raises:
        ConfigError: unknown variant.
    """
    if variant not in variants(config):
        raise ConfigError(f"variant={variant!r} is not one of this config: use {', '.join(variants(config))}.")
    name, _, last = variant.rpartition("-seed")
    seed = int(last)
    if name.startswith("space-"):
        return run_space(config, name.removeprefix("space-"), seed, log)
    view, _, number = name.partition("-")
    # Controls have an unused gist too, so that their sequences are otherwise the same.
    gists = int(number or 1)
    model = train_gists(config, gists, view, seed, config.steps, log)
    first, second, theta = held_out(config, config.held)
    loss = held_out_loss(model, first, second, theta)
    few = slice(config.leak_sequences)
    with torch.enable_grad():
        leak, whole = (chunk_1_gradient(model, first[few], second[few], cut) for cut in (True, False))
    source = make_source(config, derive(config.world, "held-out"))
    return {
        "view": view,
        "gists": gists,
        "seed": seed,
        "loss": float(loss.mean()),
        "loss_se": float(loss.std() / len(loss) ** 0.5),
        "exact": exact_losses(config, source, config.held),
        "leak_max_abs": leak,
        "gradient_max_abs": whole,
    }
