"""Runs with given settings, for the tests of the settings of `train`."""

from __future__ import annotations

import functools
import io
import json
import types

import pytest
import torch
from base_runs import MADE_FROM_SCRATCH, TRAIN
from rich.console import Console
from setting_fields import write

from metarlgym import ConfigError
from metarlgym.models.loading import load_model
from metarlgym.training import run as running
from metarlgym.training import trainer as training
from metarlgym.training.arguments import parse

BASE = {
    **TRAIN,
    "per_device_train_batch_size": 32,
    "max_steps": 2,
    "learning_rate": 2e-2,
    "logging_steps": 1,
    "save_strategy": "no",
    "seed": 0,
    "final_eval_trials": 0,
}
GIVEN_MODEL = dict.fromkeys(MADE_FROM_SCRATCH) | {"model_name_or_path": "m"}
CHAT = {"env_args": {"doors": 3}, "max_action_tokens": 7, "entropy_coef": 0.5}
"""Settings of runs that start from the model `chat`."""
GC = ("get_threshold", "set_threshold", "collect", "freeze", "unfreeze")


def parsed(folder, *line, **settings):
    return parse(["--config", str(write(folder, **settings)), *line])


def refusal(folder, *line, **settings):
    """The line that a start ends with."""
    with pytest.raises(ConfigError) as caught:
        parsed(folder, *line, **{**BASE, **settings})
    text = str(caught.value)
    assert "\n" not in text and text.endswith((".", ")"))
    return text


class Run:
    """A run that is over: its folder, its trainer and what it printed."""

    def __init__(self, folder, settings):
        folder.mkdir()
        self.folder = folder / "out"
        given = {k: v for k, v in BASE.items() if k not in MADE_FROM_SCRATCH or "model_name_or_path" not in settings}
        made = []

        class Kept(running.MetaGRPOTrainer):
            def __init__(self, *args, **kwargs):
                made.append(self)
                super().__init__(*args, **kwargs)

        console = Console(file=io.StringIO(), width=200)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(running, "MetaGRPOTrainer", Kept)
            # a full collection takes longer than such a run
            patch.setattr(training, "gc", types.SimpleNamespace(**{k: lambda *_: () for k in GC}))
            parts = parsed(folder, **{**given, "output_dir": str(self.folder), **settings})
            running.run_training(parts, console)
        self.trainer, self.text = made[0], console.file.getvalue()

    @functools.cached_property
    def weights(self):
        return torch.cat([p.detach().float().flatten() for p in load_model(str(self.folder / "final")).parameters()])

    def lines(self, name):
        """Values of a metric by step."""
        read = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        return {line["step"]: line[name] for line in read if name in line}
