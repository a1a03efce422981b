"""run_training: one training run from settings to `final/` and `eval.json`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from rich.console import Console
from transformers import PrinterCallback, set_seed
from transformers.utils import logging as hf_logging
from trl import get_peft_config

from metarlgym.author_errors import error_line
from metarlgym.checks.quick import quick_check
from metarlgym.datatypes import ConfigError, MetaRLGymError
from metarlgym.evaluation.adaptation import EvalSettings
from metarlgym.evaluation.model_eval import evaluate_policy, report_table, write_report
from metarlgym.memory import make_memory
from metarlgym.policies.supported import check_config
from metarlgym.rollout.render import Renderer
from metarlgym.rollout.room import check_room
from metarlgym.tasks import TaskGroup
from metarlgym.training.acting import connect
from metarlgym.training.agreement import agree
from metarlgym.training.arguments import Settings
from metarlgym.training.callbacks import LiveProgress, MetricsFile, TrialSamples
from metarlgym.training.claim import check_before, check_changes, training_run
from metarlgym.training.final import save_final
from metarlgym.training.open_run import OpenRun, open_run
from metarlgym.training.plan import make_plan
from metarlgym.training.preemption import Preemption
from metarlgym.training.reference import check_reference
from metarlgym.training.rooms import check_scratch_room, context_rooms
from metarlgym.training.saveable import check_saveable
from metarlgym.training.start import inspect_model, make_start, starting_policy
from metarlgym.training.trainer import MetaGRPOTrainer
from metarlgym.training.values import show
from metarlgym.trial import Trial


def run_training(
    settings: Settings, console: Console | None = None, dry_run: bool = False, start_only: bool = False
) -> dict[str, Any] | None:
    """Train and evaluate; returns the final report, None for a dry run, with `start_only`, and on other ranks.

    Everything goes to `output_dir`: `config.yaml`, `metrics.jsonl`, `trials.jsonl`, checkpoints, `final/`, `eval.json`,
    `adaptation.png`.
    """
    console = console or Console()
    args = settings.grpo
    group, make_trial = prepare(settings, console, dry_run)
    folder = Path(str(args.output_dir))
    if dry_run:
        console.print(make_plan(settings, group).render())
        return None
    quiet()
    if start_only:
        make_start(settings, group, make_trial, folder / "start", console)
        return None
    if not args.distributed_state.is_main_process:
        console = Console(quiet=True)
    opened, mode, inputs = training_run(settings)

    def check(held: Path) -> None:
        check_changes(settings, held, console)

    with open_run(opened, mode, inputs, check, console):
        return _train(settings, group, make_trial, opened, console)


def _train(
    settings: Settings, group: TaskGroup, make_trial: Callable[[], Trial], opened: OpenRun, console: Console
) -> dict[str, Any] | None:
    """The run in its folder, claimed; returns what `run_training` does."""
    run, args, folder = settings.run, settings.grpo, opened.path
    set_seed(args.seed)
    model, tokenizer, renderer = starting_policy(settings, group, make_trial, folder, console)
    if not settings.model.model_name_or_path:
        opened.keep()
    optimum = group.env.optimal_returns(args.episodes) if not group.content_split else None
    progress = LiveProgress(console, optimum if optimum and optimum.total is not None else None)
    preemption = Preemption(folder)

    def tell(line: str) -> None:
        console.print(f"warning: {line}", style="yellow", highlight=False, soft_wrap=True)

    args.disable_tqdm = True
    trainer = MetaGRPOTrainer(
        model=model,
        args=args,
        group=group,
        processing_class=tokenizer,
        renderer=renderer,
        on_trials=TrialSamples(folder, run.sample_every, run.sample_trials, tell),
        callbacks=[opened, MetricsFile(folder, tell), progress, preemption],
        peft_config=get_peft_config(settings.model),
    )
    trainer.remove_callback(PrinterCallback)
    console.print(f"training {group.env_id}, {args.episodes} episodes a trial; results in {folder}", highlight=False)
    try:
        trainer.train(resume_from_checkpoint=str(opened.resume_from) if opened.resume_from else None)
    finally:
        progress.close()
    preemption.check()
    opened.stage = "final"
    final = opened.saved = save_final(trainer, tokenizer, settings, folder)
    if not run.final_eval_trials:
        return None
    report = _final_report(settings, group, trainer, renderer, final, console)
    if not trainer.accelerator.is_main_process:
        return None
    try:
        write_report(report, folder, console)
    except (OSError, MetaRLGymError) as error:
        console.print(report_table(report))  # what was computed is not lost
        why = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise MetaRLGymError(
            f"the report cannot be written to {folder} ({why}); the final model is {final}. Evaluate it again with "
            f"metarlgym eval --model {final}"
        ) from error
    return report


def prepare(
    settings: Settings, console: Console | None = None, dry_run: bool = False
) -> tuple[TaskGroup, Callable[[], Trial]]:
    """All checks that come before a folder is claimed; returns the task group and a maker of its trials.

    Raises:
        ConfigError: a setting that does not fit; nothing was written.
    """
    run, args = settings.run, settings.grpo
    if run.threads:
        torch.set_num_threads(run.threads)
    assert not isinstance(run.env_args, str)
    try:
        group = TaskGroup(run.env_id, run.env_args, run.task_seed)
        make_trial = _trial_maker(settings, group)
        make_trial()  # arguments that contradict each other are refused here
    except MetaRLGymError:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, MemoryError) as error:
        cause = " ".join(error_line(error).split()).rstrip(".")
        raise ConfigError(f"env_args={show(run.env_args)} do not fit {run.env_id}: {cause}.") from error
    agree(quick_check(group, make_trial))
    if group.content_split:
        during = args.eval_trials if args.eval_strategy != "no" else 0
        for name, count in (("eval_trials", during), ("final_eval_trials", run.final_eval_trials)):
            try:
                group.tasks(count, "eval")
            except ConfigError as error:
                raise ConfigError(str(error).replace("eval_trials", name, 1)) from None
    check_before(args)
    check_reference(args, settings.model.use_peft)
    if not dry_run:
        _check_model(settings, group, console or Console())
    return group, make_trial


def _final_report(
    settings: Settings, group: TaskGroup, trainer: MetaGRPOTrainer, renderer: Renderer, final: Path, console: Console
) -> dict[str, Any]:
    """Evaluate with the policy that trained; each process plays its share of the trials."""
    run, args = settings.run, settings.grpo
    eval_settings = EvalSettings(
        episodes=args.episodes,
        trials=run.final_eval_trials,
        seed=args.seed,
        memory=args.memory,
        free_shots=args.free_shots_at(args.max_steps),
        stop_on_success=args.stop_on_success,
        max_total_turns=args.max_total_turns,
        limits=trainer.limits,
    )
    decode = {"temperature": args.temperature, "greedy": False}
    accelerator = trainer.accelerator
    with trainer.acting() as policy:
        return evaluate_policy(
            group,
            policy,
            renderer,
            eval_settings,
            console,
            str(final),
            decode,
            shard=(accelerator.process_index, accelerator.num_processes),
            gather=gather_object if accelerator.num_processes > 1 else None,
        )


def _check_model(settings: Settings, group: TaskGroup, console: Console) -> None:
    """Refuse a model and servers that do not fit, before the run's folder is touched.

    Raises:
        AgreedError: on every process, whichever of them found it.
    """
    name, args = settings.model.model_name_or_path, settings.grpo
    if not name:
        check_scratch_room(settings, group, _trial_maker(settings, group))
        if args.use_vllm:
            raise ConfigError(
                "use_vllm=true needs model_name_or_path, the model that is served too: "
                "`metarlgym new-model --out runs/tiny` makes a small one."
            )
        return
    problem: MetaRLGymError | None = None
    tokenizer = None
    try:
        config, tokenizer, renderer = inspect_model(settings, group)
        if not args.use_vllm:
            check_config(config)
        check_room(group, _trial_maker(settings, group), renderer, context_rooms(args, config))
        check_saveable(name, config, tokenizer)
    except MetaRLGymError as error:
        problem = error
    agree(problem)
    main = args.distributed_state.is_main_process
    connect(args, tokenizer, [group.env.rules()], console.print if main else None)


def quiet() -> None:
    """Silence what libraries print about themselves; warnings of ours and errors stay."""
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns that it found none
    import datasets

    datasets.disable_progress_bars()


def _trial_maker(settings: Settings, group: TaskGroup) -> Callable[[], Trial]:
    args = settings.grpo
    return lambda: Trial(
        group.make_env(),
        args.episodes,
        memory=make_memory(args.memory),
        stop_on_success=args.stop_on_success,
        max_total_turns=args.max_total_turns,
    )
