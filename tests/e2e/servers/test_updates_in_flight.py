"""Weights that change under requests at a real server: each token's log-probability is that of its own version."""

import json
from collections import Counter
from itertools import pairwise

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.e2e.servers.conftest import LETTERS, ZERO3_TRAIN, metrics, run, training, trials

STEPS = 6
LONG = [*LETTERS[:2], "--max_action_tokens", "48"]
KEEP = ["--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", str(STEPS)]


def distances(context, models):
    """Largest difference between the log-probabilities told and those of a version, for each version of the tokens.

    Returns:
        By version: (difference from this version, difference from the one before).
    """
    sampled, start = torch.tensor(context["action_mask"]).bool(), context["prompt_len"]
    told, versions = torch.tensor(context["logprobs"])[sampled], torch.tensor(context["version"])[sampled]
    ids = context["ids"]
    found = {}
    for version in versions.unique().tolist():
        own = versions == version
        found[version] = []
        for other in (version, max(0, version - 1)):
            with torch.no_grad():
                logits = models[other](input_ids=torch.tensor([ids])).logits[0, :-1]
            scored = torch.log_softmax(logits, -1).gather(-1, torch.tensor(ids)[1:, None])[start - 1 :, 0][sampled]
            found[version].append(float((told - scored)[own].abs().max()))
    return found


def split_actions(context):
    """How many actions have tokens of more than one version."""
    tokens = zip(context["action_mask"], context["version"], context["episode"], context["turn"], strict=True)
    return sum(a[0] and b[0] and a[2:] == b[2:] and b[1] > a[1] for a, b in pairwise(tokens))


@pytest.mark.parametrize("ahead", ["1", "continuous"])
def test_tokens_are_by_the_weights_that_they_name(ahead, serve, tmp_path):
    server = serve("untied")
    extra = [
        "--rollouts_ahead",
        ahead,
        "--max_steps",
        str(STEPS),
        "--write_contexts",
        "true",
        "--learning_rate",
        "3e-3",
    ]
    extra += ["--weight_update", "in_flight"] if ahead == "1" else ["--max_staleness", "2"]
    extra += ["--rollout_concurrency", "2"]  # so slow that trials are in flight at each update
    done = run(training(ZERO3_TRAIN, LONG, server.model, server.url, tmp_path, 8, *extra, *KEEP), timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-20000:]
    steps = metrics(tmp_path)
    most = 1 if ahead == "1" else 2
    assert max(entry["off_policy/updates_max"] for entry in steps) == most

    played = [json.loads(line) for line in trials(tmp_path)]
    assert Counter(trial["step"] for trial in played) == dict.fromkeys(range(STEPS), 8)
    folders = [server.model, *(tmp_path / f"checkpoint-{step}" for step in range(1, STEPS))]
    models = [AutoModelForCausalLM.from_pretrained(folder).eval() for folder in folders]
    worst, closest, split = 0.0, 1.0, 0
    for trial in played:
        (context,) = trial["contexts"]
        split += split_actions(context)
        for version, (own, before) in distances(context, models).items():
            assert 0 <= trial["step"] - version <= most
            worst = max(worst, own)
            if version:
                closest = min(closest, before)
    print(f"{ahead}: {worst:.2g} from the version, at least {closest:.2g} from the one before; {split} actions by two")
    assert worst <= 1e-4 < closest
    assert split >= 1, "a request that was alive across an update went on with the new weights"
