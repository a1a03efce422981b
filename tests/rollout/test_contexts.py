"""What a policy sees under each memory: the tokens of every context, word by word."""

from __future__ import annotations

import pytest
from test_render import chat_tokenizer
from tiny import Speaker

from metarlgym import FullHistory, LastK, NoMemory, Shuffled, Task, TaskGroup, Trial
from metarlgym.models.scratch import word_tokenizer
from metarlgym.policies.scripted import ScriptedPolicy
from metarlgym.rollout.manager import RolloutManager, TrialSpec
from metarlgym.rollout.render import ChatRenderer, PlainRenderer

WORDS = word_tokenizer(["doors 1 2 3 4 safe nothing prize sure invalid"])
RENDERER = PlainRenderer(WORDS, 1, "")
PRIZE_2 = Task("Doors-v0", {"prize": 1})


def play(memory, actions=("1", "2", "2"), style="terse", renderer=RENDERER, episodes=3):
    group = TaskGroup("Doors-v0", {"style": style})
    policy = Speaker(renderer, lambda trial: actions[len(trial.history) - 1])
    spec = TrialSpec(lambda: Trial(group.make_env(), episodes, memory=memory), PRIZE_2, 0)
    return RolloutManager(policy, renderer).run([spec])[0]


def texts(trajectory):
    return [WORDS.decode(row.ids) for row in trajectory.rows]


def test_full_history_is_one_growing_context():
    assert texts(play(FullHistory())) == ["<bos> doors 1 nothing 2 prize 2 <end>"]


def test_no_memory_starts_every_episode_from_the_rules():
    assert texts(play(NoMemory())) == ["<bos> doors 1 <end>", "<bos> doors 2 <end>", "<bos> doors 2 <end>"]


def test_last_k_shows_the_last_episodes():
    assert texts(play(LastK(1))) == [
        "<bos> doors 1 <end>",
        "<bos> doors 1 nothing 2 <end>",
        "<bos> doors 2 prize 2 <end>",
    ]
    assert texts(play(LastK(2)))[2] == "<bos> doors 1 nothing 2 prize 2 <end>"


def test_contexts_of_last_k_hold_the_history_in_their_prompt():
    rows = play(LastK(1)).rows
    assert [row.prompt_len for row in rows] == [2, 4, 4]
    assert [row.action_mask for row in rows] == [[1, 0]] * 3
    assert [row.first_episode for row in rows] == [0, 1, 2]
    assert [row.episode for row in rows] == [[0, 0], [1, 1], [2, 2]]


def test_shuffled_shows_the_donors_episodes():
    donor = play(FullHistory(), ("4", "safe", "3")).episodes
    assert texts(play(Shuffled(tuple(donor)))) == [
        "<bos> doors 1 <end>",
        "<bos> doors 4 nothing 2 <end>",
        "<bos> doors 4 nothing safe sure 2 <end>",
    ]


def test_shuffled_contexts_look_like_those_of_full_history():
    """The control differs in whose episodes are shown, and in nothing else."""
    own = play(FullHistory())
    same = play(Shuffled(tuple(own.episodes)))
    whole = own.rows[0].ids
    last = same.rows[2].ids
    assert last == whole


@pytest.fixture(scope="module")
def chat():
    return ChatRenderer(chat_tokenizer())


def chat_texts(memory, chat):
    trajectory = play(memory, ("[1]", "[2]", "[2]"), "chat", chat)
    return [chat.tokenizer.decode(row.ids) for row in trajectory.rows]


def test_chat_without_memory_tells_no_index(chat):
    first, second, third = chat_texts(NoMemory(), chat)
    prompt = first[: first.rindex("[1]")]
    assert second == third == prompt + "[2]<|im_end|>"
    assert "Episode" not in first
    assert "in every episode" in first  # the rules are there


def test_chat_with_full_history_tells_the_index(chat):
    (text,) = chat_texts(FullHistory(), chat)
    assert [f"--- Episode {n} of 3 ---" in text for n in (1, 2, 3)] == [True] * 3
    assert text.index("Door 1: nothing") < text.index("Episode 2 of 3") < text.index("Door 2: the prize!")


def test_chat_contexts_of_last_k_equal_the_grown_one_up_to_what_they_leave_out(chat):
    (whole,) = chat_texts(FullHistory(), chat)
    shown = chat_texts(LastK(2), chat)
    assert shown[2] == whole
    assert whole.startswith(shown[0].removesuffix("<|im_end|>"))
    assert "Episode 1 of 3" not in chat_texts(LastK(1), chat)[2]
    assert "Episode 2 of 3" in chat_texts(LastK(1), chat)[2]


def test_policies_on_text_see_the_same_under_a_memory():
    seen = []

    def act(trial, rng):
        seen.append(" ".join(message.text for message in trial.messages if message.text))
        return "1" if len(seen) == 1 else "2"

    group = TaskGroup("Doors-v0", {"style": "terse"})
    RolloutManager(ScriptedPolicy(act)).run(
        [TrialSpec(lambda: Trial(group.make_env(), 3, memory=LastK(1)), PRIZE_2, 0)]
    )
    assert seen == ["doors", "doors 1 nothing", "doors 2 prize"]
