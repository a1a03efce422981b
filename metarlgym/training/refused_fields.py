"""Fields of TRL's GRPOConfig and ModelConfig that no run uses; for those that some runs use, see `conditional_fields`.

Every other field has an effect, as `tests/training/test_field_tables.py` shows. Fields are refused only when given.
"""

from __future__ import annotations

from metarlgym.settings.training_arguments import UNUSED, unused

REFUSED: dict[str, str] = {
    **UNUSED,
    "per_device_eval_batch_size": "is not used: rollout_concurrency bounds the trials played at once; leave it out.",
    "data_seed": "is not used: tasks come from task_seed, all else from seed; set those.",
    "shuffle_dataset": "is not used: tasks come in the order of the seed already; leave it out.",
    "generation_batch_size": "is not used: set steps_per_generation, the micro-batches of one rollout.",
    **unused("ds3_gather_for_generation pad_to_multiple_of", "is not used by rollouts of trials; leave it out."),
    "model_init_kwargs": "is not used: set dtype, attn_implementation, model_revision or trust_remote_code.",
    **unused(
        "cache_implementation use_transformers_continuous_batching transformers_continuous_batching_config "
        "use_transformers_paged",
        "is not used: trials are played with a cache of our own, or by vLLM (use_vllm); leave it out.",
    ),
    **unused(
        "reward_weights multi_objective_aggregation",
        "is not used: the only reward is the environment's; leave it out, or let the environment weigh its rewards.",
    ),
    "mask_truncated_completions": "is not used: a trial that is cut off keeps its returns so far; leave it out.",
    "max_tool_calling_iterations": "is not used: set max_episode_turns or max_total_turns.",
    **unused(
        "log_completions log_multimodal num_completions_to_print log_unique_prompts log_completions_hub_repo",
        "is not used: trials are written to trials.jsonl; set sample_every and sample_trials.",
    ),
    "vllm_importance_sampling_cap": "is deprecated in TRL: set vllm_importance_sampling_clip_max.",
    "vllm_tensor_parallel_size": "is a setting of the server: `metarlgym serve --tensor-parallel-size N`.",
    "vllm_enable_sleep_mode": "is not supported: give the servers GPUs of their own; leave it out.",
    "router_aux_loss_coef": "is not supported: the model's own coefficient is used; set it in its config.json.",
    **unused(
        "load_in_8bit load_in_4bit bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_quant_storage",
        "is not supported: quantized models are not trained here; leave it out, or set dtype=bfloat16 and use_peft.",
    ),
    "lora_task_type": "is not used: policies are causal models; leave it out.",
}
"""Fields that no run uses, with the text that follows `name=value` in the error message."""
