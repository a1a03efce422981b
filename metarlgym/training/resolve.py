"""Resolves the settings of a `train` run into its task group, trials and starting model, each built once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import broadcast_object_list

from metarlgym.author_errors import error_line
from metarlgym.contracts.quick_check import quick_check
from metarlgym.datatypes import ConfigError, MetaRLGymError
from metarlgym.rollout.play_settings import PlaySettings
from metarlgym.rollout.render import ChatRenderer
from metarlgym.runtime.agreement import agree
from metarlgym.runtime.before_claim import check_loggers
from metarlgym.settings.value_types import show
from metarlgym.tasks import TaskGroup
from metarlgym.training.arguments import Settings, parse
from metarlgym.training.backends import check_in_process
from metarlgym.training.exploration import check_choices
from metarlgym.training.footprint import Shape, random_rows
from metarlgym.training.format_steps import check_format
from metarlgym.training.model_defaults import check_action_room, model_defaults
from metarlgym.training.reference import check_reference
from metarlgym.training.run_date import date_of_run
from metarlgym.training.start import NamedModel, ScratchModel
from metarlgym.training.thoughts import check_kept
from metarlgym.trial import Trial


@dataclass
class Run:
    """A resolved run."""

    settings: Settings
    group: TaskGroup
    make_trial: Callable[[], Trial]
    start: NamedModel | ScratchModel
    chosen: dict[str, Any] = field(default_factory=dict)
    """Settings that were not given and follow from the model."""

    @property
    def play(self) -> PlaySettings:
        return self.settings.play


def resolve(settings: Settings) -> Run:
    """Resolve the settings and run all checks that precede contacting servers and claiming the run folder. Collective.

    Raises:
        ConfigError: on an invalid setting; nothing has been written.
    """
    run, args = settings.run, settings.grpo
    if run.threads:
        torch.set_num_threads(run.threads)
    group, make_trial = _task_group(settings)
    check_kept(settings.play, group)
    agree(quick_check(group, make_trial))
    if group.content_split:
        during = args.eval_trials if args.eval_strategy != "no" else 0
        for name, count in (("eval_trials", during), ("final_eval_trials", run.final_eval_trials)):
            try:
                group.tasks(count, "eval")
            except ConfigError as error:
                raise ConfigError(str(error).replace("eval_trials", name, 1)) from None
    check_loggers(args)
    if not args.use_vllm:
        check_in_process(args)
    check_reference(args, settings.model.use_peft)
    if args.explores:
        check_choices(group, make_trial)
    date = date_of_run(settings)
    problem: MetaRLGymError | None = None
    try:
        named = settings.model.model_name_or_path
        start = NamedModel(settings, group, date) if named else ScratchModel(settings, group, make_trial)
        start.check(group, make_trial)
        if args.format_steps:
            check_format(start.renderer)
    except MetaRLGymError as error:
        problem = error
    agree(problem)
    chosen = _model_defaults(settings, start, group, make_trial) if isinstance(start, NamedModel) else {}
    if chosen:
        dated = settings.grpo.chat_template_kwargs
        settings = start.settings = parse(settings.arguments, chosen)
        if dated != settings.grpo.chat_template_kwargs:  # the template prints a date, which the run records
            settings.set_template_kwargs(dict(dated or {}))
        check_reference(settings.grpo, settings.model.use_peft)
    return Run(settings, group, make_trial, start, chosen)


def _model_defaults(
    settings: Settings, start: NamedModel, group: TaskGroup, make_trial: Callable[[], Trial]
) -> dict[str, Any]:
    """Settings that follow from the model, chosen on the main process: how far random play gets depends on time."""
    found: list[dict[str, Any]] = [{}]
    problem: MetaRLGymError | None = None
    if settings.grpo.distributed_state.is_main_process and isinstance(start.renderer, ChatRenderer):
        try:
            shape = Shape.of(start.config, settings.grpo.trust_remote_code)
            rows = random_rows(group, make_trial, start.renderer)
            check_action_room(settings, rows)
            found = [model_defaults(settings, start.renderer, shape, rows)]
        except MetaRLGymError as error:
            problem = error
    agree(problem)
    if settings.grpo.world_size > 1:
        broadcast_object_list(found)
    return found[0]


def _task_group(settings: Settings) -> tuple[TaskGroup, Callable[[], Trial]]:
    """The task group and a factory for its trials; refuses invalid or contradictory `env_args`."""
    play = settings.play
    try:
        group = play.group()

        def make_trial() -> Trial:
            return group.make_trial(play.trial)

        make_trial()
    except MetaRLGymError:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, MemoryError) as error:
        cause = " ".join(error_line(error).split()).rstrip(".")
        raise ConfigError(f"env_args={show(settings.run.env_args)} do not fit {play.env_id}: {cause}.") from error
    return group, make_trial
