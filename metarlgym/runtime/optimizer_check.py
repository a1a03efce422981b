"""Checks before a run that its optimizer and learning-rate schedule can be created, using one small weight."""

from __future__ import annotations

import torch
from transformers import Trainer, TrainingArguments
from transformers.optimization import get_scheduler

from metarlgym.datatypes import ConfigError

FIELDS = {"optimizer": ("optim", "optim_args"), "schedule": ("lr_scheduler_type", "lr_scheduler_kwargs")}


class _Weight(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2, 2))


def check_optimizer(args: TrainingArguments) -> None:
    """Create the optimizer and schedule as the trainer will, and evaluate the schedule at a few steps.

    Raises:
        ConfigError: if a library is missing or a setting is invalid; the message gives the settings and the cause.
    """
    model, part = _Weight(), "optimizer"
    try:
        kind, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, model)  # type: ignore[arg-type]
        if "optimizer_dict" in kwargs or "params" in kwargs or "model" in kwargs:
            return  # layer-wise optimizers, which need the model's own weights
        optimizer = kind(model.parameters(), **kwargs)
        part = "schedule"
        schedule = get_scheduler(
            args.lr_scheduler_type,
            optimizer=optimizer,
            num_warmup_steps=args.get_warmup_steps(args.max_steps),
            num_training_steps=args.max_steps,
            scheduler_specific_kwargs=args.lr_scheduler_kwargs,
        )
        if isinstance(schedule, torch.optim.lr_scheduler.LambdaLR):
            for step in (0, 1, args.max_steps):
                for rate in schedule.lr_lambdas:
                    rate(step)
    except Exception as error:  # each optimizer's library has its own exceptions
        given = {name: getattr(args, name) for name in FIELDS[part]}
        said = ", ".join(f"{name}={getattr(v, 'value', v)!r}" for name, v in given.items() if v is not None)
        raise ConfigError(f"{said}: {type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}.") from error
