"""Warm-up: the format and the world's dynamics are learned from random play, and no strategy."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from tiny import make_model, play, specs, terse, trial_maker, word_parts

from metarlgym.models.scratch import ScratchArguments
from metarlgym.rollout.transcript import Transcript
from metarlgym.training.warmup import LateOutcomes, random_play, warm_up

DOORS = terse("Doors-v0")


def warmed(folder, group, parts, episodes=3, seed=0, **settings):
    """(model, result) of a warm-up."""
    model, tokenizer, renderer = parts
    args = ScratchArguments(**settings)
    return warm_up(model, tokenizer, group, trial_maker(group, episodes), renderer, args, seed, str(folder))


# ---------------------------------------------------------------------- random play


def test_random_play_has_the_form_of_rollouts():
    model, _, renderer = word_parts(DOORS)
    rows = random_play(DOORS, trial_maker(DOORS), renderer, 20, 0)
    (trajectory,), _ = play(model, renderer, specs(DOORS, trial_maker(DOORS), 1))
    assert len(rows) == 20
    assert {row.prompt_len for row in rows} == {trajectory.rows[0].prompt_len}
    assert rows[0].action_mask == trajectory.rows[0].action_mask
    assert [r.ids for r in random_play(DOORS, trial_maker(DOORS), renderer, 20, 0)] == [r.ids for r in rows]
    assert [r.ids for r in random_play(DOORS, trial_maker(DOORS), renderer, 20, 1)] != [r.ids for r in rows]


def test_late_outcomes_by_hand():
    # Two rows of 4 episodes: actions 5 or 6, outcomes 7 or 8. The last third of 0..3 begins at episode 2.
    rows = []
    for outcome in (7, 8):
        row = Transcript.open([1])
        for n in range(4):
            row.add_action([5], [0.0], n, 0)
            row.add_environment([outcome], n, 0)
        row.add_environment([2], 3, 0)  # the end token that closes a row is no outcome
        rows.append(row)
    late = LateOutcomes.of(rows)
    assert late.mask.nonzero().tolist() == [[i, position] for i in (0, 1) for position in (6, 8)]
    assert late.memoryless == pytest.approx(math.log(2))  # after a 5 comes 7 or 8, as often


def test_the_late_loss_is_the_cross_entropy_of_those_tokens():
    model, _, renderer = word_parts(DOORS)
    rows = random_play(DOORS, trial_maker(DOORS, 6), renderer, 8, 0)
    late = LateOutcomes.of(rows)
    total = count = 0
    for i, row in enumerate(rows):
        with torch.no_grad():
            logprobs = torch.log_softmax(model(input_ids=torch.tensor([row.ids])).logits[0], -1)
        for position in late.mask[i].nonzero()[:, 0].tolist():
            total -= float(logprobs[position - 1, row.ids[position]])
            count += 1
    assert late.loss(model) == pytest.approx(total / count, abs=1e-5)


# ---------------------------------------------------------------------- the warm-up itself


def test_a_few_steps_teach_the_format(tmp_path):
    parts = word_parts(DOORS, width=32)
    before, _ = play(parts[0], parts[2], specs(DOORS, trial_maker(DOORS), 200))
    result = warmed(tmp_path, DOORS, parts, imitation_trials=1500, imitation_max_steps=40, imitation_learning_rate=1e-2)
    after, _ = play(parts[0], parts[2], specs(DOORS, trial_maker(DOORS), 200))
    invalid = [sum(e.invalid for t in played for e in t.episodes) / 600 for played in (before, after)]
    assert invalid[0] > 0.3
    assert invalid[1] < 0.02
    assert result["steps"] == 40
    assert 0 < result["late_loss"] < 3


def test_the_same_seed_warms_up_the_same_model(tmp_path):
    heads = []
    for _ in range(2):
        parts = word_parts(DOORS)
        warmed(tmp_path, DOORS, parts, imitation_trials=600, imitation_max_steps=3)
        heads.append(parts[0].lm_head.weight.detach().clone())
    assert torch.equal(*heads)
    assert not torch.equal(heads[0], make_model(parts[1]).lm_head.weight)


def test_it_reports_while_it_runs_and_stops_at_the_most_steps(tmp_path):
    model, tokenizer, renderer = word_parts(DOORS)
    seen = []
    args = ScratchArguments(imitation_trials=512, imitation_max_steps=100, imitation_batch_size=16)
    arguments = (model, tokenizer, DOORS, trial_maker(DOORS), renderer, args, 0, str(tmp_path))
    warm_up(*arguments, lambda step, loss: seen.append((step, loss)))
    assert [step for step, _ in seen] == [50, 100]
    assert list(tmp_path.iterdir()) == []  # no checkpoints


@pytest.mark.e2e
@pytest.mark.parametrize(("episodes", "random"), [(6, 6 * 1.4 / 5)])
def test_after_the_warm_up_the_policy_plays_as_random_play_does(tmp_path, episodes, random):
    """Uniform over legal actions: the random baseline's score, each door as often, no matter what was seen."""
    parts = word_parts(DOORS, width=32, layers=2)
    result = warmed(tmp_path, DOORS, parts, episodes, imitation_max_steps=800)
    assert result["late_loss"] < result["memoryless_loss"]
    played, _ = play(parts[0], parts[2], specs(DOORS, trial_maker(DOORS, episodes), 4000, seed=5))
    totals = [t.total for t in played]
    error = statistics.stdev(totals) / len(totals) ** 0.5
    assert statistics.fmean(totals) == pytest.approx(random, abs=5 * error + 0.03)
    actions = [turn.action for t in played for e in t.episodes for turn in e.turns]
    for action in ("1", "2", "3", "4", "safe"):
        assert actions.count(action) / len(actions) == pytest.approx(0.2, abs=0.03)
