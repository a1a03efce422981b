"""Resuming a `train` run: which settings may change, and what is checked before its folder is touched."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rich.console import Console

from metarlgym.datatypes import ConfigError
from metarlgym.models.chat_templates import TRL
from metarlgym.rollout.template_date import template_text
from metarlgym.runtime.before_claim import inputs_of, mode_of
from metarlgym.runtime.checkpoint import latest_complete
from metarlgym.runtime.open_run import OpenRun
from metarlgym.runtime.resume_check import differences, everything, held_settings, refusal
from metarlgym.runtime.run_folder import Mode
from metarlgym.settings.flat import plain
from metarlgym.training.arguments import Settings

FIXED = re.compile(
    r"env_id|env_args|task_seed|renderer|seed|data_seed|episodes|trials_per_task|memory|keep_thoughts|stop_on_success"
    r"|max_total_turns|per_device_train_batch_size|gradient_accumulation_steps|generation_batch_size|steps_per_generation"
    r"|num_generations|num_iterations|common_noise|max_context_tokens|optim\w*|weight_decay|adam_\w+|sync_ref_model"
    r"|scratch_\w+|imitation_\w+|model_\w+|dtype|use_peft|lora_\w+|use_rslora"
    r"|use_dora|load_in_\w+|chat_template|chat_template_kwargs|fsdp|parallelism_config"
)
"""Settings that must not change on resume: they define the run's tasks, batches, model architecture and optimizer."""
MAY_CHANGE = ("max_steps", "learning_rate", "credit", "limits", "servers")
"""Examples of settings that may change, for the error message that refuses a change."""


def training_run(settings: Settings) -> tuple[OpenRun, Mode, dict[str, Any]]:
    """The run, how to treat its folder, and the inputs it reads."""
    run, args = settings.run, settings.grpo
    inputs = inputs_of(
        settings.arguments,
        "train",
        model_name_or_path=settings.model.model_name_or_path,
        chat_template=None if run.chat_template == TRL else run.chat_template,
        env_args=run.env_args,
        deepspeed=args.deepspeed,
    )
    opened = OpenRun.of(args.output_dir, "train", settings.arguments, settings.resolved(), all_settings(settings))
    return opened, mode_of(run.resume, run.overwrite), inputs


def all_settings(settings: Settings) -> dict[str, Any]:
    parts = (settings.run, settings.grpo, settings.scratch, settings.model)
    return everything(parts, plain, settings.grpo.world_size)


def check_changes(settings: Settings, folder: Path, console: Console) -> None:
    """Refuse changes to settings that define the run, and warn about any other changes.

    Raises:
        ConfigError: on the first refused change.
    """
    found = differences(held_settings(folder), all_settings(settings))
    for name, before, now in found:
        # Continuous play takes up tasks in an order of its own.
        if FIXED.fullmatch(name) or (name == "rollouts_ahead" and "continuous" in (before, now)):
            raise refusal(folder, name, before, now, MAY_CHANGE)
    for name, before, now in found:
        console.print(
            f"[yellow]warning:[/] {name} was {before!r} and is {now!r}: the resumed run will not equal an "
            "uninterrupted one",
            highlight=False,
        )


def check_template(tokenizer: Any, folder: Path) -> None:
    """Refuse to resume with another chat template than the newest checkpoint's: a file, or TRL's, may have changed.

    Raises:
        ConfigError: if the texts differ; names the saved one.
    """
    checkpoint, _ = latest_complete(folder)
    saved = checkpoint / "chat_template.jinja" if checkpoint else None
    if saved is None or not saved.is_file() or saved.read_text(encoding="utf-8") == template_text(tokenizer):
        return
    raise ConfigError(
        f"the chat template is not the one that the run in {folder} was started with ({saved}): --resume needs the "
        "same; bring it back, or start a new run in another --output_dir."
    )
