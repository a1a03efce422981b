"""Defaults of a run that depend on the model: for chat models, where one value cannot suit 135M and 8B parameters.

They are taken where the user gave nothing, printed, and saved in the run's config like any other setting. They depend
on the model, the environment and the number of processes alone, never on the machine's free memory, so that a run that
is resumed elsewhere has the same.
"""

from __future__ import annotations

import os
from typing import Any

from metarlgym.datatypes import ConfigError
from metarlgym.rollout.render import ChatRenderer, Renderer
from metarlgym.training.arguments import Settings
from metarlgym.training.config import TASKS
from metarlgym.training.footprint import Rows, Shape, thought_room

LORA_FROM = 3_000_000_000
"""Parameters from which LoRA is the default: full fine-tuning takes 16 bytes for each."""
CHECKPOINT_FROM = 1_000_000_000
"""Parameters from which activations are recomputed by default."""
LEARNING_RATES = ((1_000_000_000, 1e-5), (3_000_000_000, 5e-6), (float("inf"), 2e-6))
"""Learning rate of full fine-tuning up to so many parameters; 1e-5 is measured on 135M, the others are customary."""
LORA_LEARNING_RATE = 1e-4
ACTIVATIONS = 8 * 2**30
"""Bytes of activations that a micro-batch may take."""
ACTION_TOKENS = 16, 4
"""Least tokens of an action, and how many times the longest legal one it may take; where legal actions are listed."""
EVAL_TRIALS = 256
"""Trials of the final evaluation: 2,000 would take a model of this kind longer than many a run."""
BATCH = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "steps_per_generation",
    "generation_batch_size",
)


def check_action_room(settings: Settings, rows: Rows | None) -> None:
    """Refuse a limit under which legal actions would always be cut.

    Args:
        settings: the run's.
        rows: what random play measured; None if there is none.

    Raises:
        ConfigError: names the limit and the number of tokens that an action takes.
    """
    given = settings.grpo.max_action_tokens
    if rows is None or "max_action_tokens" not in settings.given:
        return
    # Where all legal actions are listed each must be possible; else the shortest that random play happened to write.
    needed, which = (rows.action, "the longest") if rows.listed else (rows.shortest, "the shortest seen")
    if given < needed:
        raise ConfigError(
            f"max_action_tokens={given} is too small: of the legal actions of {settings.run.env_id} {which} takes "
            f"{needed} tokens with its end token. Make it at least {needed}, or leave it out."
        )


def default_action_tokens(renderer: Renderer, rows: Rows | None) -> int | None:
    """Limit on the tokens of a chat model's action where the legal ones are listed; None: no other than the usual."""
    if not isinstance(renderer, ChatRenderer) or rows is None or not rows.listed:
        return None
    least, times = ACTION_TOKENS
    return max(least, times * rows.action)


def model_defaults(settings: Settings, renderer: Renderer, shape: Shape, rows: Rows | None) -> dict[str, Any]:
    """Values for settings that were not given; empty for models that are no chat models.

    Args:
        settings: the run's.
        renderer: the model's.
        shape: the model's.
        rows: what random play measured; None if there is none.
    """
    if not isinstance(renderer, ChatRenderer):
        return {}
    args, given = settings.grpo, settings.given
    chosen: dict[str, Any] = {}
    peft = settings.model.use_peft
    sharded = args.deepspeed_plugin is not None or os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if "use_peft" not in given and shape.parameters > LORA_FROM and not sharded and not args.sync_ref_model:
        peft = chosen["use_peft"] = True
    if peft and "lora_target_modules" not in given:
        chosen["lora_target_modules"] = "all-linear"
    if "learning_rate" not in given:
        full = next(rate for size, rate in LEARNING_RATES if shape.parameters <= size)
        chosen["learning_rate"] = LORA_LEARNING_RATE if peft else full
    if "final_eval_trials" not in given and settings.run.final_eval_trials > EVAL_TRIALS:
        chosen["final_eval_trials"] = EVAL_TRIALS
    action_tokens = default_action_tokens(renderer, rows)
    if "max_action_tokens" not in given and action_tokens is not None:
        chosen["max_action_tokens"] = action_tokens
    if "gradient_checkpointing" not in given and shape.parameters > CHECKPOINT_FROM:
        chosen["gradient_checkpointing"] = True
    if rows is not None and not any(name in given for name in BATCH):
        checkpointed = chosen.get("gradient_checkpointing", args.gradient_checkpointing)
        action = chosen.get("max_action_tokens", args.max_action_tokens)
        chosen |= _batch(settings, shape, rows.at_most(action, thought_room(settings, renderer)), checkpointed)
    return chosen


def _batch(settings: Settings, shape: Shape, tokens: int, checkpointed: bool) -> dict[str, int]:
    """A batch of `TASKS` tasks in the largest micro-batches whose activations fit; empty if processes do not divide it.

    A trial's rows stay on one process, so a process's share is a multiple of the rows of a trial.

    Args:
        settings: the run's.
        shape: the model's.
        tokens: tokens of the longest row.
        checkpointed: whether activations are recomputed.
    """
    args = settings.grpo
    total = TASKS * args.trials_per_task * args.rows_per_trial
    share, rest = divmod(total, args.world_size)
    if rest or share % args.rows_per_trial:
        return {}

    def size(micro: int) -> int:
        kept = shape.checkpointed if checkpointed else shape.kept
        return kept(min(micro * tokens, max(tokens, args.micro_batch_tokens or micro * tokens)), 4)

    micro = max((n for n in range(1, share + 1) if share % n == 0 and size(n) <= ACTIVATIONS), default=1)
    return {"per_device_train_batch_size": micro, "gradient_accumulation_steps": share // micro}
