"""Gist tokens on tiny models: exact references, scores, verdicts, and the way from a config to summary and pictures."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from metarlgym.datatypes import ConfigError
from metarlgym.selflearning.gist_tokens import experiment as gist_tokens
from metarlgym.selflearning.gist_tokens.model import GistModel, draw, held_out_loss, make_source, train_gists
from metarlgym.selflearning.gist_tokens.policy_learning import advantages
from metarlgym.selflearning.gist_tokens.references import exact_losses
from metarlgym.selflearning.gist_tokens.scores import Judge, state_score, token_score
from metarlgym.selflearning.gist_tokens.verdicts import correlation, verdicts

TINY = {
    "alphabet": 4,
    "concentration": 0.3,
    "n1": 8,
    "n2": 6,
    "hidden_size": 16,
    "heads": 2,
    "gists": [1, 2],
    "gist_seeds": [0],
    "steps": 6,
    "batch": 8,
    "log_every": 3,
    "held": 50,
    "leak_sequences": 8,
    "spaces": ["token", "frozen", "ema", "live", "guarded", "noise"],
    "seeds": [0],
    "space_gists": 2,
    "space_warm_steps": 4,
    "space_steps": 4,
    "prompts": 2,
    "group": 4,
    "check_every": 2,
    "check_sequences": 16,
    "check_samples": 2,
}


@pytest.fixture(scope="module")
def config():
    return gist_tokens.Config(**TINY)


@pytest.fixture(scope="module")
def ran(config):
    """Results of all variants, as read back from JSON, and what they logged."""
    logs: dict[str, list] = {}
    results = {}
    for variant in gist_tokens.variants(config):

        def log(step, total, variant=variant, **values):
            logs.setdefault(variant, []).append((step, total, values))

        found = gist_tokens.run_variant(config, variant, log)
        results[variant] = json.loads(json.dumps(found))
    return results, logs


def test_variants(config):
    assert gist_tokens.variants(config) == [
        *("gist-1-seed0", "gist-2-seed0", "no_bottleneck-seed0", "no_gist-seed0"),
        *(f"space-{space}-seed0" for space in TINY["spaces"]),
    ]
    with pytest.raises(ConfigError, match="variant='gist-3-seed0' is not one"):
        gist_tokens.run_variant(config, "gist-3-seed0", lambda step, total: None)


def test_config_of_the_repository():
    lines = (Path(__file__).parents[2] / "configs/selflearning/gist_tokens.yaml").read_text().splitlines()
    assert lines[0] == "experiment: gist_tokens"
    config = gist_tokens.Config(**yaml.safe_load("\n".join(lines[1:])))
    assert config.gists == [1, 2, 4, 8] and len(config.seeds) == 3


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("group", 1, "group=1 must be at least 2"),
        ("layers", 1, "layers=1 must be at least 2"),
        ("kv_heads", 3, "kv_heads=3 must divide heads=2"),
        ("tau", 1.0, "tau=1.0 must be above 0 and below 1"),
        ("spaces", ["word"], "spaces='word' is not known"),
        ("gists", [0], "gists=.* each must be at least 1"),
        ("lr", 0.0, "lr=0.0 must be above 0"),
    ],
)
def test_bad_settings(name, value, said):
    with pytest.raises(ConfigError, match=said) as caught:
        gist_tokens.Config(**{**TINY, name: value})
    assert "\n" not in str(caught.value)


def test_exact_losses_by_enumeration():
    """On two symbols: all contexts, and the truth by quadrature."""
    config = gist_tokens.Config(**{**TINY, "alphabet": 2, "concentration": 1.0, "n1": 2, "n2": 2})
    found = exact_losses(config, make_source(config, 5), 20000)
    grid = (np.arange(4000) + 0.5) / 4000

    def loss(skip: int) -> float:
        total = 0.0
        for word in (*itertools.product((0, 1), repeat=2), *itertools.product((0, 1), repeat=3)):
            counted = word[skip:]
            p = (sum(counted) + 1) / (len(counted) + 2)
            prob = grid ** sum(word) * (1 - grid) ** (len(word) - sum(word))
            total -= float((prob * (grid * math.log(p) + (1 - grid) * math.log(1 - p))).mean())
        return total / 2

    assert found["full_context"] == pytest.approx(loss(0), abs=0.005)
    assert found["chunk_alone"] == pytest.approx(loss(2), abs=0.005)
    assert found["entropy"] == pytest.approx(0.5, abs=0.005)  # mean entropy of a uniform coin, nats
    assert found["bits"] == pytest.approx((loss(2) - loss(0)) * 2 / math.log(2), abs=0.02)


def test_gists_learn_to_carry():
    """A short phase A: gists help, and nothing else is better than exact."""
    config = gist_tokens.Config(**{**TINY, "n1": 12, "n2": 4, "batch": 16, "concentration": 0.1})
    source = make_source(config, 1)
    data = draw(config, source, 0, 500, "eval")
    losses = {}
    for view in ("gist", "no_gist"):
        model = train_gists(config, 2, view, 0, 100, lambda *_args, **_values: None)
        losses[view] = float(held_out_loss(model, *data).mean())
    exact = exact_losses(config, source, 500)
    assert exact["full_context"] < losses["gist"] < losses["no_gist"] - 0.1
    assert losses["no_gist"] > exact["chunk_alone"]


def test_scores():
    own, true = torch.tensor([[0, 1, 2, 3], [0, 0, 0, 0]]), torch.tensor([[0, 1, 3, 2], [1, 1, 1, 1]])
    assert token_score(own, true).tolist() == [0.5, 0.0]
    states = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(2, 3)
    assert torch.allclose(state_score(states, states, zero), torch.ones(5))
    assert torch.allclose(state_score(states, -states, zero), torch.zeros(5), atol=1e-6)
    center = torch.ones(2, 3)
    assert torch.allclose(state_score(states + center, 2 * states + center, center), torch.ones(5))


def test_who_judges(config):
    """The actor moves: the frozen encoder stays, the average follows slowly, the live one is the actor."""
    chunks = torch.randint(4, (16, 6), generator=torch.Generator().manual_seed(0))
    own = chunks.flip(0)
    scores = {}
    for space in ("frozen", "ema", "live", "guarded"):
        actor = GistModel(config, 2, "gist", 0)
        judge = Judge(space, actor, chunks, 0.99)
        before = judge.score(own, chunks)
        assert judge.state_std(chunks) == pytest.approx(1.0, abs=1e-5)
        with torch.no_grad():
            for weight in actor.network.model.layers.parameters():
                weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        judge.after_step()
        judge.after_step()  # the first call of AveragedModel copies
        scores[space] = float((judge.score(own, chunks) - before).abs().max())
    assert scores["frozen"] == 0 and scores["live"] == scores["guarded"] > 1e-3
    with pytest.raises(ConfigError, match="space='word'"):
        Judge("word", actor, chunks, 0.99)


def test_guard_is_paid_for_collapse(config):
    chunks = torch.randint(4, (16, 6), generator=torch.Generator().manual_seed(0))
    actor = GistModel(config, 2, "gist", 0)
    judge = Judge("guarded", actor, chunks, 0.99)
    apart = float(judge.live_loss(chunks, chunks, 0.0, 1.0).detach())
    with torch.no_grad():
        for layer in actor.network.model.layers:  # attention writes nothing: gists know no chunk
            layer.self_attn.o_proj.weight.zero_()
    assert judge.state_std(chunks) < 0.01
    assert apart == pytest.approx(0, abs=0.02) and float(judge.live_loss(chunks, chunks, 0.0, 1.0).detach()) > 0.9


def test_advantages_are_within_groups():
    scores = torch.tensor([0.0, 1.0, 10.0, 10.0])
    assert torch.allclose(advantages(scores, 2), torch.tensor([-1.0, 1.0, 0.0, 0.0]) * 2**0.5)


def test_verdicts():
    def line(step: int, loss: float, gain: float) -> dict:
        return {"step": step, "true_loss": loss, "gain": gain, "gain_se": 0.01, "score": 0.5 + gain}

    run = [line(0, 2.0, 0.0), line(10, 2.09, 0.5), line(20, 2.1, 0.02), line(30, 2.2, 0.021), line(40, 1.9, 0.3)]
    assert verdicts(run) == {"data_side_step": 20, "hack_step": 30}
    assert verdicts(run[:2]) == {"data_side_step": None, "hack_step": None}
    bought = [line(step, 2.0 + 0.1 * step**2, 0.1 * step**2) for step in range(5)]
    assert correlation([bought, bought]) == -1.0 == correlation([bought], from_start=True)
    honest = [line(step, 2.0 - 0.1 * step**2, 0.1 * step**2) for step in range(5)]
    assert correlation([honest]) == 1.0
    assert correlation([[line(0, 2.0, 0.0)] * 4]) is None


def test_results(config, ran):
    results, logs = ran
    for variant, lines in logs.items():
        steps = [step for step, _, _ in lines]
        assert steps == sorted(steps) and lines[-1][0] == lines[-1][1], variant
    assert results["gist-2-seed0"]["leak_max_abs"] == 0.0 < results["gist-2-seed0"]["gradient_max_abs"]
    assert results["no_gist-seed0"]["gradient_max_abs"] == 0.0
    starts = [results[f"space-{space}-seed0"]["checks"][0] for space in TINY["spaces"]]
    for check in starts:  # one phase A for all: they start from one point
        assert check["true_loss"] == starts[0]["true_loss"] and check["gist_score"] == starts[0]["gist_score"]
        assert check["gain"] == 0
    assert [check["step"] for check in results["space-ema-seed0"]["checks"]] == [0, 2, 4]


def test_summary_and_pictures(config, ran, tmp_path):
    results, _ = ran
    summary = json.loads(json.dumps(gist_tokens.summarize(config, results), allow_nan=False))
    assert list(summary["loss_by_gist_tokens"]) == ["1", "2"] and summary["leak_max_abs"] == 0.0
    for k in (1, 2):
        bits = (summary["no_gist"] - summary["loss_by_gist_tokens"][str(k)]) * 6 / math.log(2) / k
        assert summary["bits_per_gist"][str(k)] == pytest.approx(bits, abs=1e-3)
    assert set(summary["space"]) == set(TINY["spaces"]) and len(summary["space"]["token"]["hack_step"]) == 1
    assert summary["harder_space"] in ("gist", "token", "neither") and summary["table"]
    shown = gist_tokens.pictures(config, results)
    assert len(shown) == 3
    for number, picture in enumerate(shown):
        picture.figure.savefig(tmp_path / f"{number}.png")


def test_summary_of_some_variants(config, ran):
    results, _ = ran
    only_a = gist_tokens.summarize(config, {"no_gist-seed0": results["no_gist-seed0"]})
    assert only_a["no_bottleneck"] is None and only_a["space"] == {} and only_a["harder_space"] is None
    only_b = {"space-live-seed0": results["space-live-seed0"]}
    assert (
        list(gist_tokens.summarize(config, only_b)["space"]) == ["live"]
        and len(gist_tokens.pictures(config, only_b)) == 2
    )


def test_the_space_that_is_harder_to_hack(config, ran):
    results, _ = ran
    told = {name: dict(each) for name, each in results.items()}
    told["space-token-seed0"]["hack_step"], told["space-frozen-seed0"]["hack_step"] = 2, None
    summary = gist_tokens.summarize(config, told)
    assert summary["harder_space"] == "gist" and summary["space"]["frozen"]["median_hack_step"] == 4
    told["space-frozen-seed0"]["hack_step"] = 0
    assert gist_tokens.summarize(config, told)["harder_space"] == "token"
