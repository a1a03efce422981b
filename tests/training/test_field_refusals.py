"""Settings of `train` that are refused, in one line: unsupported ones, idle ones, and those that need a GPU."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import yaml
from field_runs import BASE, GIVEN_MODEL, parsed, refusal
from field_tables import NEEDS_A_GPU
from setting_fields import other

from metarlgym import ConfigError
from metarlgym.training.arguments import GROUPS, parse
from metarlgym.training.conditional_fields import NEEDS
from metarlgym.training.refused_fields import REFUSED

FIELDS = {item.name: item for group in GROUPS for item in dataclasses.fields(group)}


@pytest.mark.parametrize("field", REFUSED)
def test_it_is_refused_in_a_file_and_on_the_command_line(field, tmp_path):
    item = FIELDS[field]
    value = other(item)
    assert refusal(tmp_path, **{field: value}).startswith(f"{field}=")
    written = json.dumps(value) if isinstance(value, dict) else str(value)
    assert refusal(tmp_path, f"--{field}", written).startswith(f"{field}=")


def test_defaults_are_never_refused(tmp_path):
    given = {}
    for name in [*REFUSED, *(name for need in NEEDS for name in need.names.split())]:
        default = FIELDS[name].default
        if default is not dataclasses.MISSING and default not in (None, ""):
            given[name] = getattr(default, "value", default)
    parsed(tmp_path, **{**BASE, **given})


SET = {
    "keep_thoughts": "episode",
    "lr_scheduler_kwargs": {"num_cycles": 2},
    "lora_target_modules": ["q_proj"],
    "vllm_server_base_url": "http://a:1",
    "vllm_importance_sampling_mode": "token_mask",
    "vllm_mode": "colocate",
    "vllm_model_impl": "transformers",
    "importance_sampling_level": "sequence",
    "metric_for_best_model": "eval_return",
    "gamma": "0.5",
    "scratch_tokenizer": "byte",
    "scratch_heads": 1,
    "scratch_hidden_size": 8,
    "model_revision": "v2",
    "dtype": "bfloat16",
    "attn_implementation": "eager",
    "ref_model_mixup_alpha": 0.1,
    "entropy_coef": 0.1,
    "adam_beta1": 0.5,
    "adam_beta2": 0.5,
    "optim_args": "momentum=0.5",
    "lora_dropout": 0.5,
    "vllm_gpu_memory_utilization": 0.5,
    "report_to": "none",
    "save_steps": 4,
    "save_total_limit": 2,
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
    "chat_template_kwargs": {"a": 1},
    "vllm_importance_sampling_clip_min": 0.5,
    "liger_kernel_config": {"rope": True},
}
"""Values for fields of which `other` would not be a valid one."""

IDLE = {
    "logging_strategy=steps": {"logging_strategy": "no", "logging_steps": None},
    "a schedule with a warm-up (not lr_scheduler_type=constant)": {"lr_scheduler_type": "constant"},
    "optim=adamw_torch or adamw_torch_fused": {"optim": "sgd"},
    "use_peft=false (LoRA's reference is the base model)": {"use_peft": True, "beta": 0.1},
    "vllm_importance_sampling_correction=true": {"use_vllm": True, "vllm_importance_sampling_correction": False},
    "probe_every above 0": {"use_vllm": True, "probe_every": 0},
    "top_p, top_k or min_p": {"use_vllm": True},
    "loss_type=grpo, bnpo, dr_grpo, dapo, luspo": {"loss_type": "cispo"},
    "loss_type=grpo, bnpo, dr_grpo, dapo, luspo, cispo": {"loss_type": "sapo"},
    "another loss_type than vespo, which weighs by sequence": {"loss_type": "vespo"},
    "a run without entropy_schedule, which sets the coefficient": {"entropy_schedule": "0.1"},
    "a credit rule that discounts: return_to_go, return_to_go_zscore, differential or gigpo": {"credit": "trial"},
    "metric_for_best_model, one of the eval_ metrics, such as eval_return": {
        **{"eval_strategy": "steps", "save_strategy": "steps", "save_steps": 1, "eval_steps": 1},
    },
    "sample_every above 0": {"sample_every": 0},
    "sample_trials above 0": {"sample_trials": 0},
    "a model made from scratch (no model_name_or_path)": GIVEN_MODEL,
    "another renderer than plain, which has no template": {**GIVEN_MODEL, "renderer": "plain"},
}
"""What makes the settings of an entry of NEEDS idle, where the base run does not."""


@pytest.mark.parametrize(
    ("need", "field"),
    [(need, name) for need in NEEDS for name in need.names.split()],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_would_have_no_effect_is_refused(need, field, tmp_path):
    item = FIELDS[field]
    value = SET.get(field, other(item))
    text = refusal(tmp_path, **{**IDLE.get(need.what, {}), field: value})
    if field in NEEDS_A_GPU and "needs a GPU" in text:
        return
    assert text.startswith(f"{field}=") and text.endswith(("leave it out.", "leave them out.")), text


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"save_strategy": "epoch"}, "save_strategy='epoch' is not supported: use 'steps' or 'no'"),
        ({"eval_strategy": "epoch"}, "eval_strategy='epoch' is not supported"),
        ({"logging_strategy": "epoch"}, "logging_strategy='epoch' is not supported"),
        ({"optim": "adamw_bnb_8bit"}, "optim='adamw_bnb_8bit' is not supported: use one of adamw_torch"),
        ({"lr_scheduler_type": "greedy", "eval_strategy": "steps"}, "lr_scheduler_type='greedy' is not supported"),
        ({"dtype": "float8", "model_name_or_path": "m"}, "dtype='float8'"),
        ({"renderer": "chat"}, "renderer='chat' needs model_name_or_path"),
        ({"vllm_server_host": "a", "vllm_server_base_url": "http://a:1"}, "both name a server"),
    ],
)
def test_values_that_are_refused(settings, told, tmp_path):
    assert told in refusal(tmp_path, **settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("field", ["fp16", "tf32", "use_liger_kernel"])
def test_what_needs_a_gpu_is_refused_without_one(field, tmp_path):
    assert refusal(tmp_path, **{field: True}) == f"{field}=True needs a GPU, and there is none: leave it out."


def test_bf16_on_a_cpu_needs_its_instructions(tmp_path, monkeypatch):
    monkeypatch.setattr("metarlgym.settings.training_arguments.multiplies_bfloat16", lambda: False)
    assert refusal(tmp_path, bf16=True).startswith("bf16=True would be slower than float32: this processor has no")
    monkeypatch.setattr("metarlgym.settings.training_arguments.multiplies_bfloat16", lambda: True)
    settings = parse(["--config", "quickstart", "--output_dir", str(tmp_path), "--bf16", "true"])
    assert settings.grpo.bf16 is not torch.cuda.is_available() or settings.grpo.bf16
    assert not parse(["--config", "quickstart", "--output_dir", str(tmp_path)]).grpo.bf16 or torch.cuda.is_available()


def test_derived_numbers_are_refused(tmp_path):
    settings = {
        "num_generations_eval": 3,
        "repetition_penalty": 1.2,
        "generation_kwargs": {"seed": 1},
        "vllm_structured_outputs_regex": "a*",
    }
    for name, value in settings.items():
        assert refusal(tmp_path, **{name: value}).startswith(f"{name}={value!r} ")


def test_a_config_stays_usable_with_options_that_switch_things_off(tmp_path):
    quickstart = ["--config", "quickstart", "--output_dir", str(tmp_path)]
    with pytest.warns(UserWarning, match="save_steps=100 of the config file will have no effect"):
        assert parse([*quickstart, "--save_strategy", "no"]).grpo.save_strategy == "no"
    with pytest.warns(UserWarning, match="scratch_heads=2, imitation_max_steps=800 of the config file"):
        settings = parse([*quickstart, "--model_name_or_path", "m"])
    again = tmp_path / "config.yaml"
    again.write_text(yaml.safe_dump(settings.resolved()))
    assert parse(["--config", str(again)]).model.model_name_or_path == "m"
    with pytest.raises(ConfigError, match="scratch_layers=3 would have no effect"):
        parse([*quickstart, "--model_name_or_path", "m", "--scratch_layers", "3"])
