"""Checks of the settings of rollouts that are played ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metarlgym.datatypes import ConfigError

if TYPE_CHECKING:
    from metarlgym.training.config import MetaGRPOConfig

MOST_AHEAD = 64
DEFAULT_STALENESS = 4


def rollouts_ahead(given: object) -> str:
    """`rollouts_ahead` in its one form.

    Raises:
        ConfigError: it is neither a number nor `continuous`.
    """
    text = str(given)
    if text == "continuous":
        return text
    if not (text.isascii() and text.isdecimal() and int(text) <= MOST_AHEAD):
        raise ConfigError(f"rollouts_ahead={given!r} must be a whole number from 0 to {MOST_AHEAD}, or 'continuous'.")
    return str(int(text))


def check_ahead(args: MetaGRPOConfig) -> None:
    """Refuse settings that contradict `rollouts_ahead`.

    Raises:
        ConfigError: the first of them.
    """
    given = args.rollouts_ahead
    if args.weight_update not in (None, "drain", "in_flight"):
        raise ConfigError(f"weight_update={args.weight_update!r} must be 'drain' or 'in_flight'.")
    if not args.continuous and args.max_staleness is not None:
        raise ConfigError(
            f"max_staleness={args.max_staleness} has no effect with rollouts_ahead={given}, which fixes it: leave it "
            "out, or set rollouts_ahead: continuous."
        )
    if not args.plays_ahead:
        if args.weight_update is not None:
            raise ConfigError(
                f"weight_update={args.weight_update!r} has no effect with rollouts_ahead=0, where nothing is in flight "
                "during an update: leave it out, or set rollouts_ahead."
            )
        return
    if args.continuous:
        _check_continuous(args)
    if not args.vllm_importance_sampling_correction:
        raise ConfigError(
            f"rollouts_ahead={given} with vllm_importance_sampling_correction=False: older weights play the trials, "
            "which biases the gradient unless tokens are weighted. Leave the correction on, or set rollouts_ahead to 0."
        )
    if args.loss_type == "vespo" and not args.vllm_importance_sampling_mode.startswith("token"):
        raise ConfigError(
            f"vllm_importance_sampling_mode={args.vllm_importance_sampling_mode!r} with loss_type='vespo': use "
            "'token_truncate' or 'token_mask'."
        )
    if args.cast_lm_head_to_fp32 and not args.use_vllm:
        raise ConfigError(
            f"cast_lm_head_to_fp32=True with rollouts_ahead={given} and use_vllm=False: the copy of the model that "
            "plays would compute its head otherwise. Use vLLM servers, or leave one of them out."
        )
    if args.use_vllm and args.vllm_mode == "colocate":
        raise ConfigError(
            f"rollouts_ahead={given} with vllm_mode='colocate': engine and trainer share the GPU, so they take turns. "
            "Use vllm_mode='server', or set rollouts_ahead to 0."
        )


def _check_continuous(args: MetaGRPOConfig) -> None:
    if args.weight_update == "drain":
        raise ConfigError(
            "weight_update='drain' with rollouts_ahead='continuous': trials are always in flight. Leave it out."
        )
    if args.num_iterations != 1 or args.steps_per_generation not in (None, args.gradient_accumulation_steps):
        raise ConfigError(
            f"rollouts_ahead='continuous' with num_iterations={args.num_iterations} and steps_per_generation="
            f"{args.steps_per_generation}: each optimizer step takes one batch of groups. Leave both out."
        )
    if args.generation_batch_size is not None:
        raise ConfigError(
            f"rollouts_ahead='continuous' with generation_batch_size={args.generation_batch_size}: leave it out; "
            "per_device_train_batch_size and gradient_accumulation_steps give the batch."
        )


def check_share(args: MetaGRPOConfig, share: int, rows: int) -> None:
    """Refuse a batch whose groups would be divided among processes.

    Args:
        args: the settings.
        share: rows of a batch on one process.
        rows: rows of a group.

    Raises:
        ConfigError: if they are.
    """
    if args.continuous and share % rows:
        raise ConfigError(
            f"per_device_train_batch_size={args.per_device_train_batch_size} x gradient_accumulation_steps="
            f"{args.gradient_accumulation_steps} = {share} rows hold no whole number of groups of {rows} rows "
            f"(trials_per_task={args.trials_per_task}), as rollouts_ahead='continuous' needs on each process: make it "
            f"a multiple of {rows}."
        )
