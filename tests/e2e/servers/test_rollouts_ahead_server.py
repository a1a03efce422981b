"""Rollouts played ahead by a real server, each by one version of the weights; the same on one and two processes."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.e2e.servers.conftest import DOORS, ONE, ZERO3_TRAIN, metrics, run, training, trials

STEPS = 6
AHEAD = ["--rollouts_ahead", "1", "--max_steps", str(STEPS), "--write_contexts", "true"]
KEEP = ["--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", str(STEPS)]


def train(launcher, server, folder, rows, *extra):
    done = run(training(launcher, DOORS, server.model, server.url, folder, rows, *AHEAD, *extra))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-20000:]
    return metrics(folder)


def logprobs(model, ids):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
    return torch.log_softmax(logits, -1).gather(-1, torch.tensor(ids)[1:, None])[:, 0]


def test_each_rollout_has_the_weights_of_one_update_before(serve, tmp_path):
    server = serve("doors")
    two = train(ZERO3_TRAIN, server, tmp_path / "two", 4)
    one = train(ONE, server, tmp_path / "one", 8, *KEEP)
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-4), a["step"]
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3, abs=1e-6), a["step"]
    assert [entry["off_policy/updates"] for entry in one] == [0, 1, 1, 1, 1, 1]
    assert max(entry["off_policy/log_ratio"] for entry in one[1:]) > 1e-3 > one[0]["off_policy/log_ratio"]
    final = [load_file(tmp_path / name / "final" / "model.safetensors") for name in ("one", "two")]
    assert max(float((final[0][name] - final[1][name]).abs().max()) for name in final[0]) <= 1e-4

    played = [json.loads(line) for line in trials(tmp_path / "one")]
    assert [trial["step"] for trial in played] == [step for step in range(STEPS) for _ in range(8)]
    versions = [server.model, *(tmp_path / "one" / f"checkpoint-{step}" for step in range(1, STEPS))]
    models = [AutoModelForCausalLM.from_pretrained(folder).eval() for folder in versions]
    worst = {0: 0.0, 1: 0.0}
    for trial in played:
        (context,) = trial["contexts"]
        sampled, start = torch.tensor(context["action_mask"]).bool(), context["prompt_len"]
        told = torch.tensor(context["logprobs"])[sampled]
        for since in worst:
            own = logprobs(models[max(0, trial["step"] - since)], context["ids"])[start - 1 :][sampled]
            worst[since] = max(worst[since], float((told - own).abs().max()))
    print(
        f"log-probabilities: {worst[1]:.2g} from the weights of one update before, {worst[0]:.2g} from the current ones"
    )
    assert worst[1] <= 1e-4 < 1e-3 < worst[0]
