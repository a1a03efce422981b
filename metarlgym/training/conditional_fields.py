"""Settings that have an effect only in combination with others, and what they require. See also `refused_fields`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metarlgym.datatypes import ConfigError
from metarlgym.settings.given import Given
from metarlgym.settings.needs import Needs, check_needs
from metarlgym.settings.training_arguments import (
    WITHOUT_SETTINGS,
    check_training,
    optimizer,
    plain_value,
    saves,
    training_needs,
)

if TYPE_CHECKING:
    from metarlgym.training.arguments import Settings

CLIPPED = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
"""Loss types that use PPO's clipped ratio."""


def _served(s: Settings) -> bool:
    return s.grpo.use_vllm and s.grpo.vllm_mode == "server"


def _trains_on(s: Settings, *losses: str) -> bool:
    return s.grpo.loss_type in losses


def _evaluates(s: Settings) -> bool:
    return plain_value(s.grpo.eval_strategy) == "steps"


NEEDS: tuple[Needs, ...] = (
    *training_needs(lambda s: s.grpo),
    Needs("save_total_limit", "save_strategy=steps", "save_strategy", lambda s: saves(s.grpo)),
    Needs(
        "lora_r lora_alpha lora_dropout lora_target_modules lora_target_parameters lora_modules_to_save use_rslora "
        "use_dora",
        "use_peft=true",
        "use_peft",
        lambda s: s.model.use_peft,
    ),
    Needs(
        "vllm_mode vllm_max_model_length",
        "use_vllm=true",
        "use_vllm",
        lambda s: s.grpo.use_vllm,
    ),
    Needs(
        "vllm_importance_sampling_correction vllm_importance_sampling_mode vllm_importance_sampling_clip_max "
        "vllm_importance_sampling_clip_min",
        "use_vllm=true or rollouts_ahead above 0",
        "use_vllm rollouts_ahead",
        lambda s: s.grpo.use_vllm or s.grpo.plays_ahead,
    ),
    Needs(
        "vllm_server_base_url vllm_server_host vllm_server_port vllm_server_timeout vllm_group_port "
        "server_request_timeout server_retry_seconds server_concurrency weight_sync_timeout probe_every "
        "probe_tolerance",
        "use_vllm=true and vllm_mode=server",
        "use_vllm vllm_mode",
        _served,
    ),
    Needs(
        "vllm_model_impl vllm_gpu_memory_utilization",
        "use_vllm=true and vllm_mode=colocate",
        "use_vllm vllm_mode",
        lambda s: s.grpo.use_vllm and not _served(s),
    ),
    Needs(
        "vllm_importance_sampling_mode vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min",
        "vllm_importance_sampling_correction=true",
        "vllm_importance_sampling_correction",
        lambda s: s.grpo.vllm_importance_sampling_correction,
    ),
    Needs("probe_tolerance", "probe_every above 0", "probe_every", lambda s: s.grpo.probe_every > 0),
    Needs(
        "force_truncated_sampling",
        "top_p, top_k or min_p",
        "top_p top_k min_p",
        lambda s: (s.grpo.top_p, s.grpo.top_k, s.grpo.min_p) != (1.0, 0, None),
    ),
    Needs(
        "gradient_checkpointing_kwargs",
        "gradient_checkpointing=true",
        "gradient_checkpointing",
        lambda s: s.grpo.gradient_checkpointing,
    ),
    Needs(
        "optim_args",
        "optim=sgd, adagrad or rmsprop",
        "optim",
        lambda s: optimizer(s.grpo) in ("sgd", "adagrad", "rmsprop"),
    ),
    Needs(
        "lr_scheduler_kwargs",
        "a schedule that has settings, such as lr_scheduler_type=cosine_with_min_lr",
        "lr_scheduler_type",
        lambda s: plain_value(s.grpo.lr_scheduler_type) not in WITHOUT_SETTINGS,
    ),
    # the loss
    Needs("use_bias_correction_kl sync_ref_model", "beta above 0", "beta", lambda s: s.grpo.beta != 0),
    Needs(
        "sync_ref_model",
        "use_peft=false (LoRA's reference is the base model)",
        "use_peft",
        lambda s: not s.model.use_peft,
    ),
    Needs(
        "ref_model_mixup_alpha ref_model_sync_steps",
        "sync_ref_model=true",
        "sync_ref_model",
        lambda s: s.grpo.sync_ref_model,
    ),
    Needs("epsilon delta", f"loss_type={', '.join(CLIPPED)}", "loss_type", lambda s: _trains_on(s, *CLIPPED)),
    Needs(
        "epsilon_high",
        f"loss_type={', '.join(CLIPPED)}, cispo",
        "loss_type",
        lambda s: _trains_on(s, *CLIPPED, "cispo"),
    ),
    Needs("sapo_temperature_neg sapo_temperature_pos", "loss_type=sapo", "loss_type", lambda s: _trains_on(s, "sapo")),
    Needs(
        "vespo_k_pos vespo_lambda_pos vespo_k_neg vespo_lambda_neg",
        "loss_type=vespo",
        "loss_type",
        lambda s: _trains_on(s, "vespo"),
    ),
    Needs(
        "importance_sampling_level",
        "another loss_type than vespo, which weighs by sequence",
        "loss_type",
        lambda s: not _trains_on(s, "vespo"),
    ),
    Needs(
        "max_completion_length",
        "loss_type=dr_grpo, whose sum it divides (to limit actions, set max_action_tokens)",
        "loss_type",
        lambda s: _trains_on(s, "dr_grpo"),
    ),
    Needs(
        "entropy_coef_min entropy_coef_max entropy_coef_delta entropy_target",
        "use_adaptive_entropy=true",
        "use_adaptive_entropy",
        lambda s: s.grpo.use_adaptive_entropy,
    ),
    Needs(
        "entropy_coef use_adaptive_entropy",
        "a run without entropy_schedule, which sets the coefficient",
        "entropy_schedule",
        lambda s: s.grpo.entropy_schedule is None,
    ),
    # thoughts: models made from scratch have none
    Needs(
        "max_thought_tokens keep_thoughts",
        "model_name_or_path",
        "model_name_or_path",
        lambda s: bool(s.model.model_name_or_path),
    ),
    # credit
    Needs("anchor_weight", "credit=gigpo", "credit", lambda s: s.grpo.credit == "gigpo"),
    Needs(
        "gamma",
        "a credit rule that discounts: return_to_go, return_to_go_zscore, differential or gigpo",
        "credit",
        lambda s: s.grpo.credit in ("return_to_go", "return_to_go_zscore", "differential", "gigpo"),
    ),
    # logging and evaluation
    Needs("eval_steps eval_delay eval_trials eval_on_start", "eval_strategy=steps", "eval_strategy", _evaluates),
    Needs(
        "metric_for_best_model greater_is_better",
        "load_best_model_at_end=true",
        "load_best_model_at_end",
        lambda s: s.grpo.load_best_model_at_end,
    ),
    Needs(
        "load_best_model_at_end",
        "metric_for_best_model, one of the eval_ metrics, such as eval_return",
        "metric_for_best_model",
        lambda s: s.grpo.metric_for_best_model not in (None, "loss"),
    ),
    Needs("sample_trials write_contexts", "sample_every above 0", "sample_every", lambda s: s.run.sample_every > 0),
    Needs("write_contexts", "sample_trials above 0", "sample_trials", lambda s: s.run.sample_trials > 0),
    # the model
    Needs(
        "scratch_tokenizer scratch_hidden_size scratch_layers scratch_heads scratch_init_std imitation_trials "
        "imitation_max_steps imitation_batch_size imitation_learning_rate",
        "a model made from scratch (no model_name_or_path)",
        "model_name_or_path",
        lambda s: not s.model.model_name_or_path,
    ),
    Needs(
        "imitation_max_steps imitation_batch_size imitation_learning_rate",
        "imitation_trials above 0",
        "imitation_trials",
        lambda s: s.scratch.imitation_trials > 0,
    ),
    Needs(
        "model_revision dtype attn_implementation trust_remote_code chat_template chat_template_kwargs",
        "model_name_or_path",
        "model_name_or_path",
        lambda s: bool(s.model.model_name_or_path),
    ),
    Needs(
        "disable_dropout",
        "model_name_or_path or use_peft: models made from scratch have no dropout",
        "model_name_or_path use_peft",
        lambda s: bool(s.model.model_name_or_path) or s.model.use_peft,
    ),
    Needs(
        "cast_lm_head_to_fp32",
        "dtype, bf16 or fp16 below float32",
        "dtype bf16 fp16",
        lambda s: s.model.dtype != "float32" or s.grpo.bf16 or s.grpo.fp16,
    ),
    Needs(
        "chat_template chat_template_kwargs",
        "another renderer than plain, which has no template",
        "renderer",
        lambda s: s.run.renderer != "plain",
    ),
)
"""Fields that only some runs use."""


def check_conditions(given: Given, changed: dict[str, Any], settings: Settings) -> set[str]:
    """Refuse settings that this run does not use.

    Args:
        given: values from the file and the command line.
        changed: the given values that differ from the defaults.
        settings: all resolved settings.

    Returns:
        Settings in the file that have no effect because the command line overrides what they require.

    Raises:
        ConfigError: on the first such setting; states its value and the fix.
    """
    check_training(settings.grpo)
    _check_values(changed, settings)
    return check_needs(given, changed, NEEDS, settings)


def _check_values(changed: dict[str, Any], settings: Settings) -> None:
    dtype = settings.model.dtype
    if dtype not in (None, "auto", "float32", "bfloat16", "float16"):
        raise ConfigError(f"dtype={dtype!r} is not known: use float32, bfloat16, float16 or auto.")
    if changed.get("renderer") == "chat" and not settings.model.model_name_or_path:
        raise ConfigError("renderer='chat' needs model_name_or_path: models made from scratch have no chat template.")
    for name in ("vllm_server_host", "vllm_server_port"):
        if name in changed and "vllm_server_base_url" in changed:
            raise ConfigError(
                f"{name}={changed[name]!r} and vllm_server_base_url={changed['vllm_server_base_url']!r} both name a "
                "server: leave one out."
            )
