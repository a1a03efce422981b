"""run_pretraining: one run, from settings to `final/`, `summary.json` and plots."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PrinterCallback, set_seed

from metarlgym.datatypes import ConfigError
from metarlgym.files import write_json
from metarlgym.models.loading import load_config, load_model
from metarlgym.models.networks import NetworkArguments, make_network
from metarlgym.models.saveable import check_saveable, saveable
from metarlgym.pretraining.config import PretrainConfig
from metarlgym.pretraining.linear_probe import find_log_ages, probe
from metarlgym.pretraining.plots import plot_curves, plot_dynamics
from metarlgym.pretraining.progress import PretrainProgress
from metarlgym.pretraining.refused_fields import REFUSED, check_conditions
from metarlgym.pretraining.trainer import PretrainTrainer
from metarlgym.runtime.before_claim import check_loggers, inputs_of, mode_of
from metarlgym.runtime.integrity import marked
from metarlgym.runtime.launch import limit_waiting, quiet
from metarlgym.runtime.layout import MODEL
from metarlgym.runtime.metrics_file import MetricsFile
from metarlgym.runtime.open_run import OpenRun, open_run
from metarlgym.runtime.optimizer_check import check_optimizer
from metarlgym.runtime.resume_check import check_same, everything
from metarlgym.runtime.run_folder import Mode
from metarlgym.sequences.scoring.expected_loss import HeldOutLoss, curves, summarize
from metarlgym.sequences.sources import Source
from metarlgym.settings.flat import plain, read_flat
from metarlgym.settings.given import values_given
from metarlgym.settings.ranges import check_values
from metarlgym.settings.training_arguments import check_gpu
from metarlgym.version import __version__


@dataclass
class PretrainRun:
    """Options of the run that are not training settings."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Model to start from, a folder or a hub id; default: a new network."}
    )
    threads: int | None = field(
        default=None, metadata={"help": "Number of torch threads; one is often several times faster for tiny models."}
    )
    resume: bool = field(default=False, metadata={"help": "Resume from the newest complete checkpoint in output_dir."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the run in output_dir."})

    def __post_init__(self) -> None:
        check_values(self)


GROUPS = (PretrainRun, PretrainConfig, NetworkArguments)


@dataclass
class PretrainSettings:
    """All settings of a run, resolved."""

    run: PretrainRun
    config: PretrainConfig
    network: NetworkArguments
    given: dict[str, Any]
    arguments: list[str] = field(default_factory=list)
    """The command line as given."""
    idle: set[str] = field(default_factory=set)
    """Settings of the file that have no effect because of the command line."""

    def resolved(self) -> dict[str, Any]:
        """Our own settings and all others that were given; a file with them reproduces the run."""
        own = {name for group in GROUPS for name in group.__annotations__} - {"resume", "overwrite"}
        found: dict[str, Any] = {}
        for part in (self.run, self.config, self.network):
            for item in dataclasses.fields(part):
                once = item.name in ("resume", "overwrite")
                if item.name in self.idle:
                    continue
                if item.name in own:
                    found[item.name] = plain(getattr(part, item.name))
                elif item.name in self.given and not once:
                    # As given: values converted by transformers need not survive a round trip.
                    found[item.name] = plain(self.given[item.name])
        return found


def parse(arguments: Sequence[str]) -> PretrainSettings:
    """Read `--config FILE` and overrides.

    Raises:
        ConfigError: an unknown name or an invalid value.
    """
    said = values_given(arguments, "pretrain")
    changed = said.changed(GROUPS)
    check_gpu(changed)  # before derived values hide the given ones
    (run, config, network), given = read_flat(arguments, GROUPS, "pretrain", REFUSED)
    settings = PretrainSettings(run, config, network, given, list(arguments))
    settings.idle = check_conditions(said, changed, settings)
    check_optimizer(config)
    return settings


def run_pretraining(settings: PretrainSettings, console: Console | None = None) -> dict[str, Any] | None:
    """Train and evaluate; returns the summary, or None on ranks other than the first.

    Everything is written to `output_dir`: `config.yaml`, `metrics.jsonl`, checkpoints, `best/`, `final/`,
    `summary.json`, `curves.json`, `curves.png`, `dynamics.png`.
    """
    console = console or Console()
    run, args = settings.run, settings.config
    if run.threads:
        torch.set_num_threads(run.threads)
    source = args.make_source()
    if source.in_segments:
        find_log_ages(source)  # fail early if there are none
    held_out = HeldOutLoss(source, args.final_eval_sequences, start=args.eval_sequences, last_only=_last(args))
    quiet()
    check_loggers(args)
    main = args.distributed_state.is_main_process if args.distributed_state else True
    limit_waiting(args.ddp_timeout_delta)
    if not main:
        console = Console(quiet=True)
    if name := settings.run.model_name_or_path:
        check_saveable(name, load_config(name), None)
    opened, mode, inputs = _open(settings)

    def check(held: Path) -> None:
        check_same(held, _everything(settings), MAY_CHANGE)

    with open_run(opened, mode, inputs, check, console):
        return _train(settings, source, held_out, opened, main, console)


def _train(
    settings: PretrainSettings, source: Source, held_out: HeldOutLoss, opened: OpenRun, main: bool, console: Console
) -> dict[str, Any] | None:
    """Execute the run in its claimed folder; returns the same as `run_pretraining`."""
    args, folder = settings.config, opened.path
    set_seed(args.seed)
    model = _model(settings, source)
    size = model.num_parameters()  # ZeRO-3 partitions the weights later

    def notify(line: str) -> None:
        console.print(f"warning: {line}", style="yellow", highlight=False, soft_wrap=True)

    progress = PretrainProgress(console)
    args.disable_tqdm = True
    callbacks = [opened, MetricsFile(folder, notify), progress]
    trainer = PretrainTrainer(model, args, source, opened.first_step, callbacks)
    trainer.remove_callback(PrinterCallback)
    console.print(
        f"learning {args.source}: {size:,} parameters, sequences of {source.length} symbols out of "
        f"{source.vocab_size}; results in {folder}",
        highlight=False,
    )
    try:
        trainer.train(resume_from_checkpoint=str(opened.resume_from) if opened.resume_from else None)
    finally:
        progress.close()
    opened.stage = "final"
    with _marked(folder / "final", trainer, main):
        trainer.save_model(str(folder / "final"))
    if trainer.words is not None and main:
        for name in ("final", "best"):
            with _marked(folder / name, trainer, main):
                trainer.words.tokenizer().save_pretrained(folder / name)
    with console.status("evaluating the final model"):
        line = held_out.model(trainer.model, prefix=trainer.prefix)
        summary = summarize(line, held_out.exact)
    summary |= {
        "source": args.source,
        "source_args": args.source_args,
        "loss_on": args.loss_on,
        "network": type(model).__name__,
        "parameters": size,
        "steps": trainer.state.global_step,
        "best_eval_loss": trainer.state.best_metric,
        "data_share": round(trainer.fetch_seconds / max(1e-9, trainer.train_seconds), 4),
        "seed": args.seed,
        "version": __version__,
    }
    if source.in_segments and source.length > 1 and trainer.words is None:
        with console.status("probing for the last switch"):
            summary["probe"] = probe(trainer.model, source, min(400, 2 * args.final_eval_sequences))
    if not main:
        return None
    write_json(summary, folder / "summary.json")
    found = curves(line, held_out.exact)
    (folder / "curves.json").write_text(json.dumps(found) + "\n", encoding="utf-8")
    plot_curves(found, f"{type(model).__name__} on {args.source}", folder / "curves.png")
    plot_dynamics(folder / "metrics.jsonl", folder / "dynamics.png")
    _show(summary, folder, console)
    return summary


def _marked(folder: Path, trainer: PretrainTrainer, main: bool) -> AbstractContextManager[None]:
    return marked(folder, MODEL, trainer.state.global_step) if main else nullcontext()


def _last(args: PretrainConfig) -> bool:
    return args.loss_on == "last"


def _model(settings: PretrainSettings, source: Source) -> Any:
    name = settings.run.model_name_or_path
    if name:
        return saveable(load_model(name), name)
    args = settings.config
    words = args.make_words(source)
    size, needed = source.vocab_size, source.length
    if words is not None:
        size, needed = words.size, needed + len(words.prefix)
    if args.context is not None and args.context < needed:
        raise ConfigError(f"context={args.context} is shorter than a sequence with what stands before it: {needed}.")
    return make_network(settings.network, size, args.context or needed, args.seed)


MAY_CHANGE = (
    *("max_steps", "decay_steps", "learning_rate", "max_grad_norm", "threads", "eval_sequences"),
    "final_eval_sequences",
)
"""Settings that may change on resume, in addition to logging and saving."""


def _open(settings: PretrainSettings) -> tuple[OpenRun, Mode, dict[str, Any]]:
    """Open the run; returns it, the mode of its folder, and its inputs."""
    run, args = settings.run, settings.config
    inputs = inputs_of(
        settings.arguments,
        "pretrain",
        model_name_or_path=run.model_name_or_path,
        source_args=args.source_args,
        words_args=args.words_args,
        deepspeed=args.deepspeed,
    )
    opened = OpenRun.of(args.output_dir, "pretrain", settings.arguments, settings.resolved(), _everything(settings))
    return opened, mode_of(run.resume, run.overwrite), inputs


def _everything(settings: PretrainSettings) -> dict[str, Any]:
    return everything((settings.run, settings.config, settings.network), plain, settings.config.world_size)


def _show(summary: dict[str, Any], folder: Path, console: Console) -> None:
    gap = "" if summary["gap"] is None else f" (gap {summary['gap']:.2%})"
    console.print(f"loss {summary['final_loss']:.4f} nats a symbol, floor {summary['floor']:.4f}{gap}", highlight=False)
    if summary["regret_ratio"] is not None:
        console.print(
            f"cumulative regret {summary['cumulative_regret']:.2f} ± {summary['cumulative_regret_se']:.2f}, the exact "
            f"predictor's {summary['floor_regret']:.2f}: {summary['regret_ratio']:.3f} of it",
            highlight=False,
        )
    if "probe" in summary:
        read = summary["probe"]["posterior"]
        console.print(
            f"age of the segment, as exact Bayes believes it, read off the state: R^2 {read['network']:.2f} "
            f"(untrained {read['untrained']:.2f}, the last symbols alone {read['recent_symbols']:.2f})",
            highlight=False,
        )
    console.print(f"written: {folder}/summary.json, curves.png, dynamics.png, final/", highlight=False)
