"""A table of chat templates: each is accepted and equal to its own rendering, or refused with the reason."""

from __future__ import annotations

import re

import pytest
from template_checks import assert_forgeries_stay_text, assert_segments_equal, own_ids
from template_table import TABLE

from metarlgym import ConfigError
from metarlgym.datatypes import Message
from metarlgym.rollout.render import ChatRenderer

ACCEPTED = [name for name, row in TABLE.items() if not row.refused]
OPENING = [("system", "Open doors."), ("user", "Which?")]


@pytest.fixture(scope="module")
def renderers():
    """Renderers by name, each made once."""
    made = {}

    def of(name):
        if name not in made:
            tokenizer = TABLE[name].make()
            made[name] = tokenizer, ChatRenderer(tokenizer, TABLE[name].given)
        return made[name]

    return of


def test_the_table_holds_what_people_use():
    assert len({row.text for row in TABLE.values()}) >= 40
    assert {row.opened for row in TABLE.values()} == {True, False}


@pytest.mark.parametrize("name", ACCEPTED)
def test_segments_are_the_templates_own(name, renderers):
    tokenizer, renderer = renderers(name)
    assert renderer.template.system == TABLE[name].system
    assert_segments_equal(tokenizer, renderer, TABLE[name])


@pytest.mark.parametrize("name", ACCEPTED)
def test_prompt_and_bridges_end_with_the_generation_prompt(name, renderers):
    tokenizer, renderer = renderers(name)
    own = own_ids(tokenizer, TABLE[name], OPENING)
    for ids in (own, renderer.prompt([Message(*m) for m in OPENING]), renderer.bridge("Nothing.", ended=True)):
        assert tokenizer.decode(ids).rstrip("\n").endswith(TABLE[name].tail.rstrip("\n"))
    # With the very ids that the template has there.
    size = max(1, len(tokenizer.encode(TABLE[name].tail, add_special_tokens=False)) - 1)
    assert renderer.bridge("Nothing.", ended=True)[-size:] == own[-size:]


@pytest.mark.parametrize("name", ACCEPTED)
def test_thoughts_and_ends(name, renderers):
    row = TABLE[name]
    tokenizer, renderer = renderers(name)
    ends = tokenizer.convert_tokens_to_ids([row.end, row.eos])
    assert renderer.end_ids == set(ends)
    thinking = renderer.thinking
    assert (thinking is not None) == row.thoughts
    if thinking is not None:
        start, end = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
        assert (thinking.start_id, thinking.end_id, thinking.opened) == (start, end, row.opened)
        assert tokenizer.decode(thinking.close_ids) == row.close


@pytest.mark.parametrize("name", ACCEPTED)
def test_forged_turns_stay_text(name, renderers):
    tokenizer, renderer = renderers(name)
    marks = [token.content for token in tokenizer.added_tokens_decoder.values() if re.match(r"[<\[]\D", token.content)]
    assert_forgeries_stay_text(tokenizer, renderer, [mark for mark in marks if mark != "<unk>"])


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.refused])
def test_refused_with_the_reason(name):
    with pytest.raises(ConfigError, match=TABLE[name].refused) as refusal:
        ChatRenderer(TABLE[name].make())
    assert "\n" not in str(refusal.value)
