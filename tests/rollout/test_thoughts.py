"""Rollouts of a model that thinks in a toy grammar: limits, forced closes, what the environment and the policy see."""

from __future__ import annotations

import pytest
import torch

from metarlgym import ConfigError, LastK, StopReason, Trial
from metarlgym.parsing import spoken
from metarlgym.policies.in_process import InProcessPolicy
from metarlgym.policies.scripted import RandomTokenPolicy
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.manager import RolloutManager
from tests.thinkers import DOORS, GUESS, ThinkingRenderer, thinking_model, thinking_tokenizer
from tests.tiny import full_logprobs, play, specs, tokens, trial_maker

TOKENIZER = thinking_tokenizer()
MODEL = thinking_model(TOKENIZER)
START, CLOSE, SO = TOKENIZER.convert_tokens_to_ids(["<think>", "</think>", "so"])
RENDERERS = {opened: ThinkingRenderer(TOKENIZER, opened) for opened in (False, True)}
both = pytest.mark.parametrize("opened", [False, True], ids=["sampled", "opened"])


def rollout(opened=False, trials=24, thoughts=4, action=3, group=GUESS, keep="all", memory=None, **limits):
    make = trial_maker(group, 3, memory=memory, keep_thoughts=keep)
    settings = {key: value for key, value in limits.items() if key in ("concurrency", "max_batch_tokens", "greedy")}
    limits = Limits(action, thoughts, **{key: value for key, value in limits.items() if key not in settings})
    return play(MODEL, RENDERERS[opened], specs(group, make, trials), limits, **settings)


def replies(row):
    """The replies of a row, as (tokens, mask)."""
    found = {}
    for token, mask, *place in zip(row.completion_ids, row.action_mask, row.episode, row.turn, strict=True):
        ids, masks = found.setdefault(tuple(place), ([], []))
        ids.append(token)
        masks.append(mask)
    if row.ids[row.prompt_len - 1] == START:  # opened by the prompt
        ids, masks = next(iter(found.values()))
        ids.insert(0, START)
        masks.insert(0, 0)
    # What the environment said at a turn stands before its reply.
    for ids, masks in found.values():
        last = max((i for i, m in enumerate(masks) if m), default=-1)
        yield ids[: last + 1], masks[: last + 1]


def thought_of(ids, opened):
    """The sampled tokens of a reply's thought, and whether it was closed by force; None without one."""
    if START not in ids:
        return None
    ids = ids[ids.index(START) + opened :]
    end = ids.index(CLOSE) if CLOSE in ids else len(ids)
    forced = end > 0 and ids[end - 1] == SO
    return ids[: end - 1] if forced else ids[: end + 1], forced


# ---------------------------------------------------------------------- limits


@both
@pytest.mark.parametrize("thoughts", [0, 1, 4])
def test_no_thought_is_longer_than_its_limit(opened, thoughts):
    played, _ = rollout(opened, thoughts=thoughts)
    found = [thought_of(ids, opened) for t in played for row in t.rows for ids, _ in replies(row)]
    seen = [thought for thought in found if thought is not None]
    assert sum(t.thoughts for t in played) == len(seen) > 30
    assert max(len(ids) for ids, _ in seen) == max(thoughts, 0 if opened else 1)
    assert all(forced for ids, forced in seen if ids[-1:] != [CLOSE])
    assert sum(t.cut_thoughts for t in played) == (sum(forced for _, forced in seen) if thoughts else 0)
    assert sum(t.thought_tokens for t in played) == sum(len(ids) for ids, _ in seen)
    if not opened:
        assert None in found  # a reply without a thought


@both
def test_the_action_after_a_thought_has_its_own_limit(opened):
    played, _ = rollout(opened, thoughts=100, action=1)
    turns = [turn for t in played for e in t.episodes for turn in e.turns]
    assert any(len(turn.action.split()) > 8 for turn in turns)
    assert all(len(spoken(turn.action).split()) == 1 for turn in turns)
    assert sum(t.truncated_actions for t in played) == len(turns)  # no room for an end token
    assert not any(t.cut_thoughts for t in played)


@both
def test_an_action_follows_every_thought_that_was_closed(opened):
    played, _ = rollout(opened, thoughts=2)
    assert sum(t.cut_thoughts for t in played) > 30
    turns = [turn for t in played for e in t.episodes for turn in e.turns]
    assert all(spoken(turn.action).split()[0] in ("1", "2", "3") for turn in turns)


@both
def test_forced_tokens_are_no_action(opened):
    played, _ = rollout(opened, thoughts=2)
    forced = 0
    for row in (row for t in played for row in t.rows):
        ids = row.completion_ids
        for i, token in enumerate(ids):
            if token == SO:  # never sampled
                assert ids[i : i + 2] == [SO, CLOSE] and row.action_mask[i : i + 2] == [0, 0]
                assert row.logprobs[i : i + 2] == [0.0, 0.0] and row.action_mask[i + 2] == 1
                forced += 1
    assert forced == sum(t.cut_thoughts for t in played)


@both
@pytest.mark.parametrize("thoughts", [0, 2, 30])
def test_log_probabilities_are_those_of_a_plain_forward_pass(opened, thoughts):
    """Forced tokens are encoded in the same context, and everything after them sees them."""
    played, _ = rollout(opened, trials=8, thoughts=thoughts)
    for row in (row for t in played for row in t.rows):
        expected = full_logprobs(MODEL, row.ids)[row.prompt_len - 1 :]
        sampled = torch.tensor(row.action_mask).bool()
        torch.testing.assert_close(torch.tensor(row.logprobs)[sampled], expected[sampled], atol=1e-4, rtol=1e-4)


@both
def test_no_token_is_encoded_twice(opened):
    played, policy = rollout(opened, thoughts=2, concurrency=1)
    # All but the last token of a row, and the end token that closes it where the policy wrote none.
    assert policy.encoded_tokens == sum(len(row.ids) - 1 - (not row.action_mask[-1]) for t in played for row in t.rows)


@both
def test_samples_do_not_depend_on_the_batch(opened):
    alone, _ = rollout(opened, thoughts=2, concurrency=1)
    assert tokens(rollout(opened, thoughts=2)[0]) == tokens(alone)
    assert tokens(rollout(opened, thoughts=2, concurrency=5, max_batch_tokens=8)[0]) == tokens(alone)


def test_thoughts_are_limited_where_no_limit_is_set(monkeypatch):
    monkeypatch.setattr("metarlgym.rollout.session.THOUGHT_TOKENS", 3)
    free, _ = rollout(thoughts=None)
    assert tokens(free) == tokens(rollout(thoughts=3)[0])
    assert any(t.cut_thoughts for t in free)


@both
def test_where_the_context_ends_a_thought_is_closed_in_time(opened):
    played, _ = rollout(opened, thoughts=200, action=2, context_tokens=20)
    assert {t.stop for t in played} >= {StopReason.CONTEXT_LIMIT}
    assert any(t.cut_thoughts for t in played)
    for row in (row for t in played for row in t.rows):
        assert len(row.ids) <= 20
        for ids, _ in replies(row):
            assert ids.count(START) == ids.count(CLOSE) and ids[-1] not in (START, CLOSE, SO)


@both
def test_an_episodes_tokens_bound_its_thoughts(opened):
    played, _ = rollout(opened, thoughts=200, action=2, episode_tokens=12)
    assert any(t.cut_thoughts for t in played)
    assert any(e.stop is StopReason.TOKEN_LIMIT for t in played for e in t.episodes)
    for t in played:
        assert len(t.episodes) == 3  # the trial goes on
        assert all("</think>" in turn.action or "<think>" not in turn.action for e in t.episodes for turn in e.turns)


def test_a_model_that_opens_no_thought_plays_as_one_without_thoughts():
    model = thinking_model(TOKENIZER, thinks=1e-9)
    trials = specs(GUESS, trial_maker(GUESS, 3), 16)
    plain = ThinkingRenderer(TOKENIZER)
    plain.thinking = None
    with_thoughts, one = play(model, RENDERERS[False], trials, Limits(3, 4))
    without, other = play(model, plain, trials, Limits(3))
    assert tokens(with_thoughts) == tokens(without)
    assert one.encoded_tokens == other.encoded_tokens
    assert not any(t.thoughts for t in with_thoughts) and "thoughts" not in with_thoughts[0].to_dict()


# ---------------------------------------------------------------------- what the environment sees


def test_the_environment_sees_that_a_thought_is_open():
    """The end of a reply inside an opened thought: "1" in it is no action."""
    model = thinking_model(TOKENIZER, seed=1)
    one, hm = TOKENIZER.convert_tokens_to_ids(["1", "hm"])
    with torch.no_grad():
        model.lm_head.weight[one, [START, hm]] += 5  # the model thinks of a number, then ends its reply
    played, _ = play(model, RENDERERS[True], specs(GUESS, trial_maker(GUESS, 3), 8), Limits(3, 20))
    turns = [turn for t in played for e in t.episodes for turn in e.turns]
    unfinished = [turn for turn in turns if "</think>" not in turn.action]
    assert len(unfinished) > 8
    assert all(turn.action.startswith("<think>") and "1" in turn.action and not turn.valid for turn in unfinished)


def test_random_play_closes_thoughts_that_the_prompt_opened():
    renderer = RENDERERS[True]
    played = RolloutManager(RandomTokenPolicy(renderer), renderer).run(specs(GUESS, trial_maker(GUESS, 3), 8))
    assert not any(e.invalid for t in played for e in t.episodes)
    assert all(turn.action.startswith("<think>so </think>") for t in played for e in t.episodes for turn in e.turns)
    assert not any(t.cut_thoughts for t in played)


# ---------------------------------------------------------------------- what is kept


@both
def test_thoughts_of_earlier_episodes_are_dropped(opened):
    played, _ = rollout(opened, keep="episode", thoughts=3)
    for t in played:
        assert len(t.rows) == len(t.episodes) == 3
        assert [row.first_episode for row in t.rows] == [0, 1, 2]
        for n, row in enumerate(t.rows):
            prompt = TOKENIZER.convert_ids_to_tokens(row.ids[: row.prompt_len])
            history = prompt[:-1] if opened else prompt
            assert "hm" not in prompt and "<think>" not in history
            shown = [word for episode in t.episodes[:n] for turn in episode.turns for word in _history(turn)]
            assert [word for word in history if word not in ("<bos>", "guess", "/")] == shown
            assert set(row.episode) == {n}
    # Within an episode they are kept.
    assert any(row.completion_ids.count(START) + opened > 1 for t in played for row in t.rows)


def _history(turn):
    return [*spoken(turn.action).split(), "<end>", *turn.observation.split()]


@both
def test_all_thoughts_are_dropped(opened):
    played, _ = rollout(opened, keep="none", thoughts=3)
    for t in played:
        turns = [(n, turn) for n, episode in enumerate(t.episodes) for turn in episode.turns]
        assert len(t.rows) == len(turns) == t.turns
        for i, row in enumerate(t.rows):
            prompt = TOKENIZER.convert_ids_to_tokens(row.ids[: row.prompt_len])
            assert "hm" not in prompt and row.first_episode == turns[i][0]
            history = [word for _, turn in turns[:i] for word in _history(turn)]
            assert [w for w in prompt if w not in ("<bos>", "guess", "/", "<think>")] == history
            assert sum(row.action_mask) == sum(masks.count(1) for _, masks in replies(row))


def test_contexts_without_thoughts_are_counted_by_episode_too():
    """A new context in the middle of an episode does not reset the episode's tokens."""
    played, _ = rollout(keep="none", thoughts=3, episode_tokens=14, trials=40)
    stopped = [e for t in played for e in t.episodes if e.stop is StopReason.TOKEN_LIMIT]
    assert stopped and {len(e.turns) for e in stopped} <= {1, 2}


@both
@pytest.mark.parametrize("limits", [{"episode_turns": 2}, {"episode_tokens": 14}, {"context_tokens": 24}])
def test_a_context_in_which_a_limit_allows_no_action_leaves_no_row(opened, limits):
    played, _ = rollout(opened, keep="none", thoughts=3, **limits)
    if "context_tokens" in limits:
        assert any(t.stop is StopReason.CONTEXT_LIMIT for t in played)
    else:
        reason = StopReason.TURN_LIMIT if "episode_turns" in limits else StopReason.TOKEN_LIMIT
        assert any(e.stop is reason for t in played for e in t.episodes)
    for t in played:
        acted = [row for row in t.rows if any(row.action_mask)]
        assert len(acted) == t.turns
        # A row without actions stands for an episode without actions.
        assert len(t.rows) - len(acted) == sum(not e.turns for e in t.episodes)


def test_dropping_thoughts_goes_with_other_memories():
    played, _ = rollout(keep="episode", memory=LastK(1), thoughts=3, group=DOORS)
    for t in played:
        last = TOKENIZER.convert_ids_to_tokens(t.rows[2].ids[: t.rows[2].prompt_len])
        assert "hm" not in last
        assert last.count("<end>") == 1


def test_contexts_that_have_ended_are_forgotten(monkeypatch):
    forgotten, forget = [], InProcessPolicy.forget
    monkeypatch.setattr(
        InProcessPolicy, "forget", lambda self, context: forgotten.append(context) or forget(self, context)
    )
    played, _ = rollout(keep="none", thoughts=3)
    assert len(set(forgotten)) == len(forgotten) == sum(len(t.rows) for t in played)


def test_an_unknown_choice_is_refused():
    with pytest.raises(ConfigError, match=r"keep_thoughts='some' is not known: use one of all, episode, none\."):
        Trial(GUESS.make_env(), 3, keep_thoughts="some")


def test_counts_are_written_with_the_trial():
    played, _ = rollout(thoughts=2)
    written = next(t for t in played if t.cut_thoughts).to_dict()
    assert written["thoughts"] >= written["cut_thoughts"] > 0
