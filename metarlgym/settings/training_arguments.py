"""Fields of transformers' TrainingArguments in `train` and `pretrain`: unused ones, and the requirements of others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers.utils import is_liger_kernel_available

from metarlgym.datatypes import ConfigError
from metarlgym.processor import multiplies_bfloat16
from metarlgym.settings.needs import Needs


def unused(names: str, reason: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), reason)


UNUSED: dict[str, str] = {
    "num_train_epochs": "is not used: data are drawn afresh, so there are no epochs; set max_steps.",
    **unused(
        "label_smoothing_factor neftune_noise_alpha optim_target_modules average_tokens_across_devices use_cache "
        "torch_empty_cache_steps full_determinism remove_unused_columns label_names",
        "is not used here; leave it out.",
    ),
    **unused(
        "bf16_full_eval fp16_full_eval",
        "is not used: evaluation runs at the precision of training; leave it out, or set dtype, bf16 or fp16.",
    ),
    **unused(
        "torch_compile torch_compile_backend torch_compile_mode",
        "is not supported: sequences of every length would be recompiled; leave it out.",
    ),
    "auto_find_batch_size": "is not supported: a smaller batch would be another run; set per_device_train_batch_size.",
    **unused(
        "log_on_each_node logging_nan_inf_filter include_num_input_tokens_seen log_level log_level_replica",
        "is not used: everything logged goes to metrics.jsonl; leave it out, or set logging_steps or report_to.",
    ),
    "disable_tqdm": "is not used: progress is shown as a line or a bar of our own; leave it out.",
    **unused(
        "trackio_space_id trackio_bucket_id trackio_static_space_id",
        "is not supported: runs are logged locally; leave it out.",
    ),
    **unused(
        "prediction_loss_only eval_do_concat_batches eval_use_gather_object eval_accumulation_steps "
        "include_for_metrics batch_eval_metrics do_train do_eval do_predict",
        "is not used: held-out data are played or drawn, not read from a data set; leave it out.",
    ),
    "save_only_model": "is not supported: --resume needs the optimizer; leave it out (final/ holds the model alone).",
    "save_on_each_node": "is not supported: output_dir is a folder that all nodes share; leave it out.",
    "enable_jit_checkpoint": "is not supported: a signal saves and stops (docs/cluster.md); leave it out.",
    **unused(
        "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision",
        "is not supported: nothing is uploaded; leave it out and run `hf upload REPO OUTPUT_DIR/final` afterwards.",
    ),
    "ignore_data_skip": "is not supported: a resumed run would see other data; leave it out.",
    "restore_callback_states_from_checkpoint": "is not used: --resume needs no state of callbacks; leave it out.",
    **unused(
        "accelerator_config parallelism_config fsdp fsdp_config deepspeed ddp_backend ddp_find_unused_parameters "
        "ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph local_rank",
        "is the launcher's: use `accelerate launch --config_file configs/accelerate/zero3.yaml` (or another file), and "
        "leave it out here.",
    ),
    **unused(
        "dataloader_drop_last dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers "
        "dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order train_sampling_strategy "
        "length_column_name",
        "is not used: data are drawn in this process, in the order of the seed; leave it out.",
    ),
    **unused("debug skip_memory_metrics", "is not supported; leave it out."),
    "resume_from_checkpoint": "is not used: give --resume, which takes the newest complete checkpoint of output_dir.",
}
"""Fields of transformers' TrainingArguments that both `train` and `pretrain` refuse."""


GPU_ONLY = ("bf16", "fp16", "tf32", "use_liger_kernel")


def check_gpu(changed: dict[str, Any], bf16_on_cpu: bool = False) -> None:
    """Refuse settings that need a GPU if there is none.

    Args:
        changed: given values that differ from the defaults, as written.
        bf16_on_cpu: accept bf16 on a processor that has it.

    Raises:
        ConfigError: on the first such field.
    """
    if not torch.cuda.is_available():
        for name in GPU_ONLY:
            if name == "bf16" and bf16_on_cpu and changed.get(name):
                if not multiplies_bfloat16():
                    raise ConfigError(
                        f"{name}={changed[name]!r} would be slower than float32: this processor has no instructions "
                        "for bfloat16 (AVX-512 BF16 or AMX); leave it out."
                    )
                continue
            if changed.get(name) or (name == "tf32" and name in changed):
                raise ConfigError(f"{name}={changed[name]!r} needs a GPU, and there is none: leave it out.")
    elif changed.get("use_liger_kernel") and not is_liger_kernel_available():
        raise ConfigError("use_liger_kernel=True needs the package liger-kernel: pip install liger-kernel.")


OPTIMISERS = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop")
"""Optimizers included in torch and transformers; the others need packages that are not our dependencies."""


SCHEDULES = (
    *("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"),
    *("cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay"),
)


WITHOUT_SETTINGS = ("linear", "constant", "constant_with_warmup")
"""Schedules that take no `lr_scheduler_kwargs`."""


def plain_value(setting: Any) -> Any:
    return getattr(setting, "value", setting)


def optimizer(s: Any) -> str:
    return str(plain_value(s.optim))


def training_needs(part: Callable[[Any], Any]) -> tuple[Needs, ...]:
    """Requirements of TrainingArguments fields for `train` and `pretrain`; `part` extracts them from all settings."""
    return (
        Needs("save_steps", "save_strategy=steps", "save_strategy", lambda s: saves(part(s))),
        Needs(
            "logging_steps logging_first_step",
            "logging_strategy=steps",
            "logging_strategy",
            lambda s: plain_value(part(s).logging_strategy) == "steps",
        ),
        Needs("run_name", "report_to", "report_to", lambda s: bool(part(s).report_to)),
        Needs("project", "report_to=trackio", "report_to", lambda s: "trackio" in part(s).report_to),
        Needs(
            "warmup_steps",
            "a schedule with a warm-up (not lr_scheduler_type=constant)",
            "lr_scheduler_type",
            lambda s: plain_value(part(s).lr_scheduler_type) != "constant",
        ),
        Needs(
            "adam_beta1 adam_beta2 adam_epsilon",
            "optim=adamw_torch or adamw_torch_fused",
            "optim",
            lambda s: optimizer(part(s)).startswith("adamw"),
        ),
        Needs("liger_kernel_config", "use_liger_kernel=true", "use_liger_kernel", lambda s: part(s).use_liger_kernel),
    )


def saves(args: Any) -> bool:
    return plain_value(args.save_strategy) == "steps"


def check_training(args: Any) -> None:
    """Refuse values of TrainingArguments that need epochs or packages that are not our dependencies.

    Raises:
        ConfigError: on the first such field.
    """
    for name in ("save_strategy", "eval_strategy", "logging_strategy"):
        if (value := plain_value(getattr(args, name))) not in ("steps", "no"):
            raise ConfigError(f"{name}={value!r} is not supported: use 'steps' or 'no' (there are no epochs).")
    for name, known in (("optim", OPTIMISERS), ("lr_scheduler_type", SCHEDULES)):
        if (value := str(plain_value(getattr(args, name)))) not in known:
            raise ConfigError(f"{name}={value!r} is not supported: use one of {', '.join(known)}.")
