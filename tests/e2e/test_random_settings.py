"""Random settings that a run honors: it finishes, or it is refused in one line and leaves no folder."""

from __future__ import annotations

import io
import os

import pytest
import torch
from base_runs import TRAIN
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_settings import command_line
from rich.console import Console

from metarlgym import MetaRLGymError
from metarlgym.training.arguments import parse
from metarlgym.training.run import run_training

pytestmark = pytest.mark.e2e

BASE = {**TRAIN, "max_steps": 1, "sample_every": 1}
HONORED = {
    "env_args": [{"doors": 2, "style": "terse"}, {"doors": 3}, {"doors": 1}, {"rooms": 3}],
    "episodes": [1, 2, 3, 0, 2.0],
    "trials_per_task": [2, 4, 8, 3, 1],
    "max_steps": [1, 2, -1],
    "per_device_train_batch_size": [8, 16, 4, 6],
    "gradient_accumulation_steps": [1, 2],
    "num_iterations": [1, 2],
    "memory": ["full", "none", "last_1", "last_0"],
    "credit": ["trial", "return_to_go", "return_to_go_zscore", "trial_rloo", "final_episode", "differential", "gigpo"],
    "gamma": [0, 0.5, "1:0.5, 2:1", 2],
    "gamma_step": [0.9, 1.5],
    "free_shots": [0, 1, 2, "0:1, 1:0"],
    "entropy_schedule": ["0:0.4, 1:0", 0.1, "x"],
    "scale_rewards": ["group", "none", "all"],
    "loss_type": ["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo", "ppo"],
    "importance_sampling_level": ["token", "sequence"],
    "beta": [0.0, 0.1, -1.0],
    "epsilon": [0.0, 0.2],
    "temperature": [0.5, 1.0, 0.0],
    "learning_rate": [0.0, 1e-3, "1e-3", True],
    "lr_scheduler_type": ["linear", "cosine", "constant_with_warmup", "cosine_with_min_lr", "inverse_sqrt", "steps"],
    "warmup_steps": [0, 1, 0.5, -1],
    "optim": ["adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop", "adamw_bnb_8bit", "adam"],
    "weight_decay": [0, 0.1],
    "adam_beta1": [0, 0.5, 1.0],
    "max_grad_norm": [0.0, 1, 0.1],
    "seed": [0, 2**32 - 1, 2**32, -1],
    "task_seed": [0, 7, 2**63],
    "logging_steps": [1, 2, 0.5, 0],
    "save_strategy": ["no", "steps", "epoch"],
    "save_steps": [1, 2, 0.5, 0],
    "save_total_limit": [1, 2, 0],
    "eval_strategy": ["no", "steps"],
    "eval_steps": [1, 2],
    "eval_trials": [4, 8, 0],
    "final_eval_trials": [0, 4, -1],
    "max_action_tokens": [1, 4, 0],
    "max_total_turns": [1, 3, 0],
    "max_episode_turns": [1, 2],
    "max_trial_seconds": [60.0, 1e5],
    "rollout_concurrency": [1, 3],
    "scratch_tokenizer": ["word", "byte"],
    "scratch_hidden_size": [8, 12, 20],
    "scratch_init_std": [0.1, 0.0],
    "imitation_trials": [0, 64],
    "imitation_max_steps": [1, 2],
    "imitation_batch_size": [8, 64],
    "sample_trials": [0, 1],
    "common_noise": [True, False],
    "skip_zero_signal": [True, False],
    "stop_on_success": [True, False],
    "gradient_checkpointing": [True, False],
    "mask_truncated_completions": [True, False],
}
drawn = st.lists(st.sampled_from(sorted(HONORED)), min_size=2, max_size=4, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: st.sampled_from(HONORED[name]) for name in names})
)


def test_runs_and_one_liners(tmp_path):
    ended = []

    @settings(
        max_examples=30,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(changes=drawn)
    def check(changes):
        folder = tmp_path / f"run{len(ended)}"
        before = dict(os.environ)
        try:
            parts = command_line({**BASE, **changes, "output_dir": str(folder)})
            run_training(parse(parts), Console(file=io.StringIO()))
        except MetaRLGymError as error:
            ended.append(str(error))
            assert "\n" not in str(error), changes
            assert not folder.exists(), (changes, str(error))
        else:
            ended.append("finished")
            assert (folder / "final" / "model.safetensors").exists(), changes
        finally:
            os.environ.clear()
            os.environ.update(before)
            torch.set_num_threads(1)

    check()
    assert 10 <= ended.count("finished") <= len(ended) - 3, ended
