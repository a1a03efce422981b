"""run_pretraining: one run from settings to `final/`, `summary.json` and pictures."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from transformers import PrinterCallback, set_seed

from metarlgym import __version__
from metarlgym.datatypes import ConfigError
from metarlgym.evaluation.model_eval import write_json
from metarlgym.pretraining.config import PretrainConfig
from metarlgym.pretraining.fields import REFUSED, check_conditions
from metarlgym.pretraining.networks import NetworkArguments, make_network
from metarlgym.pretraining.plots import plot_curves, plot_dynamics
from metarlgym.pretraining.probing import probe
from metarlgym.pretraining.progress import PretrainProgress
from metarlgym.pretraining.regret import Examination, curves, summarise
from metarlgym.pretraining.trainer import PretrainTrainer
from metarlgym.sources import Piecewise, Source
from metarlgym.training.callbacks import MetricsFile, drop_unfinished_line
from metarlgym.training.checkpoint import checkpoints, latest_complete
from metarlgym.training.fields import check_given
from metarlgym.training.flat import plain, read_flat
from metarlgym.training.given import values_given
from metarlgym.training.loading import load_model
from metarlgym.training.run import quiet


@dataclass
class PretrainRun:
    """What to do with the run."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "A model to go on from, a folder or a hub id; made from scratch if none."}
    )
    threads: int | None = field(
        default=None, metadata={"help": "Torch threads; one is often several times faster for tiny models."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on from the newest complete checkpoint in output_dir."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the run that output_dir holds."})


GROUPS = (PretrainRun, PretrainConfig, NetworkArguments)


@dataclass
class PretrainSettings:
    """All settings of a run, resolved."""

    run: PretrainRun
    config: PretrainConfig
    network: NetworkArguments
    given: dict[str, Any]
    idle: set[str] = field(default_factory=set)
    """Settings of the file that the command line left without effect."""

    def resolved(self) -> dict[str, Any]:
        """Our own settings and whatever else was given; a file of them starts the same run again."""
        own = {name for group in GROUPS for name in group.__annotations__} - {"resume", "overwrite"}
        found: dict[str, Any] = {}
        for part in (self.run, self.config, self.network):
            for item in dataclasses.fields(part):
                once = item.name in ("resume", "overwrite")
                if item.name not in self.idle and (item.name in own or (item.name in self.given and not once)):
                    found[item.name] = plain(getattr(part, item.name))
        return found


def parse(arguments: Sequence[str]) -> PretrainSettings:
    """Read `--config FILE` and overrides.

    Raises:
        ConfigError: a name or a value that does not fit.
    """
    said = values_given(arguments, "pretrain")
    check_given(said.changed(GROUPS), REFUSED)  # before derived values hide what was given
    (run, config, network), given = read_flat(arguments, GROUPS, "pretrain")
    settings = PretrainSettings(run, config, network, given)
    settings.idle = check_conditions(said, settings)
    return settings


def run_pretraining(settings: PretrainSettings, console: Console | None = None) -> dict[str, Any] | None:
    """Train and examine; returns the summary, None on other ranks than the first.

    Everything goes to `output_dir`: `config.yaml`, `metrics.jsonl`, checkpoints, `best/`, `final/`, `summary.json`,
    `curves.json`, `curves.png`, `dynamics.png`.
    """
    console = console or Console()
    run, args = settings.run, settings.config
    if run.threads:
        torch.set_num_threads(run.threads)
    source = args.make_source()
    examination = Examination(source, args.final_eval_sequences, start=args.eval_sequences, last_only=_last(args))
    quiet()
    folder = Path(str(args.output_dir))
    main = args.distributed_state.is_main_process if args.distributed_state else True
    if not main:
        console = Console(quiet=True)
    resume_from = _claim(settings, folder, console, main)
    if args.distributed_state:
        args.distributed_state.wait_for_everyone()
    set_seed(args.seed)
    model = _model(settings, source)
    size = model.num_parameters()  # under ZeRO-3 the weights are elsewhere afterwards
    start_step = int(resume_from.name.split("-")[1]) if resume_from else 0
    if main and resume_from:
        _cut_metrics(folder / "metrics.jsonl", start_step)
    progress = PretrainProgress(console)
    args.disable_tqdm = True
    trainer = PretrainTrainer(model, args, source, start_step, [MetricsFile(folder), progress])
    trainer.remove_callback(PrinterCallback)
    console.print(
        f"learning {args.source}: {size:,} parameters, sequences of {source.length} symbols out of "
        f"{source.vocab_size}; results in {folder}",
        highlight=False,
    )
    try:
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    finally:
        progress.close()
    trainer.save_model(str(folder / "final"))
    if trainer.words is not None and main:
        for name in ("final", "best"):
            trainer.words.tokenizer().save_pretrained(folder / name)
    with console.status("examining the final model"):
        line = examination.model(trainer.model, prefix=trainer.prefix)
        summary = summarise(line, examination.exact)
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
    if isinstance(source, Piecewise) and source.length > 1 and trainer.words is None:
        with console.status("probing for the last switch"):
            summary["probe"] = probe(trainer.model, source, min(400, 2 * args.final_eval_sequences))
    if not main:
        return None
    write_json(summary, folder / "summary.json")
    found = curves(line, examination.exact)
    (folder / "curves.json").write_text(json.dumps(found) + "\n")
    plot_curves(found, f"{type(model).__name__} on {args.source}", folder / "curves.png")
    plot_dynamics(folder / "metrics.jsonl", folder / "dynamics.png")
    _show(summary, folder, console)
    return summary


def _last(args: PretrainConfig) -> bool:
    return args.loss_on == "last"


def _model(settings: PretrainSettings, source: Source) -> Any:
    name = settings.run.model_name_or_path
    if name:
        return load_model(name)
    args = settings.config
    words = args.make_words(source)
    size, needed = source.vocab_size, source.length
    if words is not None:
        size, needed = words.size, needed + len(words.prefix)
    if args.context is not None and args.context < needed:
        raise ConfigError(f"context={args.context} is shorter than a sequence with what stands before it: {needed}.")
    return make_network(settings.network, size, args.context or needed, args.seed)


def _claim(settings: PretrainSettings, folder: Path, console: Console, main: bool) -> Path | None:
    """Make the run folder ours; returns the checkpoint to go on from.

    Raises:
        ConfigError: it holds another run.
    """
    config = folder / "config.yaml"
    resume_from = None
    if settings.run.resume:
        resume_from, skipped = latest_complete(folder)
        for path in skipped:
            console.print(f"{path} is incomplete (the run ended while writing it): passed over", highlight=False)
        console.print(
            f"resuming from {resume_from}" if resume_from else f"no complete checkpoint in {folder}: starting anew",
            highlight=False,
        )
        if resume_from and config.exists():
            _check_same(yaml.safe_load(config.read_text()), settings.resolved(), folder)
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
    return resume_from


FREE = ("output_dir", "threads", "learning_rate", "max_grad_norm", "final_eval_sequences", "eval_sequences")
"""What a run may go on with differently, with `max_steps` and how often it is looked at."""


def _check_same(held: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with another source, network or batch.

    Raises:
        ConfigError: naming the setting.
    """
    free = (*FREE, "max_steps", "logging_steps", "checkpoints", "report_to", "save_strategy", "decay_steps")
    for name, value in wanted.items():
        if name not in free and name in held and held[name] != value:
            raise ConfigError(
                f"{name}={value!r} was {held[name]!r} in {folder}: --resume goes on with the same settings; give the "
                "old one, or another --output_dir."
            )


def _cut_metrics(path: Path, step: int) -> None:
    """Drop what was written after the checkpoint: those steps come again."""
    drop_unfinished_line(path)
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    if len(kept) < len(lines):
        path.write_text("".join(kept))


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
