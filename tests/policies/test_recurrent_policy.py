"""Recurrent networks are played through their state, and learn by GRPO as any other model."""

from __future__ import annotations

import pytest
import torch
from tiny import full_logprobs, make_trainer, play, specs, terse, tokens, trial_maker, word_parts

from metarlgym import LastK
from metarlgym.models.networks import NetworkArguments, make_network
from metarlgym.policies.recurrent_state import StateStore
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.render import PlainRenderer

GUESS = terse("GuessNumber-v0", numbers=9, guesses=3)
CELLS = ("rnn", "lstm", "stack_rnn")


@pytest.fixture(scope="module", params=CELLS)
def parts(request):
    _, tokenizer, renderer = word_parts(GUESS)
    args = NetworkArguments(network=request.param, hidden_size=16, num_layers=2)
    return make_network(args, len(tokenizer), 128), tokenizer, renderer


def check_logprobs(model, played):
    for row in (row for t in played for row in t.rows):
        expected = full_logprobs(model, row.ids)[row.prompt_len - 1 :]
        sampled = torch.tensor(row.action_mask).bool()
        torch.testing.assert_close(torch.tensor(row.logprobs)[sampled], expected[sampled], atol=1e-5, rtol=1e-5)


def test_logprobs_are_those_of_a_plain_pass(parts):
    model, _, renderer = parts
    played, policy = play(model, renderer, specs(GUESS, trial_maker(GUESS, 3), 24), concurrency=7)
    assert not any(t.error for t in played)
    check_logprobs(model, played)
    rows = [row for t in played for row in t.rows]
    needed = sum(len(row.ids) - 1 - (not row.action_mask[-1]) for row in rows)
    assert policy.encoded_tokens <= needed - 6 * rows[0].prompt_len  # the first seven share theirs


def test_logprobs_of_actions_of_several_tokens_and_rebuilt_contexts(parts):
    model, tokenizer, _ = parts
    renderer = PlainRenderer(tokenizer, separator=" ")
    played, _ = play(model, renderer, specs(GUESS, trial_maker(GUESS, 3, memory=LastK(1)), 12), Limits(action_tokens=3))
    assert len({len(row.ids) for t in played for row in t.rows}) > 2
    check_logprobs(model, played)


def test_samples_do_not_depend_on_the_batch(parts):
    model, _, renderer = parts
    trials = specs(GUESS, trial_maker(GUESS, 3), 16)
    one, _ = play(model, renderer, trials, concurrency=1)
    for settings in ({"concurrency": 5}, {}, {"max_batch_tokens": 4}):
        assert tokens(play(model, renderer, trials, **settings)[0]) == tokens(one)


@torch.no_grad()
def test_slots_keep_their_states_apart(parts):
    model = parts[0].eval()
    store = StateStore(model)
    store.reserve(2, 8)
    store.encode([0, 1], [0, 0], [[5, 6, 7], [8]])  # of two lengths
    store.reserve(5, 8)
    store.copy(0, [4], 3)
    found = store.encode([4, 1, 3], [3, 1, 0], [[4, 5], [5], [6, 4]])
    for logits, ids in zip(found, ([5, 6, 7, 4, 5], [8, 5], [6, 4]), strict=True):
        torch.testing.assert_close(logits, model(input_ids=torch.tensor([ids])).logits[0, -1], atol=1e-6, rtol=1e-5)
    again = store.encode([4], [0], [[7, 7]])  # a slot that is used again begins anew
    torch.testing.assert_close(again[0], model(input_ids=torch.tensor([[7, 7]])).logits[0, -1], atol=1e-6, rtol=1e-5)


def test_grpo_scores_what_was_sampled(parts, tmp_path):
    """The trainer's log-probabilities, of rows padded on both sides, are those of sampling."""
    model, tokenizer, renderer = parts
    trainer = make_trainer(tmp_path, GUESS, (model, tokenizer, renderer), episodes=2, memory="last_1")
    gaps, widths = [], set()
    inner = trainer._generate_and_score_completions

    def watched(inputs):
        out = inner(inputs)
        ids, mask = (torch.cat([out[f"prompt_{name}"], out[f"completion_{name}"]], 1) for name in ("ids", "mask"))
        widths.update(out["prompt_mask"].sum(1).tolist())
        with torch.no_grad():
            scored = trainer._get_per_token_logps_and_entropies(
                trainer.model, ids, mask, out["completion_ids"].shape[1]
            )[0]
        for logps, row in zip(scored, trainer._batch.rows, strict=True):
            for logp, sampled, own in zip(logps.tolist(), row.logprobs, row.action_mask):
                gaps.append(abs(logp - sampled) * own)
        return out

    trainer._generate_and_score_completions = watched
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    assert len(widths) > 1  # some prompts were padded
    assert max(gaps) < 1e-5
    assert any(not torch.equal(p, old) for p, old in zip(trainer.model.parameters(), before, strict=True))
