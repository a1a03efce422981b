"""Ranges of all numeric settings of train, pretrain and selflearn, and the choices of text settings."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from enum import Enum
from functools import cache
from numbers import Real
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from metarlgym.datatypes import ConfigError
from metarlgym.settings.value_types import accepts, show
from metarlgym.trial import KEEP_THOUGHTS, MOST_EPISODES


class Bound(NamedTuple):
    """A range of numbers; no range contains NaN or infinity."""

    low: float
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def holds(self, value: Any) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return bool(above and below and value not in (math.inf, -math.inf))

    def wanted(self, value: float) -> str:
        """Describe what an out-of-range value must be; a high technical limit is mentioned only if it is exceeded."""
        if value != value or abs(value) == math.inf:
            return "a finite number"
        low = f"{'above' if self.low_open else 'at least'} {_plain(self.low)}"
        high = f"{'below' if self.high_open else 'at most'} {_plain(self.high)}"
        if value > self.high and self.high > 100:
            return high
        return low if self.high > 100 else f"{low} and {high}"


def _plain(value: float) -> str:
    return f"{value:.15g}"


def at_least(low: float, high: float = math.inf) -> Bound:
    return Bound(low, high)


def above(low: float, high: float = math.inf) -> Bound:
    return Bound(low, high, low_open=True)


def below(high: float, low: float = 0) -> Bound:
    return Bound(low, high, high_open=True)


def between(low: float, high: float) -> Bound:
    """An open interval."""
    return Bound(low, high, True, True)


COUNT, SOME = at_least(0, 2**31 - 1), at_least(1, 2**31 - 1)
SIZE = at_least(1, 65_536)
"""A width or a number of layers or heads; larger values are typos."""
SEED = at_least(0, 2**32 - 1)
"""Seeds that both numpy and torch accept."""
LONG_SEED = at_least(0, 2**64 - 1)
"""Seeds that are used only by our own random streams."""
SHARE, RATE, POSITIVE = at_least(0, 1), at_least(0), above(0)
PORT = at_least(1, 65_535)
SECONDS = above(0, 10**8)

BOUNDS: dict[str, Bound] = {
    # the run
    "task_seed": LONG_SEED,
    "final_eval_trials": COUNT,
    "sample_every": COUNT,
    "sample_trials": COUNT,
    "threads": at_least(1, 1024),
    "workers": at_least(1, 1024),
    # trials and limits
    "episodes": at_least(1, MOST_EPISODES),
    "trials_per_task": at_least(2, 2**31 - 1),
    "max_total_turns": SOME,
    "gamma_step": SHARE,
    "format_steps": COUNT,
    "max_staleness": at_least(1, 64),
    "stop_on_collapse": SOME,
    "micro_batch_tokens": SOME,
    "anchor_weight": RATE,
    "max_action_tokens": SOME,
    "max_thought_tokens": COUNT,
    "max_context_tokens": SOME,
    "max_episode_tokens": SOME,
    "max_episode_turns": SOME,
    "max_episode_seconds": SECONDS,
    "max_trial_seconds": SECONDS,
    "rollout_concurrency": SOME,
    "eval_trials": SOME,
    # servers
    "server_request_timeout": SECONDS,
    "server_retry_seconds": SECONDS,
    "server_concurrency": SOME,
    "weight_sync_timeout": SECONDS,
    "probe_every": COUNT,
    "probe_tolerance": POSITIVE,
    "vllm_server_port": PORT,
    "vllm_group_port": PORT,
    "vllm_server_timeout": SECONDS,
    "vllm_gpu_memory_utilization": above(0, 1),
    "vllm_max_model_length": SOME,
    "vllm_tensor_parallel_size": SIZE,
    "vllm_importance_sampling_cap": POSITIVE,
    "vllm_importance_sampling_clip_max": POSITIVE,
    "vllm_importance_sampling_clip_min": RATE,
    # models from scratch
    "scratch_hidden_size": SIZE,
    "scratch_layers": SIZE,
    "scratch_heads": SIZE,
    "scratch_init_std": above(0, 100),
    "imitation_trials": COUNT,
    "imitation_max_steps": SOME,
    "imitation_batch_size": SOME,
    "imitation_learning_rate": RATE,
    # pretrained models
    "lora_r": SIZE,
    "lora_alpha": SOME,
    "lora_dropout": below(1),
    "router_aux_loss_coef": RATE,
    # steps, batches and optimizer
    "seed": SEED,
    "data_seed": SEED,
    "max_steps": SOME,
    "num_train_epochs": POSITIVE,
    "per_device_train_batch_size": SOME,
    "per_device_eval_batch_size": SOME,
    "gradient_accumulation_steps": SOME,
    "eval_accumulation_steps": SOME,
    "steps_per_generation": SOME,
    "generation_batch_size": SOME,
    "num_iterations": SOME,
    "num_generations": SOME,
    "num_generations_eval": SOME,
    "learning_rate": RATE,
    "warmup_steps": COUNT,
    "weight_decay": RATE,
    "adam_beta1": below(1),
    "adam_beta2": below(1),
    "adam_epsilon": RATE,
    "max_grad_norm": RATE,
    "label_smoothing_factor": below(1),
    "neftune_noise_alpha": RATE,
    "momentum": below(1),
    "decay_steps": SOME,
    "min_lr_rate": SHARE,
    # loss and sampling
    "beta": RATE,
    "epsilon": RATE,
    "epsilon_high": RATE,
    "delta": POSITIVE,
    "sapo_temperature_neg": POSITIVE,
    "sapo_temperature_pos": POSITIVE,
    "vespo_k_pos": RATE,
    "vespo_k_neg": RATE,
    "vespo_lambda_pos": RATE,
    "vespo_lambda_neg": RATE,
    "ref_model_mixup_alpha": SHARE,
    "ref_model_sync_steps": SOME,
    "top_entropy_quantile": above(0, 1),
    "entropy_coef": RATE,
    "entropy_coef_min": RATE,
    "entropy_coef_max": RATE,
    "entropy_coef_delta": RATE,
    "entropy_target": RATE,
    "off_policy_mask_threshold": RATE,
    "reward_weights": at_least(-math.inf),
    "temperature": POSITIVE,
    "top_p": above(0, 1),
    "top_k": COUNT,
    "min_p": SHARE,
    "repetition_penalty": POSITIVE,
    "max_completion_length": SOME,
    "pad_to_multiple_of": SOME,
    "max_tool_calling_iterations": COUNT,
    # logs, evaluations, checkpoints
    "logging_steps": POSITIVE,
    "eval_steps": POSITIVE,
    "eval_delay": RATE,
    "save_steps": POSITIVE,
    "save_total_limit": SOME,
    "num_completions_to_print": SOME,
    "checkpoints": SOME,
    "eval_sequences": SOME,
    "final_eval_sequences": at_least(2, 2**31 - 1),
    # hardware and processes
    "dataloader_num_workers": at_least(0, 1024),
    "dataloader_prefetch_factor": SOME,
    "ddp_bucket_cap_mb": SOME,
    "ddp_timeout": at_least(1, 10**8),
    "torch_empty_cache_steps": SOME,
    "local_rank": at_least(-1, 2**31 - 1),
    # networks of pretrain
    "source_seed": LONG_SEED,
    "gradient_chunk": SOME,
    "context": SOME,
    "hidden_size": SIZE,
    "num_layers": SIZE,
    "num_heads": SIZE,
    "widening": SIZE,
    "dropout": below(1),
    "sliding_window": SOME,
    "mlp_before": at_least(0, 65_536),
    "mlp_after": at_least(0, 65_536),
    "stacks": SIZE,
    "stack_cells": SIZE,
    "timescale": at_least(2, 2**31 - 1),
    "init_std": above(0, 100),
    # selflearn: the language and the learner
    "V": at_least(2, 2**16),
    "n_gram": at_least(2, 17),
    "scale": RATE,
    "alphabet": at_least(2, 2**16),
    "concentration": POSITIVE,
    "n1": at_least(2, 65_536),
    "n2": at_least(2, 65_536),
    "n": SIZE,
    "l": above(0, 10**6),
    "e": between(0, 1),
    "redrawn_V": at_least(3, 2**16),
    "redrawn_n": SIZE,
    "redrawn_l": above(0, 10**6),
    "redrawn_e": between(0, 1),
    "language": SEED,
    "world": SEED,
    "seeds": SEED,
    "gist_seeds": SEED,
    "length": at_least(2, 65_536),
    "layers": SIZE,
    "heads": SIZE,
    "kv_heads": SIZE,
    # selflearn: steps and batches
    **dict.fromkeys(("batch", "redrawn_batch", "prompts", "held", "leak_sequences", "space_gists", "gists"), SOME),
    **dict.fromkeys(("steps", "target_steps", "action_steps", "phase_a_steps", "redrawn_steps"), SOME),
    **dict.fromkeys(("space_steps", "space_warm_steps", "refresh_every", "refresh_steps"), SOME),
    **dict.fromkeys(("check_every", "close_checks", "patience", "check_samples", "log_every"), SOME),
    **dict.fromkeys(("warm_steps", "redrawn_warm_steps", "offline_runs", "offline_steps"), COUNT),
    **dict.fromkeys(("buffer", "held_out", "check_chunks", "check_sequences", "group"), at_least(2, 2**31 - 1)),
    **dict.fromkeys(("prompt", "thought", "gist_size", "gist_window", "loss_width"), SIZE),
    # selflearn: learning rates, fractions and weights
    **dict.fromkeys(("lr", "phase_a_lr", "target_lr", "space_lr", "rate", "fixed_rates", "lookahead"), POSITIVE),
    **dict.fromkeys(("loss_rate", "redrawn_rate", "redrawn_warm_rate"), POSITIVE),
    **dict.fromkeys(("own_weight", "score_weight", "guard_weight"), RATE),
    **dict.fromkeys(("tau", "spoilt"), between(0, 1)),
}
"""Ranges by name, for all three commands. A settings group passes narrower ranges to `check_values`."""

CHOICES: dict[str, tuple[str, ...]] = {
    "importance_sampling_level": ("token", "sequence"),
    "loss_type": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "scale_rewards": ("group", "batch", "none"),
    "vllm_mode": ("server", "colocate"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
    "vllm_model_impl": ("vllm", "transformers"),
    "renderer": ("auto", "chat", "plain"),
    "keep_thoughts": KEEP_THOUGHTS,
    "scratch_tokenizer": ("word", "byte"),
    "loss_on": ("all", "last"),
    "targets": ("argmax", "sample"),
}
"""Choices of text settings that neither an enum nor the field itself declares."""


@cache
def choices(group: type) -> dict[str, tuple[str, ...]]:
    """Choices of a group's settings, from `CHOICES`, annotations (including those of base classes) and metadata."""
    found = dict(CHOICES)
    for cls in (c for c in group.__mro__ if dataclasses.is_dataclass(c)):
        for name, kind in get_type_hints(cls).items():
            for part in get_args(kind) or (kind,):
                if isinstance(part, type) and issubclass(part, Enum) and get_origin(part) is None:
                    found.setdefault(name, tuple(str(member.value) for member in part))
                elif get_origin(part) is Literal and all(isinstance(value, str) for value in get_args(part)):
                    found.setdefault(name, get_args(part))
        for item in dataclasses.fields(cls):
            if "choices" in item.metadata:
                found.setdefault(item.name, tuple(item.metadata["choices"]))
    if "report_to" in group.__dataclass_fields__:  # type: ignore[attr-defined]
        from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

        found["report_to"] = ("none", "all", *INTEGRATION_TO_CALLBACK)
    return {name: values for name, values in found.items() if name in group.__dataclass_fields__}  # type: ignore[attr-defined]


def _class(settings: Any) -> Any:
    return type(settings)


@cache
def _texts(group: type) -> set[str]:
    """Names of settings that may be text."""
    return {name for name, kind in get_type_hints(group).items() if accepts(kind, str)}


def check_values(settings: Any, tighter: Mapping[str, Bound] | None = None) -> None:
    """Refuse numbers outside their range and text outside its choices.

    Args:
        settings: an instance of a settings dataclass.
        tighter: ranges for this group that are narrower than the shared ones.

    Raises:
        ConfigError: on the first such setting; states its value and what it must be.
    """
    bounds, named = {**BOUNDS, **(tighter or {})}, choices(_class(settings))
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if value is None:
            continue
        if item.name in bounds and not (isinstance(value, str) and item.name in _texts(_class(settings))):
            _check_number(item.name, value, bounds[item.name])
        elif item.name in named:
            _check_choice(item.name, value, named[item.name])


def _check_number(name: str, value: Any, bound: Bound) -> None:
    if isinstance(value, list | tuple):
        for part in value:
            if not _is_number(part):
                raise ConfigError(f"{name}={show(value)} holds {show(part)}, which is not a number.")
            if not bound.holds(part):
                raise ConfigError(f"{name}={show(value)} holds {show(part)}: each must be {bound.wanted(part)}.")
    elif not _is_number(value):
        raise ConfigError(f"{name}={show(value)} must be a number.")
    elif not bound.holds(value):
        raise ConfigError(f"{name}={show(value)} must be {bound.wanted(value)}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_choice(name: str, value: Any, names: tuple[str, ...]) -> None:
    for part in value if isinstance(value, list | tuple) else [value]:
        text = str(part.value) if isinstance(part, Enum) else part
        if isinstance(text, str) and text not in names:
            near = difflib.get_close_matches(text, names, n=3) if len(names) > 20 else []
            hint = f"did you mean {' or '.join(near)}?" if near else f"use one of {', '.join(names)}."
            raise ConfigError(f"{name}={show(text)} is not known: {hint}")


def check_heads(name: str, heads: int, width_name: str, width: int) -> None:
    """Refuse a number of attention heads that does not divide the width into heads of even width (rotary positions).

    Raises:
        ConfigError: if it does not; states both settings.
    """
    if width % heads or width // heads % 2:
        raise ConfigError(f"{name}={heads} must divide {width_name}={width} into heads of even width.")
