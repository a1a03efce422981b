"""Which fields of TRL's GRPOConfig and ModelConfig no run uses; `needs.py` has those that only some runs use.

All other fields have an effect, which `tests/training/test_fields.py` shows for each. Only what is given is refused.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.utils import is_liger_kernel_available

from metarlgym.datatypes import ConfigError


def _all(names: str, reason: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), reason)


SAME_FOR_PRETRAINING: dict[str, str] = {
    "num_train_epochs": "is not used: data are drawn afresh, so there are no epochs; set max_steps.",
    **_all(
        "label_smoothing_factor neftune_noise_alpha optim_target_modules average_tokens_across_devices use_cache "
        "torch_empty_cache_steps full_determinism remove_unused_columns label_names",
        "is not used here; leave it out.",
    ),
    **_all(
        "bf16_full_eval fp16_full_eval",
        "is not used: evaluation runs at the precision of training; leave it out, or set dtype, bf16 or fp16.",
    ),
    **_all(
        "torch_compile torch_compile_backend torch_compile_mode",
        "is not supported: sequences of every length would be compiled anew; leave it out.",
    ),
    "auto_find_batch_size": "is not supported: a smaller batch would be another run; set per_device_train_batch_size.",
    **_all(
        "log_on_each_node logging_nan_inf_filter include_num_input_tokens_seen log_level log_level_replica",
        "is not used: everything logged goes to metrics.jsonl; leave it out, or set logging_steps or report_to.",
    ),
    "disable_tqdm": "is not used: progress is shown as a line or a bar of our own; leave it out.",
    **_all(
        "trackio_space_id trackio_bucket_id trackio_static_space_id",
        "is not supported: runs are logged locally; leave it out.",
    ),
    **_all(
        "prediction_loss_only eval_do_concat_batches eval_use_gather_object eval_accumulation_steps "
        "include_for_metrics batch_eval_metrics do_train do_eval do_predict",
        "is not used: held-out data are played or drawn, not read from a data set; leave it out.",
    ),
    "save_only_model": "is not supported: --resume needs the optimizer; leave it out (final/ holds the model alone).",
    "save_on_each_node": "is not supported: output_dir is a folder that all nodes share; leave it out.",
    "enable_jit_checkpoint": "is not supported: a signal saves and stops (docs/cluster.md); leave it out.",
    **_all(
        "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision",
        "is not supported: nothing is uploaded; leave it out and run `hf upload REPO OUTPUT_DIR/final` afterwards.",
    ),
    "ignore_data_skip": "is not supported: a resumed run would see other data; leave it out.",
    "restore_callback_states_from_checkpoint": "is not used: --resume needs no state of callbacks; leave it out.",
    **_all(
        "accelerator_config parallelism_config fsdp fsdp_config deepspeed ddp_backend ddp_find_unused_parameters "
        "ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph local_rank",
        "is the launcher's: use `accelerate launch --config_file configs/zero3.yaml` (or another file), and leave it "
        "out here.",
    ),
    **_all(
        "dataloader_drop_last dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers "
        "dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order train_sampling_strategy "
        "length_column_name",
        "is not used: data are drawn in this process, in the order of the seed; leave it out.",
    ),
    **_all("debug skip_memory_metrics", "is not supported; leave it out."),
    "resume_from_checkpoint": "is not used: give --resume, which takes the newest complete checkpoint of output_dir.",
}
"""Fields of transformers' TrainingArguments that `pretrain` refuses too."""

REFUSED: dict[str, str] = {
    **SAME_FOR_PRETRAINING,
    "per_device_eval_batch_size": "is not used: rollout_concurrency bounds the trials played at once; leave it out.",
    "data_seed": "is not used: tasks come from task_seed, all else from seed; set those.",
    "shuffle_dataset": "is not used: tasks come in the order of the seed already; leave it out.",
    "generation_batch_size": "is not used: set steps_per_generation, the micro-batches of one rollout.",
    **_all("ds3_gather_for_generation pad_to_multiple_of", "is not used by rollouts of trials; leave it out."),
    "model_init_kwargs": "is not used: set dtype, attn_implementation, model_revision or trust_remote_code.",
    **_all(
        "cache_implementation use_transformers_continuous_batching transformers_continuous_batching_config "
        "use_transformers_paged",
        "is not used: trials are played with a cache of our own, or by vLLM (use_vllm); leave it out.",
    ),
    **_all(
        "reward_weights multi_objective_aggregation",
        "is not used: the only reward is the environment's; leave it out, or let the environment weigh its rewards.",
    ),
    "mask_truncated_completions": "is not used: a trial that is cut off keeps its returns so far; leave it out.",
    "max_tool_calling_iterations": "is not used: set max_episode_turns or max_total_turns.",
    **_all(
        "log_completions log_multimodal num_completions_to_print log_unique_prompts log_completions_hub_repo",
        "is not used: trials are written to trials.jsonl; set sample_every and sample_trials.",
    ),
    "vllm_importance_sampling_cap": "is deprecated in TRL: set vllm_importance_sampling_clip_max.",
    "vllm_tensor_parallel_size": "is a setting of the server: `metarlgym serve --tensor-parallel-size N`.",
    "vllm_enable_sleep_mode": "is not supported: give the servers GPUs of their own; leave it out.",
    "router_aux_loss_coef": "is not supported: the model's own coefficient is used; set it in its config.json.",
    **_all(
        "load_in_8bit load_in_4bit bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_quant_storage",
        "is not supported: quantised models are not trained here; leave it out, or set dtype=bfloat16 and use_peft.",
    ),
    "lora_task_type": "is not used: policies are causal models; leave it out.",
}
"""Fields that no run uses, by name: what follows `name=value` in the line that refuses them."""

GPU_ONLY = ("bf16", "fp16", "tf32", "use_liger_kernel")


def check_gpu(changed: dict[str, Any]) -> None:
    """Refuse what needs a GPU where there is none.

    Args:
        changed: what was given and is not a default, as it was written.

    Raises:
        ConfigError: naming the first such field.
    """
    if not torch.cuda.is_available():
        for name in GPU_ONLY:
            if changed.get(name) or (name == "tf32" and name in changed):
                raise ConfigError(f"{name}={changed[name]!r} needs a GPU, and there is none: leave it out.")
    elif changed.get("use_liger_kernel") and not is_liger_kernel_available():
        raise ConfigError("use_liger_kernel=True needs the package liger-kernel: pip install liger-kernel.")
