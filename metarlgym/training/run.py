"""run_training: one training run from settings to `final/` and `eval.json`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.utils import gather_object
from rich.console import Console
from transformers import PrinterCallback, set_seed
from transformers.utils import logging as hf_logging
from trl import get_peft_config

from metarlgym import __version__
from metarlgym.datatypes import ConfigError, MetaRLGymError
from metarlgym.evaluation.adaptation import EvalSettings
from metarlgym.evaluation.model_eval import evaluate_policy, write_report
from metarlgym.memory import make_memory
from metarlgym.rollout.render import Renderer
from metarlgym.tasks import TaskGroup
from metarlgym.training.acting import connect
from metarlgym.training.agreement import agree
from metarlgym.training.arguments import Settings
from metarlgym.training.callbacks import LiveProgress, MetricsFile, TrialSamples
from metarlgym.training.checkpoint import checkpoints, latest_complete
from metarlgym.training.final import save_final
from metarlgym.training.plan import make_plan
from metarlgym.training.preemption import Preemption
from metarlgym.training.start import inspect_model, make_start, starting_policy
from metarlgym.training.trainer import MetaGRPOTrainer
from metarlgym.trial import Trial


def run_training(
    settings: Settings, console: Console | None = None, dry_run: bool = False, start_only: bool = False
) -> dict[str, Any] | None:
    """Train and evaluate; returns the final report, None for a dry run, with `start_only`, and on other ranks.

    Everything goes to `output_dir`: `config.yaml`, `metrics.jsonl`, `trials.jsonl`, checkpoints, `final/`, `eval.json`,
    `adaptation.png`.
    """
    console = console or Console()
    run, args = settings.run, settings.grpo
    if run.threads:
        torch.set_num_threads(run.threads)
    assert not isinstance(run.env_args, str)
    group = TaskGroup(run.env_id, run.env_args, run.task_seed)
    make_trial = _trial_maker(settings, group)
    make_trial()  # arguments that contradict each other are refused here
    if group.content_split:
        during = args.eval_trials if args.eval_strategy != "no" else 0
        for name, count in (("eval_trials", during), ("final_eval_trials", run.final_eval_trials)):
            try:
                group.tasks(count, "eval")
            except ConfigError as error:
                raise ConfigError(str(error).replace("eval_trials", name, 1)) from None
    if not dry_run:
        _check_model(settings, group, console)
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
    resume_from = _claim_folder(settings, folder, console)
    args.distributed_state.wait_for_everyone()
    set_seed(args.seed)
    model, tokenizer, renderer = starting_policy(settings, group, make_trial, folder, console)
    optimum = group.env.optimal_returns(args.episodes) if not group.content_split else None
    progress = LiveProgress(console, optimum if optimum and optimum.total is not None else None)
    preemption = Preemption(folder)
    args.disable_tqdm = True
    trainer = MetaGRPOTrainer(
        model=model,
        args=args,
        group=group,
        processing_class=tokenizer,
        renderer=renderer,
        on_trials=TrialSamples(folder, run.sample_every, run.sample_trials),
        callbacks=[MetricsFile(folder), progress, preemption],
        peft_config=get_peft_config(settings.model),
    )
    trainer.remove_callback(PrinterCallback)
    console.print(f"training {group.env_id}, {args.episodes} episodes a trial; results in {folder}", highlight=False)
    try:
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    finally:
        progress.close()
    preemption.check()
    final = save_final(trainer, tokenizer, settings, folder)
    if not run.final_eval_trials:
        return None
    report = _final_report(settings, group, trainer, renderer, final, console)
    if not trainer.accelerator.is_main_process:
        return None
    write_report(report, folder, console)
    return report


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
        if args.use_vllm:
            raise ConfigError(
                "use_vllm=true needs model_name_or_path, the model that is served too: "
                "`metarlgym new-model --out runs/tiny` makes a small one."
            )
        return
    problem: MetaRLGymError | None = None
    tokenizer = None
    try:
        _, tokenizer, _ = inspect_model(settings, group)
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


def _claim_folder(settings: Settings, folder: Path, console: Console) -> Path | None:
    """Make the run folder ours; returns the checkpoint to go on from.

    Raises:
        ConfigError: it holds another run.
    """
    config = folder / "config.yaml"
    main = settings.grpo.distributed_state.is_main_process
    resume_from = None
    if settings.run.resume:
        resume_from, skipped = latest_complete(folder)
        for path in skipped:
            console.print(f"{path} is incomplete (the run ended while writing it): passed over", highlight=False)
        if resume_from is not None:
            console.print(f"resuming from {resume_from}", highlight=False)
        elif folder.exists():
            console.print(f"no complete checkpoint in {folder}: starting from the beginning", highlight=False)
        _tell_changes(settings, config, console)
    elif main and (config.exists() or checkpoints(folder)):
        if not settings.run.overwrite:
            raise ConfigError(
                f"output_dir={str(folder)!r} holds another run: give another --output_dir, go on with it by --resume, "
                "or replace it by --overwrite."
            )
        shutil.rmtree(folder)
    if main:
        folder.mkdir(parents=True, exist_ok=True)
        config.write_text(yaml.safe_dump(settings.resolved(), sort_keys=False, allow_unicode=True))
        (folder / "version.txt").write_text(f"metarlgym {__version__}\n")
    return resume_from


MAY_CHANGE = {
    "vllm_server_base_url",
    "vllm_server_host",
    "vllm_server_port",
    "vllm_server_timeout",
    "vllm_group_port",
    "server_request_timeout",
    "server_retry_seconds",
    "server_concurrency",
    "weight_sync_timeout",
    "probe_every",
    "probe_tolerance",
}
"""Where the servers are and how long they are waited for changes nothing about a run."""


def _tell_changes(settings: Settings, config: Path, console: Console) -> None:
    """Settings that differ from those the run was started with."""
    if not config.exists():
        return
    before, now = yaml.safe_load(config.read_text()) or {}, yaml.safe_load(yaml.safe_dump(settings.resolved()))
    for name in sorted(before.keys() | now.keys()):
        if name not in MAY_CHANGE and before.get(name) != now.get(name):
            console.print(
                f"[yellow]warning:[/] {name} was {before.get(name)!r} and is {now.get(name)!r}: the resumed run will "
                "not equal an uninterrupted one",
                highlight=False,
            )
