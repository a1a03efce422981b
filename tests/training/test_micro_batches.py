"""Micro-batches bounded by tokens: how rows are dealt, and that the gradient stays what it was."""

from __future__ import annotations

import random

import pytest
import torch
from tiny import logged, make_config, make_trainer, terse, word_parts
from trl import GRPOTrainer
from uneven_rows import feed, uneven_batch

from metarlgym import ConfigError, MetaRLGymError
from metarlgym.models.loading import load_model
from metarlgym.settings.ranges import CHOICES
from metarlgym.training.micro_batch_trainer import MicroBatchTrainer
from metarlgym.training.micro_batches import MEAN_OVER, Lengths, MergedMetrics, cut, filler, join, partition, weigh

DOORS = terse("Doors-v0")
GUESS = terse("GuessNumber-v0", numbers=9, guesses=4)
PARTS = {}
SGD = {"optim": "sgd", "learning_rate": 0.3, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
LIMIT = 120


@pytest.fixture(scope="module", autouse=True)
def saved(tmp_path_factory):
    """Models in folders, from which TRL loads the reference."""
    for group in (DOORS, GUESS):
        model, tokenizer, renderer = word_parts(group)
        folder = tmp_path_factory.mktemp("model")
        model.save_pretrained(folder)
        PARTS[group.env_id] = lambda folder=folder, rest=(tokenizer, renderer): (load_model(str(folder)), *rest)


# ---------------------------------------------------------------------- dealing rows


def drawn(seed, rows=64):
    rng = random.Random(seed)
    return Lengths(
        [rng.randint(1, 20) for _ in range(rows)], [int(min(300, rng.lognormvariate(4, 0.8))) + 1 for _ in range(rows)]
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("limit", [1, 300, 2000])
def test_each_row_is_in_one_micro_batch_within_the_limit(seed, limit):
    lengths = drawn(seed)
    parts = partition(lengths, limit)
    assert sorted(row for part in parts for row in part) == list(range(64))
    assert all(len(part) == 1 or lengths.padded(part) <= limit for part in parts)
    sizes = [lengths.tokens([row]) for part in parts for row in part]
    assert sizes == sorted(sizes, reverse=True)


def test_no_other_cut_of_the_sorted_rows_has_fewer_micro_batches():
    for seed in range(20):
        lengths, limit = drawn(seed, rows=9), 400
        order = [row for part in partition(lengths, limit) for row in part]
        fewest = len(order)
        for cuts in range(2 ** (len(order) - 1)):
            parts = [[order[0]]]
            for i, row in enumerate(order[1:]):
                parts = [*parts, [row]] if cuts >> i & 1 else [*parts[:-1], [*parts[-1], row]]
            if all(len(part) == 1 or lengths.padded(part) <= limit for part in parts):
                fewest = min(fewest, len(parts))
        assert len(partition(lengths, limit)) == fewest


def test_sorted_rows_hold_little_padding():
    lengths = Lengths([1] * 64, [int(min(2000, max(50, random.Random(i).lognormvariate(6, 0.8)))) for i in range(64)])
    parts = partition(lengths, 2000)
    assert sum(map(lengths.tokens, parts)) >= 0.9 * sum(map(lengths.padded, parts))


def test_a_cut_takes_padding_alone():
    whole = uneven_batch(8, 20, seed=0)
    del whole["noise"]
    whole["num_items_in_batch"] = torch.tensor(7)
    whole["importance_sampling_ratio"] = torch.rand(8, 1)  # of sequence modes
    lengths = Lengths.of(whole["prompt_mask"], whole["completion_mask"])
    rows = [5, 2]
    part = cut(whole, rows, lengths.width(rows))
    p, c = max(lengths.prompts[i] for i in rows), max(lengths.completions[i] for i in rows)
    assert part["prompt_ids"].shape == (2, p) and part["advantages"].shape == part["tool_mask"].shape == (2, c)
    for name, side in (("prompt", slice(-p, None)), ("completion", slice(c))):
        assert torch.equal(part[f"{name}_ids"], whole[f"{name}_ids"][rows][:, side])
        assert part[f"{name}_mask"].sum() == whole[f"{name}_mask"][rows].sum()
    assert torch.equal(part["importance_sampling_ratio"], whole["importance_sampling_ratio"][rows])
    assert int(part["num_items_in_batch"]) == 7
    assert filler(whole)["completion_ids"].shape == (1, 1) and not filler(whole)["tool_mask"].any()


def test_tensors_that_are_not_known_are_refused():
    batch = uneven_batch(2, 20, seed=0)
    with pytest.raises(MetaRLGymError, match="TRL trains on 'noise', which micro_batch_tokens cannot divide"):
        join([batch])


def test_each_loss_type_has_its_weights():
    assert set(MEAN_OVER) == set(CHOICES["loss_type"])
    assert not weigh("dapo", 3, 0, 8, 20, 1, 1).learns


def test_metrics_are_merged_by_weight():
    metrics = {"entropy": [9.0], "clip_ratio/low_min": [], "policy_loss": []}
    merged = MergedMetrics(metrics, {"policy_loss": 2})
    nan = float("nan")
    for weight, entropy, least, loss in ((10, 1.0, 0.5, 0.25), (30, 2.0, 0.1, 0.5), (0, nan, nan, 0.0)):
        with merged.weighing(weight):
            for name, value in zip(metrics, (entropy, least, loss), strict=True):
                metrics[name].append(value)
    merged.close()
    assert metrics == {"entropy": [9.0, 1.75], "clip_ratio/low_min": [0.1], "policy_loss": [0.375]}


# ---------------------------------------------------------------------- the gradient


def weights(trainer):
    return torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])


def trained(folder, limit, fed=True, **settings):
    """A trainer after its steps, whose `passes` are the shapes of all forward passes of the loss."""
    given = {**SGD, "max_steps": 1, "micro_batch_tokens": limit, **settings}
    trainer = make_trainer(folder, DOORS, PARTS["Doors-v0"](), **given)
    trainer.before = weights(trainer)
    if fed:
        trainer.fed = feed(trainer)
    trainer.passes = []
    trainer.model.register_forward_pre_hook(
        lambda module, args, kwargs: (
            trainer.passes.append(tuple(kwargs["input_ids"].shape)) if torch.is_grad_enabled() else None
        ),
        with_kwargs=True,
    )
    trainer.train()
    return trainer


def both(folder, limit=LIMIT, **settings):
    """Trained without and with micro-batches bounded by tokens: the same weights."""
    before = trained(folder / "before", None, **settings)
    after = trained(folder / "after", limit, **settings)
    assert (weights(before) - before.before).abs().max() > 1e-3
    assert len(after.passes) > 2
    assert all(rows == 1 or rows * width <= limit for rows, width in after.passes)
    assert sum(rows * width for rows, width in after.passes) < sum(rows * width for rows, width in before.passes)
    torch.testing.assert_close(weights(after), weights(before), rtol=0, atol=1e-6 * settings.get("max_steps", 1) ** 2)
    return before, after


ACCUMULATED = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}


@pytest.mark.parametrize(
    ("loss_type", "level"),
    [*((name, "token") for name in sorted(set(MEAN_OVER) - {"bnpo"})), ("grpo", "sequence"), ("dapo", "sequence")],
)
def test_the_gradient_of_every_loss(tmp_path, loss_type, level):
    settings = {"loss_type": loss_type, "importance_sampling_level": level, "beta": 0.1, "max_completion_length": 32}
    both(tmp_path, **settings, **ACCUMULATED)


ALL_AT_ONCE = {"per_device_train_batch_size": 16}


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": "bnpo"},
        {"loss_type": "dapo", "entropy_coef": 0.3},
        {"loss_type": "grpo", "entropy_coef": 0.3, "beta": 0.1},
        {"loss_type": "grpo", "off_policy_mask_threshold": 0.01, "delta": 1.5},
        {"loss_type": "dapo", "entropy_coef": 0.3, "use_adaptive_entropy": True, "entropy_target": 0.1, "max_steps": 3},
    ],
    ids=str,
)
def test_means_over_tokens_become_those_of_one_micro_batch(tmp_path, settings):
    before, after = both(tmp_path, **ALL_AT_ONCE, **settings)
    names = {"entropy", "kl", "policy_loss", "entropy_coef"} | {
        f"clip_ratio/{name}" for name in ("low_mean", "high_mean", "region_mean", "low_min", "high_max")
    }
    for name in names:
        assert logged(after, name) == pytest.approx(logged(before, name), rel=1e-4, abs=1e-6), name
    assert all(loss == pytest.approx(was, abs=1e-4) for loss, was in zip(logged(after, "loss"), logged(before, "loss")))
    assert ("kl" in after.state.log_history[0]) == bool(settings.get("beta"))


@pytest.mark.parametrize(
    "settings",
    [
        {"steps_per_generation": 4, "gradient_accumulation_steps": 2, "max_steps": 4},
        {"steps_per_generation": 4, "gradient_accumulation_steps": 2, "max_steps": 4, "loss_type": "dapo"},
        {"steps_per_generation": 2, "gradient_accumulation_steps": 4, "max_steps": 2},
        {"steps_per_generation": 3, "gradient_accumulation_steps": 2, "max_steps": 3},
        {"steps_per_generation": 4, "gradient_accumulation_steps": 2, "num_iterations": 2, "max_steps": 6},
        {"steps_per_generation": 1, "gradient_accumulation_steps": 2, "num_iterations": 2, "max_steps": 2},
    ],
    ids=str,
)
def test_rows_stay_in_their_optimizer_step(tmp_path, settings):
    """The same weights after several steps, so no row has moved to another step or been trained on twice."""
    before, after = both(tmp_path, 60, **{"loss_type": "grpo", "per_device_train_batch_size": 4, **settings})
    assert len(before.fed) == len(after.fed) > 1 or "num_iterations" in settings
    assert before._step == after._step
    assert len(logged(after, "step_time")) == settings["max_steps"]


def test_few_short_rows_share_one_pass(tmp_path):
    """Also where that leaves fewer passes than micro-batches of TRL's."""
    before = trained(tmp_path / "before", None, per_device_train_batch_size=4, gradient_accumulation_steps=4)
    after = trained(tmp_path / "after", 10_000, per_device_train_batch_size=4, gradient_accumulation_steps=4)
    assert len(before.passes) == 4 and len(after.passes) == 1
    torch.testing.assert_close(weights(after), weights(before), rtol=0, atol=1e-6)


# ---------------------------------------------------------------------- whole runs


@pytest.mark.parametrize(
    "settings",
    [
        {"exploration_coef": "0.3", "max_steps": 2},
        {"beta": 0.1, "num_iterations": 2, "max_steps": 4},
        {"memory": "none", "rollouts_ahead": 1, "max_steps": 2},
        {"skip_zero_signal": True, "loss_type": "grpo", "max_steps": 2},
        {"rollouts_ahead": 1, "vllm_importance_sampling_mode": "sequence_mask", "max_steps": 2},
    ],
    ids=str,
)
def test_rollouts_are_trained_on_as_before(tmp_path, settings):
    """With rows of the trainer's own: branching points, scores of older and reference models, importance weights."""
    found = []
    for name, limit in (("before", None), ("after", 100)):
        given = {"per_device_train_batch_size": 12, "gradient_accumulation_steps": 2, **SGD, **settings}
        given |= {"micro_batch_tokens": limit, "share_prefixes": False}
        trainer = make_trainer(tmp_path / name, GUESS, PARTS["GuessNumber-v0"](), **given)
        trials = []
        trainer.on_trials = lambda step, played, trials=trials: trials.extend(t.rows[0].ids for t in played)
        trainer.train()
        found.append((trainer, trials))
    (before, trials), (after, others) = found
    assert others == trials
    torch.testing.assert_close(weights(after), weights(before), rtol=0, atol=2e-6)
    was, now = (sum(logged(trainer, "padding_share")) for trainer in (before, after))
    assert 0 < now < was
    if "exploration_coef" in settings:
        assert logged(after, "legal_entropy") == pytest.approx(logged(before, "legal_entropy"), rel=0.1)


def test_padding_is_logged_without_the_setting_too(tmp_path):
    trainer = make_trainer(tmp_path, GUESS, PARTS["GuessNumber-v0"](), max_steps=1, share_prefixes=False)
    outputs = []
    inner = trainer._log_padding
    trainer._log_padding = lambda out: outputs.append(out) or inner(out)
    trainer.train()
    (out,) = outputs
    mask = torch.cat([out["prompt_mask"], out["completion_mask"]], 1).float()
    assert logged(trainer, "padding_share") == [pytest.approx(1 - float(mask.mean()), abs=1e-6)]


def test_scores_of_a_rollout_are_bounded_too(tmp_path):
    trainer = make_trainer(tmp_path, DOORS, PARTS["Doors-v0"](), micro_batch_tokens=LIMIT)
    batch = uneven_batch(16, trainer.model.config.vocab_size, seed=3)
    ids, mask = (torch.cat([batch[f"prompt_{kind}"], batch[f"completion_{kind}"]], 1) for kind in ("ids", "mask"))
    width, shapes = batch["completion_ids"].shape[1], []
    trainer.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    with torch.no_grad():
        found, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, width, batch_size=16)
        assert len(shapes) > 1 and all(rows * width <= LIMIT for rows, width in shapes)
        whole, _, _ = GRPOTrainer._get_per_token_logps_and_entropies(trainer, trainer.model, ids, mask, width)
    assert found.shape == whole.shape
    real = batch["completion_mask"].bool()
    torch.testing.assert_close(found[real], whole[real], rtol=0, atol=1e-5)
    assert not found[~real].any()


def test_by_default_nothing_changes(tmp_path, monkeypatch):
    with_hooks = trained(tmp_path / "a", None, fed=False, max_steps=2, learning_rate=0.1)
    for name in ("training_step", "_prepare_inputs", "_compute_loss", "_get_per_token_logps_and_entropies"):
        monkeypatch.delattr(MicroBatchTrainer, name)
    without = trained(tmp_path / "b", None, fed=False, max_steps=2, learning_rate=0.1)
    assert with_hooks.passes == without.passes
    assert torch.equal(weights(with_hooks), weights(without))
    assert not torch.equal(weights(without), without.before)


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "settings, problem",
    [
        ({"micro_batch_tokens": 0}, "micro_batch_tokens=0 must be at least 1"),
        ({"micro_batch_tokens": 100, "top_entropy_quantile": 0.2}, "top_entropy_quantile=0.2 with micro_batch_tokens"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused(tmp_path, settings, problem):
    with pytest.raises(ConfigError, match=problem):
        make_config(tmp_path, **settings)
