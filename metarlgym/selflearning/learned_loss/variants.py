"""The variants: a learner on a noisy stream, under fixed weights or under a learned loss."""

from __future__ import annotations

import math
from typing import Any

import torch

from metarlgym.seeding import derive
from metarlgym.selflearning.experiment import Log
from metarlgym.selflearning.learned_loss.config import Config
from metarlgym.selflearning.learned_loss.data import language_source, read_chunk
from metarlgym.selflearning.learned_loss.gist_loss import GistLoss
from metarlgym.selflearning.learned_loss.hypergradient import finite_difference_error
from metarlgym.selflearning.learned_loss.learner import LearnedLoss, Learner
from metarlgym.selflearning.learned_loss.noise_posterior import auc
from metarlgym.selflearning.learned_loss.token_weights import WeightNet
from metarlgym.selflearning.learned_loss.validation_choice import ValidationChoice
from metarlgym.selflearning.learned_loss.variant_run import Run, all_alike, make_learner, symbols_in_common, true_mask


def make_loss(config: Config, name: str, seed: int) -> LearnedLoss:
    """Create an untrained loss: `weights`, `gist`, or `gist_ce` (gist and weighted cross-entropy)."""
    if name == "weights":
        return WeightNet(config.loss_width, seed)
    sizes = (config.V + 2, config.hidden_size, config.gist_size, config.gist_window)
    return GistLoss(*sizes, name == "gist_ce", config.loss_width, seed)


def run_fixed(config: Config, seed: int, kind: str, redrawn: bool, log: Log) -> dict[str, Any]:
    """Train with fixed weights (`uniform`, or `oracle`: the true noise mask) at the best of several learning rates."""
    run = Run(config, config.setting(redrawn), seed, log)
    warm, early = run.warm()
    weigh = all_alike if kind == "uniform" else true_mask
    tried: dict[float, tuple[float, Learner, list[dict[str, Any]]]] = {}
    rates = [rate * run.setting.rate for rate in config.fixed_rates]
    for k, rate in enumerate(rates):
        learner, curve = warm.copy(rate), list(early)
        for i in range(run.setting.warm, run.last):
            own = learner.fixed_step(run.chunk(i), weigh)
            if run.due(i + 1):
                curve.append({"step": i + 1, "self_loss": own, "true_loss": learner.true_loss(run.check)})
                total = run.setting.warm + len(rates) * run.setting.steps
                log(k * run.setting.steps + i + 1, total, rate=rate, **_but_step(curve[-1]))
        end = curve[-1]["true_loss"]
        # An infinite loss marks a learning rate at which the learner diverged.
        tried[rate] = (end if math.isfinite(end) else math.inf, learner, curve)
    best = min(tried, key=lambda rate: tried[rate][0])
    _, learner, curve = tried[best]
    rates_tried = {str(rate): found[0] if math.isfinite(found[0]) else None for rate, found in tried.items()}
    return {**run.judge().learner(learner), "rate": best, "rates": rates_tried, "curve": curve}


def run_learned(config: Config, seed: int, kind: str, redrawn: bool, log: Log) -> dict[str, Any]:
    """Learn a loss: on a fixed language first offline with other learners, then online together with the learner
    itself.

    Args:
        config: settings.
        seed: seed of language, stream and weights.
        kind: one of `LEARNED`.
        redrawn: give each sequence its own language.
        log: receives the measurements.
    """
    run = Run(config, config.setting(redrawn), seed, log)
    name, _, choice = kind.partition("-")
    lookahead = 1.0 if name == "weights_full" else config.lookahead
    loss = make_loss(config, name.removesuffix("_full"), seed)
    optimizer = torch.optim.Adam(loss.parameters(), config.loss_rate)
    # On redrawn languages learners make progress too slowly to train several of them.
    for k in range(0 if redrawn else config.offline_runs):
        warm = run.setting.warm * (k + 1) // config.offline_runs
        other = Run(config, run.setting._replace(warm=warm), derive(seed, "offline", k), _no_log)
        learner, _ = other.warm()
        for i in range(warm, warm + config.offline_steps):
            own = learner.learned_step(other.chunk(i), other.chunk(i + 1), loss, optimizer, lookahead)
            if i + 1 == warm + config.offline_steps:
                log(k + 1, config.offline_runs, phase="offline", self_loss=own)

    learner, curve = run.warm()
    # Far beyond the training data.
    buffer = read_chunk(run.source, 10 * run.last * run.setting.batch, config.buffer)
    pick = ValidationChoice(choice, buffer.inputs, seed, config.check_every)
    for i in range(run.setting.warm, run.last):
        chunk = run.chunk(i)
        rows = pick.pick(chunk.inputs, learner.represent)
        judge = run.chunk(i + 1) if rows is None else buffer[rows]
        own = learner.learned_step(chunk, judge, loss, optimizer, lookahead)
        if run.due(i + 1):
            found = auc(1 - learner.token_weights(run.check, loss), run.check.corrupted.numpy())
            curve.append({"step": i + 1, "self_loss": own, "true_loss": learner.true_loss(run.check), "auc": found})
            log(i + 1, run.last, phase="online", **_but_step(curve[-1]))
    alike = symbols_in_common(run, pick, buffer, learner)
    return {**run.judge().learner(learner, loss), "rate": run.setting.rate, "curve": curve, "alike": alike}


def run_check(config: Config, log: Log) -> dict[str, Any]:
    """Check the hypergradient of every learned loss against finite differences, in float64."""
    errors, names = {}, ("weights", "gist", "gist_ce")
    setting = config.setting(False)
    source = language_source(setting.noise, config.length, 0, False)
    for done, name in enumerate(names, 1):
        generator = torch.Generator().manual_seed(derive(0, "directions", name) % 2**31)
        learner, loss = make_learner(config, setting, 0).double(), make_loss(config, name, 0).double()
        with torch.no_grad():
            # Move away from the initialization, where most gradients are 0.
            for part in loss.parameters():
                part.add_(0.3 * torch.randn(part.shape, generator=generator, dtype=part.dtype))
        chunks = [read_chunk(source, 4 * k, 4) for k in range(3)]
        errors[name] = finite_difference_error(
            learner.inner(loss, chunks[:2]),
            learner.outer(chunks[2]),
            learner.params,
            list(loss.parameters()),
            0.1 * config.rate,
            generator,
            steps=2,
        )
        log(done, len(names), loss=name, error=errors[name])
    return {"errors": errors}


def _but_step(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != "step"}


def _no_log(step: int, total: int, **values: Any) -> None:
    """Log nothing, for learners that only serve to learn a loss."""
