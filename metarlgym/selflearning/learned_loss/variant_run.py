"""The parts shared by all variants: a stream, the learner's warm-up under uniform weights, and checks."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import one_hot

from metarlgym.seeding import derive
from metarlgym.selflearning.experiment import Log
from metarlgym.selflearning.learned_loss.config import Config, Setting
from metarlgym.selflearning.learned_loss.data import Chunk, language_source, read_chunk
from metarlgym.selflearning.learned_loss.evaluation import Judge
from metarlgym.selflearning.learned_loss.learner import Learner
from metarlgym.selflearning.learned_loss.validation_choice import ValidationChoice


def make_learner(config: Config, setting: Setting, seed: int) -> Learner:
    """A fresh learner."""
    sizes = (int(setting.noise["V"]) + 2, config.length, config.hidden_size, config.layers, config.heads)
    return Learner(*sizes, setting.rate, derive(seed, "learner"))


class Run:
    """One learner's stream and checks.

    Args:
        config: settings.
        setting: the stream and the length of the run.
        seed: seed of language, stream and weights.
        log: receives the measurements.
    """

    def __init__(self, config: Config, setting: Setting, seed: int, log: Log) -> None:
        self.config, self.setting, self.seed, self.log = config, setting, seed, log
        self.source = language_source(setting.noise, config.length, seed, setting.redrawn)
        self.check = read_chunk(self.source, 0, config.check_chunks, "eval")
        self.last = setting.warm + setting.steps

    def chunk(self, step: int) -> Chunk:
        """The chunks of a step, counted from 0."""
        return read_chunk(self.source, step * self.setting.batch, self.setting.batch)

    def due(self, step: int) -> bool:
        """Whether a check is due after this many steps."""
        return step % self.config.check_every == 0 or step == self.last

    def warm(self) -> tuple[Learner, list[dict[str, Any]]]:
        """Train a learner under uniform weights; returns it with its checks."""
        learner = make_learner(self.config, self.setting, self.seed)
        optimizer = None
        if self.setting.warm_rate is not None:
            optimizer = torch.optim.Adam(list(learner.params.values()), self.setting.warm_rate)
        curve: list[dict[str, Any]] = []
        for i in range(self.setting.warm):
            own = learner.fixed_step(self.chunk(i), all_alike, optimizer)
            if self.due(i + 1):
                found = {"self_loss": own, "true_loss": learner.true_loss(self.check)}
                curve.append({"step": i + 1, **found})
                self.log(i + 1, self.last, phase="warm", **found)
        return learner, curve

    def judge(self) -> Judge:
        """The held-out part of the stream."""
        return Judge(self.source, self.config.held_out, self.last * self.setting.batch)


def all_alike(chunk: Chunk) -> torch.Tensor:
    """Uniform weights of 1."""
    return torch.ones(chunk.targets.shape)


def true_mask(chunk: Chunk) -> torch.Tensor:
    """Weights 0 for wrong targets, 1 for the others."""
    return (~chunk.corrupted).float()


def symbols_in_common(run: Run, pick: ValidationChoice, buffer: Chunk, learner: Learner) -> float | None:
    """Mean fraction of symbols (as multisets) that training chunks share with the chunks picked for them; None if none
    are picked."""
    chunk = read_chunk(run.source, 0, 8 * run.setting.batch)
    rows = pick.pick(chunk.inputs, learner.represent)
    if rows is None:
        return None
    counts = [one_hot(part, run.source.vocab_size).sum(1) for part in (chunk.labels, buffer.labels[rows])]
    return (torch.minimum(*counts).sum(1) / chunk.labels.shape[1]).mean().item()
