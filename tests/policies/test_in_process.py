"""InProcessPolicy: cached, batched and slotted, yet every token and log-probability is that of a plain forward pass."""

from __future__ import annotations

import pytest
import torch
from tiny import byte_parts, full_logprobs, make_model, play, specs, terse, tokens, trial_maker, word_parts

from metarlgym import ConfigError, StopReason
from metarlgym.policies.in_process import InProcessPolicy
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.manager import RolloutManager
from metarlgym.rollout.render import PlainRenderer

GUESS = terse("GuessNumber-v0", numbers=9, guesses=3)
SHORT = Limits(action_tokens=5)


@pytest.fixture(scope="module")
def words():
    """One token an action, several turns an episode: (model, renderer, trials)."""
    model, _, renderer = word_parts(GUESS, layers=2)
    return model, renderer, specs(GUESS, trial_maker(GUESS, 3), 70)


@pytest.fixture(scope="module")
def letters():
    """Several tokens an action, of different numbers, some cut: (model, renderer, trials)."""
    model, _, renderer = byte_parts(context=256)
    with torch.no_grad():
        model.lm_head.weight[renderer.end_id] *= 4  # so that some actions end by themselves and others are cut
    return model, renderer, specs(GUESS, trial_maker(GUESS, 3), 70)


def rows(trajectories):
    return [row for trajectory in trajectories for row in trajectory.rows]


def check_logprobs(model, played, temperature=1.0):
    for row in rows(played):
        expected = full_logprobs(model, row.ids, temperature)[row.prompt_len - 1 :]
        sampled = torch.tensor(row.action_mask).bool()
        torch.testing.assert_close(torch.tensor(row.logprobs)[sampled], expected[sampled], atol=1e-5, rtol=1e-5)
        assert not any(torch.tensor(row.logprobs)[~sampled])


# ---------------------------------------------------------------------- the numbers


def test_logprobs_of_single_token_actions(words):
    model, renderer, trials = words
    played, _ = play(model, renderer, trials)
    assert len({len(row.ids) for row in rows(played)}) > 1  # ragged: some find the number sooner
    check_logprobs(model, played)


def test_logprobs_of_ragged_multi_token_actions(letters):
    model, renderer, trials = letters
    played, _ = play(model, renderer, trials[:24], SHORT)
    lengths = {len(turn.action) for t in played for e in t.episodes for turn in e.turns}
    assert len(lengths) > 2
    assert 0 < sum(t.truncated_actions for t in played) < sum(t.turns for t in played)
    check_logprobs(model, played)


def test_logprobs_are_those_at_the_temperature(words):
    model, renderer, trials = words
    played, _ = play(model, renderer, trials[:16], temperature=0.5)
    check_logprobs(model, played, temperature=0.5)


def test_logprobs_of_contexts_that_are_rebuilt(words):
    from metarlgym import LastK

    model, renderer, _ = words
    played, _ = play(model, renderer, specs(GUESS, trial_maker(GUESS, 3, memory=LastK(1)), 16))
    assert len(rows(played)) == 48
    check_logprobs(model, played)


def test_in_small_batches_the_numbers_are_the_same(letters):
    model, renderer, trials = letters
    played, _ = play(model, renderer, trials[:24], SHORT, max_batch_tokens=8)
    check_logprobs(model, played)


def test_logprobs_of_a_model_with_lora(words):
    from peft import LoraConfig, get_peft_model

    _, renderer, trials = words
    model = make_model(renderer.tokenizer, 16, 2)
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    played, _ = play(model, renderer, trials[:16])
    check_logprobs(model, played)
    with model.disable_adapter():
        row = played[0].rows[0]
        plain = full_logprobs(model, row.ids)[row.prompt_len - 1 :]
    sampled = torch.tensor(row.action_mask).bool()
    assert not torch.allclose(torch.tensor(row.logprobs)[sampled], plain[sampled], atol=1e-3)


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_logprobs_with_grouped_heads_and_tied_embeddings(words, kv_heads):
    from transformers import LlamaConfig, LlamaForCausalLM

    _, renderer, trials = words
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(renderer.tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config)
    played, _ = play(model, renderer, trials[:16])
    check_logprobs(model, played)


# ---------------------------------------------------------------------- what is sampled


@pytest.mark.parametrize("parts", ["words", "letters"])
def test_samples_do_not_depend_on_the_batch(parts, request):
    model, renderer, trials = request.getfixturevalue(parts)
    trials = trials[:24]
    one, _ = play(model, renderer, trials, SHORT, concurrency=1)
    for concurrency in (7, 64):
        many, _ = play(model, renderer, trials, SHORT, concurrency=concurrency)
        assert tokens(many) == tokens(one)
    cut, _ = play(model, renderer, trials, SHORT, concurrency=64, max_batch_tokens=16)
    assert tokens(cut) == tokens(one)


def test_seeds_of_the_policy_name_the_samples(words):
    model, renderer, _ = words
    same = [specs(GUESS, trial_maker(GUESS, 3), 8, seed=0) for _ in range(2)]
    other = specs(GUESS, trial_maker(GUESS, 3), 8, seed=1)
    first, second, third = (tokens(play(model, renderer, trials)[0]) for trials in (*same, other))
    assert first == second != third


def test_foreign_random_numbers_change_nothing(words):
    model, renderer, trials = words
    torch.manual_seed(1)
    first, _ = play(model, renderer, trials[:8])
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second, _ = play(model, renderer, trials[:8])
    assert tokens(first) == tokens(second)
    assert torch.equal(torch.get_rng_state(), state)


def test_greedy_is_generates_greedy(letters):
    model, renderer, trials = letters
    played, _ = play(model, renderer, trials[:4], SHORT, greedy=True)
    for row in rows(played):
        runs = [i for i, m in enumerate(row.action_mask) if m and (i == 0 or not row.action_mask[i - 1])]
        for start in runs:
            place = row.prompt_len + start
            out = model.eval().generate(
                torch.tensor([row.ids[:place]]),
                max_new_tokens=5,
                do_sample=False,
                eos_token_id=renderer.end_id,
                pad_token_id=renderer.tokenizer.pad_token_id,
            )[0, place:]
            action = [t for t, m in zip(row.ids[place : place + 5], row.action_mask[start : start + 5]) if m]
            assert action == out.tolist()[: len(action)]
            assert len(action) == len(out)


def test_greedy_logprobs_are_those_of_sampling(words):
    model, renderer, trials = words
    played, _ = play(model, renderer, trials[:4], greedy=True, temperature=0.7)
    check_logprobs(model, played, temperature=0.7)


# ---------------------------------------------------------------------- what it costs


def test_no_token_is_encoded_twice(words):
    model, renderer, trials = words
    played, policy = play(model, renderer, trials, concurrency=7)
    # All but the last action of a row (nothing is sampled after it) and the end token that closes the row.
    needed = sum(len(row.ids) - 1 - (not row.action_mask[-1]) for row in rows(played))
    # The first seven trials begin together, and their prompts are the same.
    assert policy.encoded_tokens == needed - 6 * played[0].rows[0].prompt_len


def test_a_prompt_that_trials_share_is_encoded_once(words):
    model, renderer, trials = words
    _, policy = play(model, renderer, [trials[0]], Limits(trial_turns=1))
    alone = policy.encoded_tokens
    _, policy = play(model, renderer, trials, Limits(trial_turns=1))
    assert policy.encoded_tokens == alone


def test_slots_of_ended_trials_are_used_again(words):
    model, renderer, trials = words
    policy = InProcessPolicy(model, renderer)
    slots = []
    inner = policy._encode
    policy._encode = lambda group: slots.append(policy._store.cache.slots) or inner(group)
    RolloutManager(policy, renderer, concurrency=4).run(trials)
    assert max(slots) <= 8


def test_nothing_is_kept_after_a_rollout(words):
    model, renderer, trials = words
    _, policy = play(model, renderer, trials[:8])
    assert not policy._contexts and not policy._pending and not policy._store.cache._keys


def test_a_policy_can_play_again_with_new_weights(words):
    model, renderer, trials = words
    policy = InProcessPolicy(model, renderer)
    manager = RolloutManager(policy, renderer)
    first = manager.run(trials[:8])
    assert tokens(manager.run(trials[:8])) == tokens(first)
    before = model.lm_head.weight.detach().clone()
    try:
        with torch.no_grad():
            model.lm_head.weight.neg_()
        again = manager.run(trials[:8])
        check_logprobs(model, again)
    finally:
        with torch.no_grad():
            model.lm_head.weight.copy_(before)
    assert tokens(again) != tokens(first)


# ---------------------------------------------------------------------- endings


def test_an_action_ends_with_the_end_token_or_is_cut(letters):
    model, renderer, trials = letters
    played, _ = play(model, renderer, trials[:16], SHORT)
    for trajectory in played:
        row = trajectory.rows[0]
        cut = 0
        run = []
        for token, mine in zip([*row.completion_ids, None], [*row.action_mask, 0]):
            if mine:
                run.append(token)
                continue
            if run:
                assert renderer.end_id not in run[:-1]
                assert len(run) <= 5
                cut += run[-1] != renderer.end_id
            run = []
        assert cut == trajectory.truncated_actions


def test_a_context_limit_bounds_the_model(letters):
    model, renderer, trials = letters
    played, _ = play(model, renderer, trials[:16], Limits(action_tokens=5, context_tokens=20))
    assert max(len(row.ids) for row in rows(played)) <= 20
    assert any(t.stop is StopReason.CONTEXT_LIMIT for t in played)
    check_logprobs(model, played)


def test_trials_that_run_out_of_time_while_they_wait_leave_the_others_right(words):
    model, renderer, _ = words

    class Interrupted(InProcessPolicy):
        ticks = 0

        def _tick(self):
            self.ticks += 1
            if self.ticks == 2:  # half of those who wait for their second action are out of time
                for pending in list(self._pending)[::2]:
                    pending.done.expire()
            super()._tick()

    trials = specs(GUESS, trial_maker(GUESS, 1), 24)
    played = RolloutManager(Interrupted(model, renderer), renderer, concurrency=8).run(trials)
    reference, _ = play(model, renderer, trials)
    ended = [i for i, t in enumerate(played) if t.stop is StopReason.TIME_LIMIT]
    assert len(ended) == 4  # the next trials take over their slots
    check_logprobs(model, played)
    assert [tokens([t]) for i, t in enumerate(played) if i not in ended] == [
        tokens([t]) for i, t in enumerate(reference) if i not in ended
    ]


# ---------------------------------------------------------------------- manners


@pytest.mark.parametrize("training", [True, False])
def test_train_mode_and_grad_mode_are_restored(words, training):
    model, renderer, trials = words
    model.train(training)
    play(model, renderer, trials[:2])
    assert model.training is training
    assert torch.is_grad_enabled()


def test_modes_are_restored_after_a_failure(words):
    model, renderer, _ = words

    def broken():
        raise TypeError

    model.train()
    with pytest.raises(TypeError):
        play(model, renderer, specs(GUESS, broken, 1))
    assert model.training
    assert torch.is_grad_enabled()


def test_dropout_is_off_while_it_acts(words):
    _, renderer, trials = words
    model = make_model(renderer.tokenizer, 16, 1)
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    played, _ = play(model, renderer, trials[:8])
    check_logprobs(model, played)


@pytest.mark.parametrize("temperature", [0, -1.0])
def test_temperature_must_be_positive(words, temperature):
    with pytest.raises(ConfigError, match="must be above 0; for the most likely token use greedy"):
        InProcessPolicy(words[0], words[1], temperature)


def test_logits_that_are_not_finite_are_told(words):
    _, renderer, trials = words
    model = make_model(renderer.tokenizer, 16, 1)
    with torch.no_grad():
        model.lm_head.weight[3, 0] = float("nan")
    played, _ = play(model, renderer, trials[:4])
    assert all(t.stop is StopReason.ERROR for t in played)
    assert "logits are not finite" in played[0].error
    assert "learning_rate" in played[0].error


def test_a_byte_renderer_reads_what_it_wrote(letters):
    model, renderer, trials = letters
    assert isinstance(renderer, PlainRenderer)
    played, _ = play(model, renderer, trials[:8], SHORT)
    for trajectory in played:
        text = renderer.tokenizer.decode(trajectory.rows[0].ids)
        assert text.startswith("<bos>guess\n")
