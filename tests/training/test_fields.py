"""Every setting of `train` has an effect that a test sees, or is refused in one line when it is given.

The tables below name every field once. A field that a new TRL adds is in none of them, and the first test fails.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from transformers import GPT2Config, GPT2LMHeadModel

from metarlgym import ConfigError, TaskGroup
from metarlgym.models.loading import load_model, load_tokenizer
from metarlgym.models.scratch import ScratchArguments, chat_tokenizer, scratch_model
from metarlgym.rollout.make_renderer import make_renderer
from metarlgym.training import run as running
from metarlgym.training import trainer as training
from metarlgym.training.arguments import GROUPS, parse
from metarlgym.training.conditional_fields import NEEDS
from metarlgym.training.refused_fields import REFUSED

ROOT = Path(__file__).parents[2]

BASE = {
    "env_id": "Doors-v0",
    "env_args": {"doors": 3, "style": "terse"},
    "episodes": 2,
    "trials_per_task": 4,
    "imitation_trials": 0,
    "scratch_hidden_size": 16,
    "scratch_layers": 1,
    "scratch_heads": 2,
    "per_device_train_batch_size": 32,
    "max_steps": 2,
    "learning_rate": 2e-2,
    "logging_steps": 1,
    "save_strategy": "no",
    "threads": 1,
    "seed": 0,
    "final_eval_trials": 0,
}
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
    "stop_on_success": ({}, True),
    "max_total_turns": (GUESS, 2),
    "credit": ({}, "trial_rloo"),
    "gamma": ({}, 0.1),
    "gamma_step": ({**GUESS}, 0.1),
    "anchor_weight": ({**GUESS, "credit": "gigpo"}, 9.0),
    "free_shots": ({}, 1),
    "entropy_schedule": ({}, "0:0.5, 1:0.1"),
    "common_noise": ({"env_id": "Bandit-v0", "env_args": {"arms": 3, "style": "terse"}}, True),
    "skip_zero_signal": ({**SGD, "trials_per_task": 2, "episodes": 1}, True),
    "max_action_tokens": ({**WORDS, "max_action_tokens": 4}, 2),
    "max_episode_tokens": ({**WORDS, "max_action_tokens": 8}, 3),
    "max_episode_turns": (GUESS, 1),
}
"""Field -> settings of a run, and the value that changes the weights it ends with."""

OWN_TESTS = {
    **dict.fromkeys(("output_dir", "save_steps", "save_total_limit", "save_strategy"), "test_checkpoints_as_asked_for"),
    **dict.fromkeys(("logging_strategy", "logging_steps", "logging_first_step"), "test_lines_as_asked_for"),
    **dict.fromkeys(
        ("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "eval_trials"), "test_evaluations_as_asked_for"
    ),
    **dict.fromkeys(
        ("load_best_model_at_end", "metric_for_best_model", "greater_is_better"), "test_the_best_model_is_kept"
    ),
    **dict.fromkeys(
        ("entropy_target", "entropy_coef_delta", "entropy_coef_min", "entropy_coef_max"),
        "test_the_adaptive_bonus_follows_its_settings",
    ),
    **dict.fromkeys(("report_to", "run_name", "project"), "test_metrics_are_reported"),
    **dict.fromkeys(("gradient_checkpointing", "gradient_checkpointing_kwargs"), "test_checkpointed_gradients"),
    **dict.fromkeys(
        ("model_name_or_path", "dtype", "attn_implementation", "cast_lm_head_to_fp32"), "test_the_form_of_a_given_model"
    ),
    "model_revision": "test_a_revision_holds_for_config_tokenizer_weights_and_reference",
    "trust_remote_code": "test_code_of_a_model_is_run_only_when_trusted",
    "disable_dropout": "test_dropout_can_be_switched_off",
    **dict.fromkeys(("renderer", "chat_template_kwargs"), "test_how_text_is_rendered"),
    **dict.fromkeys(
        ("max_context_tokens", "max_episode_seconds", "max_trial_seconds", "rollout_concurrency"),
        "test_limits_reach_the_rollout",
    ),
    "ddp_timeout": "test_the_timeout_of_processes",
    **dict.fromkeys(
        ("sample_every", "sample_trials", "final_eval_trials"), "test_what_is_played_and_written_at_the_side"
    ),
    "threads": "test_threads",
}
"""Fields whose effect a test of this module shows."""

ELSEWHERE = {
    "resume": "training/test_run.py::test_resume_goes_on_where_the_run_was_and_passes_over_what_is_incomplete",
    "overwrite": "training/test_run.py::test_overwrite_replaces_it",
    "num_generations": "training/test_server_settings.py::test_one_line",  # derived: any other value is refused
    "num_generations_eval": "training/test_fields.py::test_derived_numbers_are_refused",
    "repetition_penalty": "training/test_fields.py::test_derived_numbers_are_refused",
    "generation_kwargs": "training/test_fields.py::test_derived_numbers_are_refused",
    "vllm_structured_outputs_regex": "training/test_fields.py::test_derived_numbers_are_refused",
    **dict.fromkeys(
        ("top_p", "top_k", "min_p", "force_truncated_sampling"),
        "training/test_server_settings.py::test_truncated_sampling_needs_force_and_vllm",
    ),
    **dict.fromkeys(
        ("use_vllm", "vllm_mode", "vllm_server_base_url", "vllm_server_timeout", "vllm_group_port"),
        "e2e/servers/test_exactness.py::test_zero3_with_two_processes_equals_one_process",
    ),
    **dict.fromkeys(
        ("vllm_server_host", "vllm_server_port", "vllm_max_model_length"),
        "training/test_fields.py::test_settings_of_servers",
    ),
    "server_request_timeout": "e2e/servers/test_faults.py::test_requests_slower_than_their_deadline",
    "server_retry_seconds": "e2e/servers/test_faults.py::test_server_killed_in_a_rollout_then_resumed",
    "server_concurrency": "policies/test_vllm_server.py::test_requests_in_flight_are_bounded",
    "weight_sync_timeout": "e2e/servers/test_weight_sync.py::test_a_failed_update_is_kept_and_the_walk_ends",
    "probe_every": "e2e/servers/test_server_probe.py::test_another_model_of_the_same_form_is_caught",
    "probe_tolerance": "serving/test_logprob_probe.py::test_a_mismatch_says_what_may_be_wrong",
    **dict.fromkeys(
        (
            "vllm_importance_sampling_correction",
            "vllm_importance_sampling_mode",
            "vllm_importance_sampling_clip_max",
            "vllm_importance_sampling_clip_min",
        ),
        "training/test_fields.py::test_correction_for_the_sampler",
    ),
}
"""Fields whose effect, or whose refusal, another test shows."""

NEEDS_A_GPU = {
    "bf16": "autocast to bfloat16 is switched on for GPUs only",
    "fp16": "accelerate's loss scaling needs a GPU",
    "tf32": "a number type of GPUs",
    "use_cpu": "on a CPU nothing changes",
    "use_liger_kernel": "Triton kernels",
    "liger_kernel_config": "Triton kernels",
    "vllm_model_impl": "vllm_mode=colocate runs on GPUs only",
    "vllm_gpu_memory_utilization": "vllm_mode=colocate runs on GPUs only",
}
"""Fields whose effect no CPU shows; `test_what_needs_a_gpu_is_refused_without_one`."""


GC = ("get_threshold", "set_threshold", "collect", "freeze", "unfreeze")


def fields():
    return [item for group in GROUPS for item in dataclasses.fields(group)]


def write(folder, **settings):
    """A config file; settings that are None are left out."""
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in settings.items() if v is not None}))
    return path


def parsed(folder, *line, **settings):
    return parse(["--config", str(write(folder, **settings)), *line])


class Run:
    """A run that is over: its folder, its trainer and what it printed."""

    def __init__(self, folder, settings):
        folder.mkdir()
        self.folder = folder / "out"
        given = dict(BASE)
        if "model_name_or_path" in settings:
            given = {k: v for k, v in given.items() if not k.startswith(("scratch_", "imitation_"))}
        made = []

        class Kept(running.MetaGRPOTrainer):
            def __init__(self, *args, **kwargs):
                made.append(self)
                super().__init__(*args, **kwargs)

        console = Console(file=io.StringIO(), width=200)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(running, "MetaGRPOTrainer", Kept)
            # a full collection takes longer than such a run
            patch.setattr(training, "gc", types.SimpleNamespace(**{k: lambda *_: () for k in GC}))
            parts = parsed(folder, **{**given, "output_dir": str(self.folder), **settings})
            running.run_training(parts, console)
        self.trainer, self.text = made[0], console.file.getvalue()

    def weights(self):
        return torch.cat([p.detach().float().flatten() for p in load_model(str(self.folder / "final")).parameters()])

    def lines(self, name):
        """Values of a metric by step."""
        read = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        return {line["step"]: line[name] for line in read if name in line}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Makes runs; the same settings are run once."""
    known = {}

    def run(**settings):
        key = json.dumps(settings, sort_keys=True)
        if key not in known:
            known[key] = Run(tmp_path_factory.mktemp("fields") / "run", settings)
        return known[key]

    return run


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of tiny models: `chat` (ChatML), `dropout` (GPT-2)."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = chat_tokenizer()
    sizes = ScratchArguments(scratch_hidden_size=16, scratch_layers=1, scratch_heads=2)
    marks = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    gpt2 = GPT2Config(vocab_size=len(tokenizer), n_positions=512, n_embd=16, n_layer=1, n_head=2, **marks)
    for name, model in (("chat", scratch_model(sizes, tokenizer, 1024, 0)), ("dropout", GPT2LMHeadModel(gpt2))):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


# ---------------------------------------------------------------------- every field, once


def test_every_field_is_in_one_table():
    names = [item.name for item in fields()]
    assert len(names) == len(set(names))
    tables = [WEIGHTS, OWN_TESTS, ELSEWHERE, NEEDS_A_GPU, REFUSED]
    named = [name for table in tables for name in table]
    assert sorted(set(names) - set(named)) == [], "new fields: show their effect in a test, or refuse them"
    assert sorted(set(named) - set(names)) == [], "these are no fields any more"
    assert sorted(name for name in named if named.count(name) > 1) == []


def test_the_tests_that_are_named_exist():
    here = Path(__file__).read_text()
    for name in set(OWN_TESTS.values()):
        assert f"\ndef {name}(" in here, name
    for place in set(ELSEWHERE.values()):
        path, name = place.split("::")
        assert f"\ndef {name}(" in (ROOT / "tests" / path).read_text(), place


@pytest.mark.parametrize("field", WEIGHTS)
def test_the_weights_change(field, start):
    base, value = WEIGHTS[field]
    off = {"ref_model_sync_steps": None} if field == "sync_ref_model" else {}
    before, after = start(**base).weights(), start(**{**base, field: value, **off}).weights()
    assert before.shape != after.shape or (before - after).abs().max() > 1e-5


# ---------------------------------------------------------------------- refused


def other(item):
    """A value that is not the field's default."""
    default = item.default if item.default is not dataclasses.MISSING else item.default_factory()
    kind = str(item.type)
    if isinstance(default, bool) or "bool" in kind:
        return not default
    if isinstance(default, int | float) or "int" in kind or "float" in kind:
        return default + 7 if isinstance(default, int | float) else 7
    if "dict" in kind:
        return {"a": 1}
    return ["a"] if "list" in kind and "str |" not in kind else "other"


def refusal(folder, *line, **settings):
    """The line that a start ends with."""
    with pytest.raises(ConfigError) as caught:
        parsed(folder, *line, **{**BASE, **settings})
    text = str(caught.value)
    assert "\n" not in text and text.endswith((".", ")"))
    return text


@pytest.mark.parametrize("field", REFUSED)
def test_it_is_refused_in_a_file_and_on_the_command_line(field, tmp_path):
    item = next(item for item in fields() if item.name == field)
    value = other(item)
    assert refusal(tmp_path, **{field: value}).startswith(f"{field}=")
    written = json.dumps(value) if isinstance(value, dict) else str(value)
    assert refusal(tmp_path, f"--{field}", written).startswith(f"{field}=")


def test_defaults_are_never_refused(tmp_path):
    known = {item.name: item for item in fields()}
    given = {}
    for name in [*REFUSED, *(name for need in NEEDS for name in need.names.split())]:
        default = known[name].default
        if default is not dataclasses.MISSING and default not in (None, ""):
            given[name] = getattr(default, "value", default)
    parsed(tmp_path, **{**BASE, **given})


SET = {
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

GIVEN_MODEL = {k: None for k in BASE if k.startswith(("scratch_", "imitation_"))} | {"model_name_or_path": "m"}
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
    item = next(item for item in fields() if item.name == field)
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
@pytest.mark.parametrize("field", ["bf16", "fp16", "tf32", "use_liger_kernel"])
def test_what_needs_a_gpu_is_refused_without_one(field, tmp_path):
    assert refusal(tmp_path, **{field: True}) == f"{field}=True needs a GPU, and there is none: leave it out."


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


# ---------------------------------------------------------------------- files and lines


def test_checkpoints_as_asked_for(start):
    def kept(**settings):
        return sorted(p.name for p in start(**{"max_steps": 4, **settings}).folder.glob("checkpoint-*"))

    assert kept() == []
    assert kept(save_strategy="steps", save_steps=2) == ["checkpoint-2", "checkpoint-4"]
    assert kept(save_strategy="steps", save_steps=1, save_total_limit=2) == ["checkpoint-3", "checkpoint-4"]


def test_lines_as_asked_for(start):
    def steps(**settings):
        return sorted(start(max_steps=4, **settings).lines("trial_return"))

    assert steps() == [1, 2, 3, 4]
    assert steps(logging_steps=2) == [2, 4]
    assert steps(logging_steps=2, logging_first_step=True) == [1, 2, 4]
    assert steps(logging_strategy="no", logging_steps=None) == [4]  # the line at the end


def test_evaluations_as_asked_for(start):
    asked = {"max_steps": 4, "eval_strategy": "steps", "eval_trials": 8, "logging_steps": 4}

    def steps(**settings):
        return sorted(start(**{**asked, **settings}).lines("eval_return"))

    assert start(max_steps=4).lines("eval_return") == {}
    assert steps() == [4]  # as often as lines are written
    assert steps(eval_steps=2) == [2, 4]
    assert steps(eval_steps=1, eval_delay=3) == [3, 4]
    assert steps(eval_steps=2, eval_on_start=True) == [0, 2, 4]
    few, many = (start(**{**asked, "eval_trials": trials}).lines("eval_return") for trials in (8, 64))
    assert few != many


@pytest.mark.parametrize("greater", [True, False])
def test_the_best_model_is_kept(greater, start):
    settings = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 1, "eval_trials": 64, "save_strategy": "steps"}
    settings |= {"save_steps": 1, "load_best_model_at_end": True, "metric_for_best_model": "eval_return"}
    run = start(**settings, greater_is_better=greater, learning_rate=5e-2, seed=3)
    found = run.lines("eval_return")
    best = (max if greater else min)(found, key=found.get)
    assert len(set(found.values())) > 1
    step = torch.cat([p.flatten() for p in load_model(str(run.folder / f"checkpoint-{best}")).parameters()])
    assert torch.equal(run.weights(), step)
    assert max(found, key=found.get) != min(found, key=found.get)


def test_metrics_are_reported(start, monkeypatch):
    told, logged = {}, []
    trackio = types.ModuleType("trackio")
    trackio.__spec__ = types.SimpleNamespace(name="trackio")
    trackio.init = lambda **settings: told.update(settings)
    trackio.log = lambda metrics, **_: logged.append(metrics)
    trackio.finish = lambda: None
    trackio.context_vars = types.SimpleNamespace(current_space_id=types.SimpleNamespace(get=lambda: None))
    trackio.config = type("Config", (dict,), {"update": lambda *_, **__: None})()
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    monkeypatch.setattr("trl.extras.profiling.trackio", trackio, raising=False)
    start(report_to="trackio", run_name="doors", project="meta")
    assert (told["name"], told["project"]) == ("doors", "meta")
    assert any("train/trial_return" in metrics for metrics in logged)


def test_what_is_played_and_written_at_the_side(start):
    def steps(**settings):
        lines = (start(**settings).folder / "trials.jsonl").read_text().splitlines()
        return [json.loads(line)["step"] for line in lines]

    assert steps() == [0, 0, 0, 0]
    assert steps(sample_every=1, sample_trials=3) == [0, 0, 0, 1, 1, 1]
    assert not (start().folder / "eval.json").exists()
    assert json.loads((start(final_eval_trials=6).folder / "eval.json").read_text())["trials"] == 6


# ---------------------------------------------------------------------- the run


def test_the_adaptive_bonus_follows_its_settings(start):
    def coefficients(**settings):
        found = start(use_adaptive_entropy=True, entropy_coef=0.5, max_steps=3, **settings).lines("entropy_coef")
        return pytest.approx(list(found.values()))

    assert coefficients(entropy_target=9.0) == [0.505, 0.51, 0.515]
    assert coefficients(entropy_target=0.0) == [0.495, 0.49, 0.485]
    assert coefficients(entropy_target=9.0, entropy_coef_delta=0.3) == [0.8, 1.0, 1.0]
    assert coefficients(entropy_target=9.0, entropy_coef_delta=0.3, entropy_coef_max=0.6) == [0.6, 0.6, 0.6]
    assert coefficients(entropy_target=0.0, entropy_coef_delta=0.3, entropy_coef_min=0.4) == [0.4, 0.4, 0.4]


def test_checkpointed_gradients(start, monkeypatch):
    from transformers import PreTrainedModel

    told = []
    inner = PreTrainedModel.gradient_checkpointing_enable

    def enable(self, gradient_checkpointing_kwargs=None, **more):
        told.append(gradient_checkpointing_kwargs)
        inner(self, gradient_checkpointing_kwargs, **more)

    monkeypatch.setattr(PreTrainedModel, "gradient_checkpointing_enable", enable)
    plain = start()
    assert not plain.trainer.model.is_gradient_checkpointing
    run = start(gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": True})
    assert run.trainer.model.is_gradient_checkpointing and told[-1] == {"use_reentrant": True}
    assert (run.weights() - plain.weights()).abs().max() < 1e-6


def test_limits_reach_the_rollout(start, monkeypatch):
    from metarlgym.training import trainer

    seen = []
    manager = trainer.RolloutManager
    monkeypatch.setattr(
        trainer, "RolloutManager", lambda *args: seen.append(args[2:]) or manager(*args)
    )  # (limits, concurrency)
    settings = {"max_context_tokens": 48, "max_episode_seconds": 60.0, "max_trial_seconds": 90.0}
    run = start(**settings, rollout_concurrency=3)
    limits, concurrency = seen[-1]
    assert (limits.context_tokens, limits.episode_seconds, limits.trial_seconds) == (48, 60.0, 90.0)
    assert concurrency == 3
    assert run.trainer.model.config.max_position_embeddings == 48


def test_the_timeout_of_processes(tmp_path):
    text = refusal(tmp_path, ddp_timeout=300, max_trial_seconds=60.0)
    assert text.startswith("ddp_timeout=300 is shorter than max_trial_seconds=60 + 300")
    assert parsed(tmp_path, **BASE, ddp_timeout=77).grpo.ddp_timeout_delta.total_seconds() == 77


def test_threads(start):
    try:
        start(threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


# ---------------------------------------------------------------------- a model that is given

CHAT = {"env_args": {"doors": 3}, "max_action_tokens": 4, "entropy_coef": 0.5}


def test_the_form_of_a_given_model(start, models):
    settings = {**CHAT, "model_name_or_path": str(models / "chat")}
    plain = start(**settings)
    assert plain.trainer.model.dtype == torch.float32
    assert not (plain.folder / "start").exists()  # where a model made from scratch is kept
    assert start(**settings, attn_implementation="eager").trainer.model.config._attn_implementation == "eager"
    half = start(**settings, dtype="bfloat16")
    assert half.trainer.model.dtype == half.trainer.model.lm_head.weight.dtype == torch.bfloat16
    mixed = start(**settings, dtype="bfloat16", cast_lm_head_to_fp32=True)
    assert mixed.trainer.model.lm_head.weight.dtype == torch.float32
    assert (mixed.weights() - half.weights()).abs().max() > 0
    lora = start(**settings, dtype="bfloat16", use_peft=True)
    assert load_model(str(lora.folder / "final")).dtype == torch.bfloat16  # the base model was loaded in it again


def test_dropout_can_be_switched_off(start, models):
    settings = {**CHAT, "model_name_or_path": str(models / "dropout"), "max_steps": 1}
    on, off = (start(**settings, disable_dropout=value) for value in (False, True))
    assert [run.trainer.model.transformer.drop.p for run in (on, off)] == [0.1, 0]
    assert (on.weights() - off.weights()).abs().max() > 1e-5


def test_how_text_is_rendered(start, models):
    settings = {**CHAT, "model_name_or_path": str(models / "thinking"), "max_steps": 1}
    shutil.copytree(models / "chat", models / "thinking")
    path = models / "thinking" / "chat_template.jinja"
    path.write_text("{% if thinking %}Think.{% endif %}" + path.read_text())
    plain = start(**settings, renderer="plain").weights()
    chat, thinking = start(**settings).weights(), start(**settings, chat_template_kwargs={"thinking": True}).weights()
    assert min((plain - chat).abs().max(), (chat - thinking).abs().max()) > 1e-5


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"model_revision": "v2"}, "model_revision='v2' with model_name_or_path='MODEL': a folder has no revisions"),
        ({"attn_implementation": "nonsense"}, "attn_implementation='nonsense' cannot be used with 'MODEL'"),
        ({"attn_implementation": "flash_attention_2"}, "attn_implementation='flash_attention_2' cannot be used"),
    ],
)
@pytest.mark.parametrize("dry", [False, True])
def test_a_model_that_cannot_be_had_as_asked_for(settings, told, dry, models, tmp_path):
    name = str(models / "chat")
    given = {k: v for k, v in BASE.items() if k not in GIVEN_MODEL}
    out = tmp_path / "out"
    parts = parsed(tmp_path, **given, **settings, model_name_or_path=name, output_dir=str(out))
    with pytest.raises(ConfigError) as caught:
        running.run_training(parts, Console(file=io.StringIO()), dry_run=dry)
    assert told.replace("MODEL", name) in str(caught.value) and "\n" not in str(caught.value)
    assert not out.exists()


def test_settings_of_a_template_need_a_template(models, tmp_path):
    shutil.copytree(models / "chat", tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    given = {k: v for k, v in BASE.items() if k not in GIVEN_MODEL}
    parts = parsed(tmp_path, **given, model_name_or_path=str(tmp_path / "bare"), chat_template_kwargs={"a": 1})
    with pytest.raises(ConfigError, match="has no chat template; leave it out"):
        running.run_training(parts, Console(file=io.StringIO()), dry_run=True)


def hub(folder, models, patch):
    """A hub's cache with a model of two revisions, and no network: their weights differ in one number."""
    import huggingface_hub.constants

    repo = folder / "models--org--tiny"
    (repo / "refs").mkdir(parents=True)
    for name, commit in (("main", "a" * 40), ("v2", "b" * 40)):
        (repo / "refs" / name).write_text(commit)
        shutil.copytree(models / "chat", repo / "snapshots" / commit)
    model = load_model(str(models / "chat"))
    with torch.no_grad():
        model.lm_head.weight += 1
    model.save_pretrained(repo / "snapshots" / ("b" * 40))
    patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))


def test_a_revision_holds_for_config_tokenizer_weights_and_reference(models, tmp_path, monkeypatch):
    hub(tmp_path / "hub", models, monkeypatch)
    settings = {**CHAT, "model_name_or_path": "org/tiny", "beta": 0.1, "learning_rate": 0.0}
    first, second = (Run(tmp_path / name, {**settings, "model_revision": name}) for name in ("main", "v2"))
    assert second.weights().sub(first.weights()).abs().max() == pytest.approx(1, abs=1e-4)
    for run in (first, second):  # an untrained policy is its reference
        assert all(abs(value) < 1e-6 for value in run.lines("kl").values())
        assert torch.equal(run.trainer.model.lm_head.weight, run.trainer.ref_model.lm_head.weight)
    merged = Run(tmp_path / "lora", {**settings, "beta": None, "use_peft": True, "model_revision": "v2"})
    assert torch.equal(merged.weights(), second.weights())
    with pytest.raises(ConfigError, match=r"model_name_or_path='org/tiny' has no configuration that loads"):
        Run(tmp_path / "gone", {**settings, "model_revision": "no-such-branch"})
    assert not (tmp_path / "gone" / "out").exists()


OWN_CODE = """
from transformers import Qwen3Config, Qwen3ForCausalLM


class TinyConfig(Qwen3Config):
    model_type = "metarlgym_test_tiny"


class TinyForCausalLM(Qwen3ForCausalLM):
    config_class = TinyConfig
"""


def test_code_of_a_model_is_run_only_when_trusted(start, models, tmp_path):
    folder = tmp_path / "own"
    shutil.copytree(models / "chat", folder)
    (folder / "tiny.py").write_text(OWN_CODE)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "metarlgym_test_tiny"}
    config |= {"auto_map": {"AutoConfig": "tiny.TinyConfig", "AutoModelForCausalLM": "tiny.TinyForCausalLM"}}
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["TinyForCausalLM"]}))
    settings = {**CHAT, "model_name_or_path": str(folder)}
    run = Run(tmp_path / "trusted", {**settings, "trust_remote_code": True})
    assert type(run.trainer.model).__name__ == "TinyForCausalLM"
    with pytest.raises(ConfigError, match="custom code which must be executed"):
        Run(tmp_path / "untrusted", settings)


# ---------------------------------------------------------------------- servers


def test_settings_of_servers(tmp_path):
    given = {k: v for k, v in BASE.items() if k not in GIVEN_MODEL} | {"model_name_or_path": "m", "use_vllm": True}
    args = parsed(tmp_path, **given, vllm_server_host="far", vllm_server_port=9).grpo
    assert args.server_urls == ["http://far:9"]


def test_correction_for_the_sampler(tmp_path, models):
    """TRL's own loss, told that a server sampled the trials: their log-probabilities are one nat too high."""
    given = {k: v for k, v in {**BASE, **CHAT}.items() if k not in GIVEN_MODEL}
    given |= {"model_name_or_path": str(models / "chat"), "use_vllm": True}

    def ratio(**settings):
        args = parsed(tmp_path, **given, **settings).grpo
        return _ratio(args, tmp_path, models)

    mean = ratio(vllm_importance_sampling_clip_min=None)
    assert mean == pytest.approx(math.exp(-1))
    assert ratio(vllm_importance_sampling_clip_min=0.5) == pytest.approx(0.5)
    assert ratio(vllm_importance_sampling_clip_max=0.2) == pytest.approx(0.2)
    masked = {"vllm_importance_sampling_mode": "token_mask", "vllm_importance_sampling_clip_max": 0.2}
    assert ratio(**masked) == 0
    assert ratio(vllm_importance_sampling_correction=False) is None


def _ratio(args, folder, models):
    """The weight that TRL's batch gives its tokens; None where it has none."""
    args.use_vllm = False
    args.max_steps, args.output_dir = 1, str(folder / "ratio")
    group = TaskGroup("Doors-v0", {"doors": 3})
    tokenizer = load_tokenizer(str(models / "chat"))
    renderer = make_renderer("chat", tokenizer, group)
    trainer = training.MetaGRPOTrainer(load_model(str(models / "chat")), args, group, tokenizer, renderer)
    found = []
    rollout, loss = trainer.rollout, trainer._compute_loss

    def play(rows):
        out = rollout(rows)
        out["logprobs"] = [[value + 1 for value in row] for row in out["logprobs"]]
        return out

    def weigh(model, inputs):
        found.append(inputs.get("importance_sampling_ratio"))
        found.append(inputs["completion_mask"] * inputs["tool_mask"])
        trainer.use_vllm = False  # nothing to weigh the loss by: only the batch is looked at
        return loss(model, inputs)

    trainer.rollout, trainer._compute_loss, trainer.use_vllm = play, weigh, True
    trainer._last_loaded_step = 0  # the server has the weights
    trainer.train()
    if found[0] is None:
        return None
    values = found[0][found[1] > 0]
    assert values.min() == pytest.approx(float(values.max()), rel=1e-3)
    return float(values.mean())
