"""Transcript: tokens are only ever appended, and a row ends on an end token."""

from __future__ import annotations

from metarlgym.rollout.transcript import Transcript

END = 2
ENDS = frozenset([END, 3])


def example():
    row = Transcript.open([1, 10, 11])
    row.add_action([20, END], [-0.5, -0.1], 0, 0)
    row.add_environment([12], 0, 1)
    row.add_action([21], [-0.7], 0, 1)
    row.add_environment([13, 14], 1, 0)
    return row


def test_lists_run_over_the_completion():
    row = example()
    assert row.ids == [1, 10, 11, 20, END, 12, 21, 13, 14]
    assert row.completion_ids == row.ids[row.prompt_len :] == [20, END, 12, 21, 13, 14]
    assert row.action_mask == [1, 1, 0, 1, 0, 0]
    assert row.logprobs == [-0.5, -0.1, 0.0, -0.7, 0.0, 0.0]
    assert row.episode == [0, 0, 0, 0, 1, 1]
    assert row.turn == [0, 0, 1, 1, 0, 0]


def test_what_was_there_stays():
    row = example()
    before = list(row.ids)
    row.add_action([22, 23], [0.0, 0.0], 1, 0)
    assert row.ids[: len(before)] == before


def test_the_prompt_is_copied():
    prompt = [1, 2]
    row = Transcript.open(prompt)
    row.add_environment([3], 0, 0)
    assert prompt == [1, 2]


def test_closing_drops_what_follows_the_last_action_and_ends_it():
    row = example()
    row.close(ENDS, END)
    assert row.completion_ids == [20, END, 12, 21, END]
    assert row.action_mask == [1, 1, 0, 1, 0]
    assert (row.episode[-1], row.turn[-1], row.logprobs[-1]) == (0, 1, 0.0)
    assert len({len(x) for x in (row.completion_ids, row.action_mask, row.logprobs, row.episode, row.turn)}) == 1


def test_an_end_token_that_was_sampled_is_not_doubled():
    for end in ENDS:
        row = Transcript.open([1])
        row.add_action([20, end], [-1.0, -1.0], 0, 0)
        row.add_environment([12], 0, 1)
        row.close(ENDS, END)
        assert row.completion_ids == [20, end]
        assert row.action_mask == [1, 1]


def test_closing_twice_changes_nothing():
    row = example()
    row.close(ENDS, END)
    ids = list(row.ids)
    row.close(ENDS, END)
    assert row.ids == ids


def test_a_row_in_which_nothing_was_sampled_holds_one_end_token():
    row = Transcript.open([1, 10], first_episode=2)
    row.add_environment([12], 2, 0)
    row.close(ENDS, END)
    assert (row.completion_ids, row.action_mask, row.episode, row.turn) == ([END], [0], [2], [0])


def test_an_end_token_of_the_prompt_does_not_end_the_completion():
    row = Transcript.open([END])
    row.close(ENDS, END)
    assert row.completion_ids == [END]


def test_a_filler_row_is_outside_the_loss():
    row = Transcript.filler([1, 10], END, 3)
    assert (row.ids, row.prompt_len) == ([1, 10, END], 2)
    assert (row.action_mask, row.logprobs, row.episode, row.turn) == ([0], [0.0], [3], [0])


def test_the_readable_view_can_hold_text():
    view = example().to_dict(lambda ids: " ".join(map(str, ids)))
    assert view["text"] == "1 10 11 20 2 12 21 13 14"
    assert "text" not in example().to_dict()
