"""Learned loss: what can be known of the noise, how validation chunks are chosen, and the variants at a tiny size."""

import math

import numpy as np
import pytest
import torch
import yaml

from metarlgym import ConfigError
from metarlgym.selflearning.learned_loss import experiment as learned_loss
from metarlgym.selflearning.learned_loss.data import elements_of, language_source, read_chunk
from metarlgym.selflearning.learned_loss.evaluation import Judge
from metarlgym.selflearning.learned_loss.noise_posterior import auc, growing_dictionary, known_dictionary
from metarlgym.selflearning.learned_loss.token_weights import View, WeightNet, token_features
from metarlgym.selflearning.learned_loss.validation_choice import ValidationChoice
from metarlgym.sequences.sources.metalm import MASK

NOISE = {"V": 16, "n": 3, "l": 5.0, "e": 0.3}
TINY = {
    "seeds": [0],
    "V": 8,
    "n": 2,
    "l": 4.0,
    "length": 12,
    "batch": 2,
    "hidden_size": 8,
    "layers": 1,
    "fixed_rates": [0.5, 1.0],
    "warm_steps": 6,
    "steps": 6,
    "loss_width": 4,
    "gist_size": 4,
    "offline_runs": 1,
    "offline_steps": 2,
    "buffer": 4,
    "redrawn_warm_steps": 4,
    "redrawn_V": 8,
    "redrawn_steps": 4,
    "redrawn_batch": 2,
    "held_out": 8,
    "check_every": 3,
    "check_chunks": 4,
}


@pytest.fixture(scope="module")
def results():
    config = learned_loss.Config(**TINY)
    lines, found = [], {}
    for variant in learned_loss.variants(config):
        found[variant] = learned_loss.run_variant(
            config, variant, lambda step, total, **values: lines.append((step, total, values))
        )
    return config, found, lines


def test_auc_counts_pairs():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 5, 60), rng.random(60) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in scores[positive] for b in scores[~positive]]
    assert auc(scores, positive) == pytest.approx(np.mean(pairs))
    assert auc(scores, np.zeros(60, bool)) is None


def test_streams():
    source = language_source(NOISE, 20, 0, False)
    chunk = read_chunk(source, 3, 4)
    assert torch.equal(chunk.inputs[:, 1:], chunk.targets[:, :-1]) and chunk.targets.shape == (4, 20)
    assert 0.1 < read_chunk(source, 0, 200).corrupted.float().mean() < 0.3
    assert language_source(NOISE, 20, 0, False).language() == source.language()
    assert language_source(NOISE, 20, 1, False).language() != source.language()


@pytest.mark.parametrize("redrawn", [False, True])
def test_elements(redrawn):
    source = language_source(NOISE, 40, 0, redrawn)
    clean, books = source.clean(0, 20), source.dictionaries(0, 20)
    ids, again = elements_of(source, clean, books)
    for b in range(20):
        elements, met, at = books.elements(b), set(), 0
        while at < 41:
            k = ids[b, at]
            text = [*elements[k].tolist(), source.separator][: 41 - at]
            assert clean[b, at : at + len(text)].tolist() == text and (ids[b, at : at + len(text)] == k).all()
            assert (again[b, at : at + len(text)] == (k in met)).all()
            met.add(k)
            at += len(text)


@pytest.mark.parametrize("known", [True, False])
def test_posteriors_are_calibrated(known):
    """Among tokens of about the same posterior, that share is wrong; and nothing else tells more."""
    source = language_source(NOISE, 40, 0, True)
    noisy, clean, books = source.tokens(0, 400), source.clean(0, 400), source.dictionaries(0, 400)
    wrong = (noisy != clean)[:, 1:]
    ids, _ = elements_of(source, clean, books)
    if known:
        posterior, floor = known_dictionary(source, noisy, clean, books)
        assert 0 < floor < math.log(3)
    else:
        posterior = growing_dictionary(source, noisy, clean, ids)
        assert auc(posterior, wrong) < auc(known_dictionary(source, noisy, clean, books)[0], wrong)
    assert posterior.min() > -1e-9 and posterior.max() < 1 + 1e-9
    assert (posterior[noisy[:, 1:] == MASK] > 1 - 1e-9).all()
    for low in np.arange(0, 1, 0.25):
        part = (posterior >= low) & (posterior < low + 0.25 + 1e-9)
        error = math.sqrt(0.25 / part.sum())
        assert abs(posterior[part].mean() - wrong[part].mean()) < 4 * error


def test_seen_elements():
    source = language_source(NOISE, 40, 0, False)
    assert not Judge(source, 10, 0).seen.any() and Judge(source, 10, 50).seen.all()
    assert 0 < Judge(language_source(NOISE, 40, 0, True), 10, 50).seen.mean() < 1


def test_validation_choice():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 9, (30, 6), generator=generator)

    def represent(ids):
        return torch.nn.functional.one_hot(ids, 9).float()

    assert ValidationChoice("next", inputs, 0).pick(inputs[:2], represent) is None
    picked = ValidationChoice("random", inputs, 0).pick(inputs[:20], represent)
    assert torch.equal(picked, ValidationChoice("random", inputs, 0).pick(inputs[:20], represent))
    assert len(picked.unique()) > 5
    # A chunk with the same symbols in another order is found.
    found = ValidationChoice("similar", inputs, 0).pick(inputs[3:9].flip(1), represent)
    assert found.tolist() == [3, 4, 5, 6, 7, 8]
    with pytest.raises(ConfigError, match="use one of next, random, similar"):
        ValidationChoice("nearest", inputs, 0)


def test_features_and_weights():
    logits = torch.tensor([[[0.0, 0.0, math.log(2.0)], [0.0, 0.0, 0.0]]])
    features = token_features(View(logits, None, torch.tensor([[2, 0]])))[0]
    assert features[0].tolist() == pytest.approx([math.log(2) / 3, 1.5 * math.log(2) / 2, -math.log(2) / 2, 0])
    assert features[1, 3] == 1
    weights = WeightNet().weights(View(logits, None, torch.tensor([[2, 0]])))
    assert weights.flatten().tolist() == pytest.approx([0.5 + 0.5**1.5] * 2)


def test_variants_and_figures(results):
    config, found, lines = results
    assert set(found) == set(learned_loss.variants(config)) and len(found) == 11
    assert all(0 < step <= total for step, total, _ in lines) and len(lines) > 40
    uniform, learned = found["uniform-seed0"], found["weights-next-seed0"]
    assert set(uniform["rates"]) == {"0.5", "1.0"}
    assert [line["step"] for line in learned["curve"]] == [3, 6, 9, 12]
    # All variants are the same until the loss begins to matter.
    assert uniform["curve"][:2] == learned["curve"][:2] == found["oracle-seed0"]["curve"][:2]
    assert 0 <= learned["auc"] <= 1 and 0.5 < learned["ceiling"] <= 1
    assert sum(map(sum, learned["histogram"].values())) == 8 * 12
    assert 0 < found["weights-similar-seed0"]["alike"] <= 1 and learned["alike"] is None
    assert found["redrawn-seed0"]["ceiling_learning"] < found["redrawn-seed0"]["ceiling"]
    assert max(found["hypergradient"]["errors"].values()) < 1e-3


def test_arm_is_reproducible(results):
    config, found, _ = results
    again = learned_loss.run_variant(config, "gist-next-seed0", lambda step, total, **values: None)
    assert again == found["gist-next-seed0"]


def test_summary_and_pictures(results):
    config, found, _ = results
    summary = learned_loss.summarize(config, found)
    assert summary["auc"] == found["weights-next-seed0"]["auc"]
    assert summary["uniform_val_loss"] == found["uniform-seed0"]["val_loss"]
    assert summary["by_seed"]["val_loss"] == [summary["val_loss"]]
    assert set(summary["validation"]) == {"next", "random", "similar"}
    assert len(summary["table"]) == 10
    assert [picture.title for picture in learned_loss.pictures(config, found)] == [
        "Self-loss and true loss",
        "Learned weights",
    ]


def test_some_variants_alone(results):
    config, found, _ = results
    part = {"weights-random-seed0": found["weights-random-seed0"]}
    summary = learned_loss.summarize(config, part)
    assert summary["auc"] is None and summary["validation"]["random"]["auc"] is not None
    assert len(learned_loss.pictures(config, part)) == 2
    assert learned_loss.pictures(config, {"hypergradient": found["hypergradient"]}) == []


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"e": 0.0}, "e=0.0 must be above 0"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"seeds": [1, 1]}, "each once"),
        ({"fixed_rates": []}, "at least one learning rate"),
        ({"lookahead": 0.0}, "lookahead=0.0 must be above 0"),
        ({"hidden_size": 10, "heads": 4}, "multiple of heads=4"),
    ],
)
def test_bad_settings(settings, told):
    with pytest.raises(ConfigError) as error:
        learned_loss.Config(**settings)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_unknown_variant():
    with pytest.raises(ConfigError, match="variant='gist-seed0' is not known"):
        learned_loss.run_variant(learned_loss.Config(**TINY), "gist-seed0", lambda step, total, **values: None)


def test_shipped_configuration(request):
    settings = yaml.safe_load((request.config.rootpath / "configs/selflearning/learned_loss.yaml").read_text())
    assert settings.pop("experiment") == "learned_loss"
    assert learned_loss.Config(**settings).seeds == [0, 1, 2]
