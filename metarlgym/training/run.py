"""run_training: a training run from settings to `final/` and `eval.json`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from accelerate.utils import gather_object
from rich.console import Console
from transformers import PrinterCallback, set_seed
from trl import get_peft_config

from metarlgym.datatypes import MetaRLGymError
from metarlgym.evaluation.evaluate import EvalSettings
from metarlgym.evaluation.report import EvalReport
from metarlgym.evaluation.run import evaluate_policy, write_report
from metarlgym.rollout.records import decode_with
from metarlgym.rollout.render import Renderer
from metarlgym.runtime.agreement import AgreedError
from metarlgym.runtime.launch import limit_waiting, quiet
from metarlgym.runtime.metrics_file import MetricsFile
from metarlgym.runtime.open_run import OpenRun, open_run
from metarlgym.training.arguments import Settings
from metarlgym.training.callbacks import LiveProgress, TrialSamples
from metarlgym.training.claim import check_changes, check_template, training_run
from metarlgym.training.dry_run import make_plan
from metarlgym.training.final import save_final
from metarlgym.training.preemption import Preemption
from metarlgym.training.resolve import Run, resolve
from metarlgym.training.server_backend import connect
from metarlgym.training.start import ScratchModel
from metarlgym.training.thoughts import ThoughtAlarm
from metarlgym.training.trainer import MetaGRPOTrainer


def run_training(
    settings: Settings, console: Console | None = None, dry_run: bool = False, start_only: bool = False
) -> EvalReport | None:
    """Train and evaluate; returns the final report, or None for a dry run, with `start_only`, and on other ranks.

    All outputs go to `output_dir`: `config.yaml`, `metrics.jsonl`, `trials.jsonl`, checkpoints, `final/`, `eval.json`,
    `adaptation.png`.
    """
    console = console or Console()
    run = resolve(settings)
    settings = run.settings
    args = settings.grpo
    if settings.own and args.distributed_state.is_main_process:
        named = ", ".join(f"{name} {value}" for name, value in settings.own.items())
        console.print(f"trials of {run.group.env_id}: {named}", highlight=False, soft_wrap=True)
    if run.chosen and args.distributed_state.is_main_process:
        named = ", ".join(f"{name} {value}" for name, value in run.chosen.items())
        console.print(f"defaults for this model: {named}", highlight=False, soft_wrap=True)
    if dry_run:
        console.print(make_plan(run).render())
        return None
    main = args.distributed_state.is_main_process
    limit_waiting(args.ddp_timeout_delta)
    if args.server_urls:
        connect(args, run.start.tokenizer, [run.group.env.rules()], console.print if main else None)
    quiet()
    if start_only:
        assert isinstance(run.start, ScratchModel)
        run.start.make(Path(str(args.output_dir)) / "start", console)
        return None
    if not main:
        console = Console(quiet=True)
    opened, mode, inputs = training_run(settings)

    def check(held: Path) -> None:
        check_changes(settings, held, console)
        check_template(run.start.tokenizer, held)

    with open_run(opened, mode, inputs, check, console):
        return _train(run, opened, console)


def _train(resolved: Run, opened: OpenRun, console: Console) -> EvalReport | None:
    """Train in the claimed run folder; returns the same as `run_training`."""
    settings, group, folder = resolved.settings, resolved.group, opened.path
    run, args = settings.run, settings.grpo
    set_seed(args.seed)
    model, tokenizer, renderer = resolved.start.load(folder, console)
    if not settings.model.model_name_or_path:
        opened.keep()
    progress = LiveProgress(console, group.optimum(replace(resolved.play.trial, free_shots=0)))
    preemption = Preemption(folder)

    def notify(line: str) -> None:
        console.print(f"warning: {line}", style="yellow", highlight=False, soft_wrap=True)

    rules = group.make_trial(resolved.play.trial).rules()
    decode = decode_with(renderer) if run.write_contexts else None
    args.disable_tqdm = True
    trainer = MetaGRPOTrainer(
        model=model,
        args=args,
        group=group,
        processing_class=tokenizer,
        renderer=renderer,
        on_trials=TrialSamples(folder, run.sample_every, run.sample_trials, notify, rules, decode),
        callbacks=[opened, MetricsFile(folder, notify), progress, preemption, ThoughtAlarm(notify)],
        peft_config=get_peft_config(settings.model),
    )
    preemption.on_signal = trainer.backend.hurry
    trainer.collapse.notify = notify
    trainer.tell = lambda line: console.print(line, highlight=False, soft_wrap=True)
    trainer.remove_callback(PrinterCallback)
    progress.clock = trainer.clock
    console.print(f"training {group.env_id}, {args.episodes} episodes a trial; results in {folder}", highlight=False)
    try:
        trainer.train(resume_from_checkpoint=str(opened.resume_from) if opened.resume_from else None)
    except AgreedError:
        preemption.check_failure(trainer.state.global_step)
        raise
    finally:
        progress.close()
    preemption.check()
    opened.stage = "final"
    final = opened.saved = save_final(trainer, tokenizer, settings, folder)
    if not run.final_eval_trials:
        return None
    report = _final_report(resolved, trainer, renderer, final, console)
    if not trainer.accelerator.is_main_process:
        return None
    try:
        write_report(report, folder, console)
    except (OSError, MetaRLGymError) as error:
        console.print(report.table())  # so that the results are not lost
        why = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise MetaRLGymError(
            f"the report cannot be written to {folder} ({why}); the final model is {final}. Evaluate it again with "
            f"metarlgym eval --model {final}"
        ) from error
    return report


def _final_report(
    resolved: Run, trainer: MetaGRPOTrainer, renderer: Renderer, final: Path, console: Console
) -> EvalReport:
    """Evaluate with the policy used in training; each process plays its share of the trials."""
    args = resolved.settings.grpo
    eval_settings = EvalSettings(
        replace(resolved.play.trial, free_shots=args.free_shots_at(args.max_steps)),
        trials=resolved.settings.run.final_eval_trials,
        seed=args.seed,
        limits=trainer.limits,
    )
    decode = {"temperature": args.temperature, "greedy": False}
    accelerator = trainer.accelerator
    with trainer.acting() as policy:
        return evaluate_policy(
            resolved.group,
            policy,
            renderer,
            eval_settings,
            console,
            str(final),
            decode,
            shard=(accelerator.process_index, accelerator.num_processes),
            gather=gather_object if accelerator.num_processes > 1 else None,
            lower="final_eval_trials or max_action_tokens",
        )
