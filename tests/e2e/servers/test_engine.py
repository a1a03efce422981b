"""The colocated engine's policy, on vLLM's CPU engine: what it samples has the log-probabilities it says.

The engine leaves much behind, so it lives in a process of its own.
"""

import json
import sys

import pytest

from tests.e2e.servers.conftest import run

SCRIPT = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm import LLM
from metarlgym.policies.vllm_engine import VLLMEnginePolicy
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.manager import RolloutManager
from metarlgym.rollout.render import ChatRenderer
from tests.tiny import full_logprobs, specs, trial_maker
from metarlgym import TaskGroup

if __name__ == "__main__":
    path = sys.argv[1]
    llm = LLM(path, dtype="float32", enforce_eager=True, logprobs_mode="processed_logprobs",
              enable_chunked_prefill=False, max_model_len=1024, max_logprobs=-1)
    renderer = ChatRenderer(AutoTokenizer.from_pretrained(path))
    group = TaskGroup("GuessNumber-v0")
    manager = RolloutManager(VLLMEnginePolicy(llm, renderer), renderer, Limits(action_tokens=6))
    played = [manager.run(specs(group, trial_maker(group, 2), 8)) for _ in range(2)]
    model = AutoModelForCausalLM.from_pretrained(path)
    worst = 0.0
    for trajectory in played[0]:
        row = trajectory.rows[0]
        expected = full_logprobs(model, row.ids)[row.prompt_len - 1:]
        worst = max(worst, max(abs(float(a) - b) for a, b, own in zip(expected, row.logprobs, row.action_mask) if own))
    same = [[r.ids for t in p for r in t.rows] for p in played]
    print("RESULT", json.dumps({"worst": worst, "same": same[0] == same[1], "stops": [t.stop for t in played[0]],
                                "errors": [t.error for t in played[0]]}))
"""


def test_the_engine_samples_what_it_says(models, tmp_path):
    script = tmp_path / "engine.py"
    script.write_text(SCRIPT)
    done = run([sys.executable, str(script), str(models["tied"])], cwd=tmp_path)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stdout[-2000:] + done.stderr[-3000:]
    result = json.loads(lines[0].removeprefix("RESULT "))
    assert result["errors"] == [None] * 8 and set(result["stops"]) == {"terminated"}
    assert result["worst"] == pytest.approx(0, abs=1e-4)
    assert result["same"]
