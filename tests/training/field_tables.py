"""Every field of the settings of `train`, once, with what shows its effect or its refusal."""

from __future__ import annotations

GUESS = {"env_id": "GuessNumber-v0", "env_args": {"numbers": 4, "guesses": 3, "style": "terse"}}
"""Episodes of several turns."""
WORDS = {"env_args": {"doors": 3}, "scratch_tokenizer": "byte", "entropy_coef": 0.5}
"""Actions that end with a token. Random bytes are never rewarded, so what moves the weights is the entropy's bonus."""
SGD = {"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0}
"""Steps as large as the gradients."""
TWICE = {"num_iterations": 2, "max_steps": 4, "learning_rate": 3e-3}
"""Each rollout is trained on twice, so that ratios differ from 1."""
KL = {"beta": 0.5, "max_steps": 4}
LORA = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "k_proj"]}
WARM = {"imitation_trials": 32, "imitation_max_steps": 2, "imitation_batch_size": 16, "max_steps": 1}

WEIGHTS: dict[str, tuple[dict, object]] = {
    # of TRL and transformers
    "per_device_train_batch_size": ({}, 16),
    "max_steps": ({}, 3),
    "learning_rate": ({}, 3e-3),
    "lr_scheduler_type": ({}, "constant"),
    "lr_scheduler_kwargs": (
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 0.0}},
        {"min_lr": 9e-3},
    ),
    "warmup_steps": ({}, 1),
    "optim": ({}, "sgd"),
    "optim_args": (SGD, "momentum=0.9"),
    "weight_decay": ({}, 0.5),
    "adam_beta1": ({}, 0.5),
    "adam_beta2": ({}, 0.5),
    "adam_epsilon": ({}, 1e-2),
    "gradient_accumulation_steps": ({}, 2),
    "max_grad_norm": (SGD, 1e-3),
    "seed": ({}, 1),
    "steps_per_generation": ({}, 2),
    "temperature": ({}, 0.5),
    "beta": ({}, 0.5),
    "num_iterations": ({}, 2),
    "epsilon": (TWICE, 1e-3),
    "epsilon_high": (TWICE, 1e-3),
    "delta": (TWICE, 1.001),
    "sapo_temperature_neg": ({**TWICE, "loss_type": "sapo"}, 9.0),
    "sapo_temperature_pos": ({**TWICE, "loss_type": "sapo"}, 9.0),
    "vespo_k_pos": ({**TWICE, "loss_type": "vespo"}, 9.0),
    "vespo_lambda_pos": ({**TWICE, "loss_type": "vespo"}, 9.0),
    "vespo_k_neg": ({**TWICE, "loss_type": "vespo"}, 9.0),
    "vespo_lambda_neg": ({**TWICE, "loss_type": "vespo"}, 9.0),
    "importance_sampling_level": ({**TWICE, "loss_type": "grpo"}, "sequence"),
    "scale_rewards": ({**SGD, "credit": "trial"}, "none"),
    "loss_type": (SGD, "dr_grpo"),
    "max_completion_length": ({**SGD, "loss_type": "dr_grpo"}, 8),
    "sync_ref_model": ({**KL, "sync_ref_model": True, "ref_model_sync_steps": 1}, None),
    "ref_model_mixup_alpha": ({**KL, "sync_ref_model": True, "ref_model_sync_steps": 1}, 0.1),
    "ref_model_sync_steps": ({**KL, "sync_ref_model": True}, 1),
    "use_bias_correction_kl": (KL, False),
    "top_entropy_quantile": ({}, 0.3),
    "entropy_coef": ({}, 0.5),
    "use_adaptive_entropy": ({"entropy_coef": 0.5}, True),
    "off_policy_mask_threshold": (TWICE, 1e-9),
    # the policy's
    "use_peft": ({}, True),
    "lora_r": ({**LORA}, 2),
    "lora_alpha": ({**LORA}, 4),
    "lora_dropout": ({**LORA}, 0.5),
    "lora_target_modules": ({**LORA}, ["v_proj"]),
    "lora_target_parameters": ({**LORA}, ["v_proj.weight"]),
    "lora_modules_to_save": ({**LORA}, ["embed_tokens"]),
    "use_rslora": ({**LORA}, True),
    "use_dora": ({**LORA}, True),
    # ours
    "env_id": ({"env_args": {"style": "terse"}}, "GuessNumber-v0"),
    "env_args": ({}, {"doors": 4, "style": "terse"}),
    "task_seed": ({}, 1),
    "scratch_tokenizer": ({}, "byte"),
    "scratch_hidden_size": ({}, 8),
    "scratch_layers": ({}, 2),
    "scratch_heads": ({}, 1),
    "scratch_init_std": ({}, 0.02),
    "imitation_trials": (WARM, 512),
    "imitation_max_steps": (WARM, 1),
    "imitation_batch_size": (WARM, 8),
    "imitation_learning_rate": (WARM, 1e-2),
    "episodes": ({}, 3),
    "trials_per_task": ({}, 8),
    "memory": ({}, "last_1"),
    "stop_on_success": ({"episodes": 3}, True),
    "max_total_turns": (GUESS, 2),
    "credit": ({}, "trial_rloo"),
    "gamma": ({}, 0.1),
    "gamma_step": ({**GUESS}, 0.1),
    "anchor_weight": ({**GUESS, "credit": "gigpo"}, 9.0),
    "free_shots": ({}, 1),
    "entropy_schedule": ({}, "0:0.5, 1:0.1"),
    "exploration_coef": ({}, "0:0.5, 1:0.1"),
    "format_steps": ({}, 1),
    "rollouts_ahead": ({}, 1),
    # The gradient of all losses but bnpo is that of TRL's micro-batches.
    "micro_batch_tokens": ({**SGD, **GUESS, "loss_type": "bnpo", "gradient_accumulation_steps": 2}, 64),
    "common_noise": ({"env_id": "Bandit-v0", "env_args": {"arms": 3, "style": "terse"}}, True),
    "skip_zero_signal": ({**SGD, "trials_per_task": 2, "episodes": 1}, True),
    "max_action_tokens": ({**WORDS, "max_action_tokens": 4}, 2),
    "max_episode_tokens": ({**WORDS, "max_action_tokens": 8}, 3),
    "max_episode_turns": (GUESS, 1),
}
"""Field -> settings of a run, and the value that changes the weights it ends with."""

PASSED_THROUGH = {
    *("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim_args", "weight_decay", "adam_beta1"),
    *("adam_beta2", "adam_epsilon", "epsilon_high", "delta", "sapo_temperature_neg", "sapo_temperature_pos"),
    *("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg", "ref_model_mixup_alpha"),
    *("ref_model_sync_steps", "use_bias_correction_kl", "off_policy_mask_threshold", "lora_alpha", "lora_dropout"),
    *("lora_target_parameters", "lora_modules_to_save", "use_rslora", "use_dora"),
}
"""Fields passed to TRL, transformers and PEFT unchanged; their effect is tested with -m slow."""

SHOWN_BY = {
    "training/test_field_outputs.py::test_checkpoints_as_asked_for": (
        "output_dir save_steps save_total_limit save_strategy"
    ),
    "training/test_shared_prefixes.py::test_runs_end_at_the_same_weights": "share_prefixes",
    "training/test_field_outputs.py::test_lines_as_asked_for": "logging_strategy logging_steps logging_first_step",
    "training/test_field_outputs.py::test_evaluations_as_asked_for": (
        "eval_strategy eval_steps eval_delay eval_on_start eval_trials"
    ),
    "training/test_field_outputs.py::test_the_best_model_is_kept": (
        "load_best_model_at_end metric_for_best_model greater_is_better"
    ),
    "training/test_field_training.py::test_the_adaptive_bonus_follows_its_settings": (
        "entropy_target entropy_coef_delta entropy_coef_min entropy_coef_max"
    ),
    "training/test_field_outputs.py::test_metrics_are_reported": "report_to run_name project",
    "training/test_field_training.py::test_checkpointed_gradients": (
        "gradient_checkpointing gradient_checkpointing_kwargs"
    ),
    "training/test_field_models.py::test_the_form_of_a_given_model": (
        "model_name_or_path dtype attn_implementation cast_lm_head_to_fp32"
    ),
    "training/test_field_models.py::test_a_revision_holds_for_config_tokenizer_weights_and_reference": "model_revision",
    "training/test_field_models.py::test_code_of_a_model_is_run_only_when_trusted": "trust_remote_code",
    "training/test_field_models.py::test_dropout_can_be_switched_off": "disable_dropout",
    "training/test_field_models.py::test_how_text_is_rendered": "renderer chat_template_kwargs",
    "training/test_chat_templates.py::test_a_run_uses_the_given_template_and_saves_it": "chat_template",
    "training/test_field_training.py::test_limits_reach_the_rollout": (
        "max_context_tokens max_episode_seconds max_trial_seconds rollout_concurrency"
    ),
    "training/test_continuous.py::test_in_flight_updates_with_whole_rollouts": "weight_update",
    "training/test_continuous.py::test_each_group_is_trained_on_once_and_in_time": "max_staleness",
    "training/test_training_thoughts.py::test_thoughts_in_training": ("max_thought_tokens keep_thoughts"),
    "training/test_field_training.py::test_the_timeout_of_processes": "ddp_timeout",
    "training/test_field_outputs.py::test_what_is_played_and_written_at_the_side": (
        "sample_every sample_trials write_contexts final_eval_trials"
    ),
    "training/test_field_training.py::test_threads": "threads",
    "training/test_field_refusals.py::test_bf16_on_a_cpu_needs_its_instructions": "bf16",
    "training/test_collapse.py::test_a_run_ends_when_nothing_is_left_to_learn": "stop_on_collapse",
    "training/test_run.py::test_resume_goes_on_where_the_run_was_and_passes_over_what_is_incomplete": "resume",
    "training/test_run.py::test_overwrite_replaces_it": "overwrite",
    "training/test_server_settings.py::test_one_line": "num_generations",
    "training/test_field_refusals.py::test_derived_numbers_are_refused": (
        "num_generations_eval repetition_penalty generation_kwargs vllm_structured_outputs_regex"
    ),
    "training/test_server_settings.py::test_truncated_sampling_needs_force_and_vllm": (
        "top_p top_k min_p force_truncated_sampling"
    ),
    "e2e/servers/test_exactness.py::test_zero3_with_two_processes_equals_one_process": (
        "use_vllm vllm_mode vllm_server_base_url vllm_server_timeout vllm_group_port"
    ),
    "training/test_field_servers.py::test_settings_of_servers": (
        "vllm_server_host vllm_server_port vllm_max_model_length"
    ),
    "e2e/servers/test_faults.py::test_requests_slower_than_their_deadline": "server_request_timeout",
    "e2e/servers/test_faults.py::test_server_killed_in_a_rollout_then_resumed": "server_retry_seconds",
    "policies/test_vllm_server.py::test_requests_in_flight_are_bounded": "server_concurrency",
    "e2e/servers/test_weight_sync.py::test_a_failed_update_is_kept_and_the_walk_ends": "weight_sync_timeout",
    "e2e/servers/test_server_probe.py::test_another_model_of_the_same_form_is_caught": "probe_every",
    "serving/test_logprob_probe.py::test_a_mismatch_says_what_may_be_wrong": "probe_tolerance",
    "training/test_field_servers.py::test_correction_for_the_sampler": (
        "vllm_importance_sampling_correction vllm_importance_sampling_mode "
        "vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min"
    ),
}
"""Test -> fields whose effect, or whose refusal, it shows."""

NEEDS_A_GPU = {
    "fp16": "accelerate's loss scaling needs a GPU",
    "tf32": "a number type of GPUs",
    "use_cpu": "on a CPU nothing changes",
    "use_liger_kernel": "Triton kernels",
    "liger_kernel_config": "Triton kernels",
    "vllm_model_impl": "vllm_mode=colocate runs on GPUs only",
    "vllm_gpu_memory_utilization": "vllm_mode=colocate runs on GPUs only",
}
"""Fields whose effect no CPU shows; `test_what_needs_a_gpu_is_refused_without_one`."""
