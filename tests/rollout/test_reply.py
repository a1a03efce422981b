"""Reply: separate limits for a thought and its action, token by token."""

from __future__ import annotations

import pytest

from metarlgym.rollout.protocol import ActRequest, Thought
from metarlgym.rollout.reply import Reply, part_seed
from metarlgym.rollout.thinking import Thinking

END, START, CLOSE, SO = 0, 1, 2, 3
WORDS = range(10, 99)


def reply(thoughts=4, action=3, room=None, opened=False):
    request = ActRequest(None, 0, [], action, 0, thoughts, room)
    return Reply(request, Thinking(START, CLOSE, (SO, CLOSE), opened), frozenset([END]))


def said(made, *tokens):
    """The reply after these tokens, of which none may come after its end."""
    for i, token in enumerate(tokens):
        assert made.finish is None, f"over before {tokens[i:]}"
        assert made.allowance >= 1
        made.add(token, -float(token))
    answer = made.reply
    assert len(answer.ids) == len(answer.logprobs)
    return answer.ids, answer.finish, answer.thought


def test_a_reply_without_a_thought():
    assert said(reply(), 10, END) == ([10, END], "end", None)
    assert said(reply(), 10, 11, 12) == ([10, 11, 12], "length", None)


def test_a_thought_has_a_limit_of_its_own():
    tokens = [START, 10, CLOSE, 20, 21, END]
    assert said(reply(thoughts=3), *tokens) == (tokens, "end", Thought(3))
    assert said(reply(action=2), *tokens[:-1]) == (tokens[:-1], "length", Thought(3))


def test_at_its_limit_a_thought_is_closed_and_the_action_follows():
    made = reply(thoughts=3)
    assert said(made, START, 10, 11, 20, END) == ([START, 10, 11, SO, CLOSE, 20, END], "end", Thought(3, (3, 5), True))
    assert made.logprobs == [-1.0, -10.0, -11.0, 0.0, 0.0, -20.0, -0.0]


def test_the_action_has_its_whole_limit_after_a_forced_close():
    assert said(reply(thoughts=2), START, 10, 20, 21, 22)[:2] == ([START, 10, SO, CLOSE, 20, 21, 22], "length")


def test_a_thought_that_the_prompt_opened():
    assert said(reply(opened=True), 10, CLOSE, 20, END) == ([10, CLOSE, 20, END], "end", Thought(2))
    assert said(reply(thoughts=1, opened=True), 10, 20, END)[2] == Thought(1, (1, 3), True)


@pytest.mark.parametrize(("opened", "first"), [(True, []), (False, [START])])
def test_a_limit_of_0_closes_at_once_and_cuts_nothing(opened, first):
    ids, _, thought = said(reply(thoughts=0, opened=opened), *first, 20, END)
    assert ids == [*first, SO, CLOSE, 20, END]
    assert thought == Thought(len(first), (len(first), len(first) + 2), cut=False)


def test_an_end_inside_a_thought_ends_the_reply():
    assert said(reply(), START, 10, END) == ([START, 10, END], "end", Thought(2))


def test_only_the_first_thought_is_one():
    tokens = [START, CLOSE, START, 20, 21]
    assert said(reply(), *tokens) == (tokens, "length", Thought(2))


def test_a_thought_after_other_words():
    assert said(reply(thoughts=2), 20, START, 10, 21, END) == (
        [20, START, 10, SO, CLOSE, 21, END],
        "end",
        Thought(2, (3, 5), True),
    )


@pytest.mark.parametrize("room", range(4, 9))
def test_a_thought_is_closed_early_where_the_context_ends(room):
    """Two closing tokens and one of the action must fit."""
    made = reply(thoughts=100, action=9, room=room)
    made.add(START, 0.0)
    while made.finish is None:
        made.add(20, 0.0)
    ids = made.reply.ids
    assert len(ids) == room and ids[-3:-1] == [SO, CLOSE]
    assert made.reply.thought == Thought(room - 3, (room - 3, room - 1), True)
    assert made.finish == "length"


def test_a_thought_without_room_to_close_it_ends_the_reply():
    assert said(reply(room=3), 20, START) == ([20, START], "length", Thought(1, None, True))


# ---------------------------------------------------------------------- in chunks, as servers answer


def chunks(made, tokens):
    """The reply to requests that are each answered with the next of `tokens`, and the number of requests."""
    answers = iter(tokens)
    count = 0
    while made.finish is None:
        count += 1
        chunk = []
        for _ in range(made.allowance):
            chunk.append(next(answers))
            if chunk[-1] == END:
                break
        made.extend(chunk, [-float(token) for token in chunk])
    return made.reply.ids, made.reply.thought, count


def test_one_request_where_no_thought_is_opened():
    assert chunks(reply(), [10, END]) == ([10, END], None, 1)
    assert chunks(reply(), [10, 11, 12, 13]) == ([10, 11, 12], None, 1)


def test_one_request_where_a_thought_leaves_room_for_the_action():
    assert chunks(reply(opened=True), [10, CLOSE, 20, END])[2] == 1


def test_a_second_request_after_a_forced_close():
    # The third word of the first answer was sampled in an open thought: it is dropped.
    assert chunks(reply(thoughts=2, opened=True), [10, 11, 20, END]) == (
        [10, 11, SO, CLOSE, 20, END],
        Thought(2, (2, 4), True),
        2,
    )
    made = reply(thoughts=2, action=3)
    assert chunks(made, [START, 10, 99, 20, END])[0] == [START, 10, SO, CLOSE, 20, END]


def test_a_second_request_for_the_rest_of_an_action():
    assert chunks(reply(thoughts=3, opened=True), [10, CLOSE, 20, 21, END]) == ([10, CLOSE, 20, 21, END], Thought(2), 2)


def test_words_beyond_the_actions_limit_are_dropped():
    assert chunks(reply(thoughts=9, action=2, opened=True), [10, CLOSE, *range(20, 30)]) == (
        [10, CLOSE, 20, 21],
        Thought(2),
        1,
    )


def test_parts_of_a_reply_have_seeds_of_their_own():
    assert part_seed(7, 0) == 7
    seeds = {part_seed(seed, part) for seed in range(50) for part in range(5)}
    assert len(seeds) == 250 and all(0 <= seed < 2**63 for seed in seeds)
