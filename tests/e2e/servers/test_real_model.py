"""A real pretrained chat model against a vLLM server: all weights, and LoRA under ZeRO-3 with two processes.

All weights under ZeRO-3 run too, but take 9 GB beside the server, more than the other suites' servers leave.
"""

import json

import pytest

from tests.e2e.conftest import pretrained
from tests.e2e.servers.conftest import ONE, ZERO3_TRAIN, Served, metrics, run, training

DOORS = ["--env_id", "Doors-v0", "--env_args", json.dumps({"doors": 2, "safe": 0.4}), "--max_action_tokens", "6"]
LORA = ["--use_peft", "true", "--lora_r", "8", "--lora_target_modules", "q_proj", "v_proj", "down_proj"]
SHORT = ["--trials_per_task", "2", "--max_steps", "3", "--learning_rate", "1e-5", "--probe_every", "1"]
SHORT += ["--format_steps", "1", "--exploration_coef", "0.1"]


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Servers of the real model by dtype, one at a time: two would not fit beside a run."""
    running: dict[str, Served] = {}
    folder = tmp_path_factory.mktemp("real")

    def get(dtype: str) -> Served:
        if dtype not in running:
            for other in list(running):
                running.pop(other).stop()
            running[dtype] = Served(pretrained(dtype), folder, "--dtype", dtype)
        return running[dtype].wait()

    yield get
    for server in running.values():
        server.stop()


@pytest.mark.parametrize(
    ("dtype", "launcher", "extra", "tolerance"),
    [
        ("float32", ONE, [], 1e-4),
        ("float32", ZERO3_TRAIN, LORA, 1e-4),
        ("bfloat16", ONE, ["--dtype", "bfloat16"], 0.5),
    ],
    ids=["float32", "float32, ZeRO-3, LoRA", "bfloat16"],
)
def test_the_servers_log_probabilities_are_the_trainers(dtype, launcher, extra, tolerance, servers, tmp_path):
    server = servers(dtype)
    rows = 2 if launcher is ZERO3_TRAIN else 4
    done = run(training(launcher, DOORS, server.model, server.url, tmp_path, rows, *SHORT, *extra), timeout=280)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-20000:]
    steps = metrics(tmp_path)
    assert "sampling/sampling_logp_difference/max" not in steps[0], "a format step has no sampler"
    worst = max(entry["sampling/sampling_logp_difference/max"] for entry in steps[1:])
    print(f"{dtype}: log-probabilities differ by {worst:.2g} at most; grad norms {[s['grad_norm'] for s in steps]}")
    assert len(steps) == 3 and worst <= tolerance
    assert steps[0]["grad_norm"] > 1e-3, "the later steps were played with other weights"
    assert (tmp_path / "final").is_dir()
