"""The date that a chat template prints: the given one, or that of the renderer's start."""

from __future__ import annotations

import pytest
from families import LLAMA_3_MARKS, byte_family, trl_template

from metarlgym import ConfigError
from metarlgym.datatypes import Message
from metarlgym.models.scratch import CHAT_TEMPLATE, chat_tokenizer
from metarlgym.rollout import template_date
from metarlgym.rollout.render import ChatRenderer

OPENING = [Message("system", "Open doors."), Message("user", "Which?")]


def llama():
    return byte_family(trl_template("llama3_2"), LLAMA_3_MARKS, bos="<|begin_of_text|>")


def gptoss():
    marks = ["<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>"]
    return byte_family(trl_template("gptoss"), marks)


def two_digit_hour():
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%Y-%m-%d %H:%M') }}" + CHAT_TEMPLATE
    return tokenizer


@pytest.mark.parametrize(
    ("make", "told"),
    [(llama, "Today Date: 03 Feb 2031\n"), (gptoss, "date: 2031-02-03\n"), (two_digit_hour, "2031-02-03 00:00<|im_s")],
)
def test_it_is_the_given_one_else_todays(make, told, monkeypatch):
    tokenizer = make()
    given = ChatRenderer(tokenizer, {"date_string": "03 Feb 2031"})
    assert told in tokenizer.decode(given.prompt(OPENING))
    monkeypatch.setattr(template_date, "today", lambda: "03 Feb 2031")
    found = ChatRenderer(tokenizer)
    monkeypatch.setattr(template_date, "today", lambda: "04 Feb 2031")
    assert told in tokenizer.decode(found.prompt(OPENING))  # the day of its start, after midnight too
    assert template_date.asks_for_date(tokenizer, None)
    assert not template_date.asks_for_date(tokenizer, {"date_string": "any"})


def test_a_template_that_takes_any_text_prints_it():
    tokenizer = llama()
    assert "Today Date: Friday" in tokenizer.decode(ChatRenderer(tokenizer, {"date_string": "Friday"}).prompt(OPENING))


def test_a_template_that_formats_it_needs_a_date():
    with pytest.raises(ConfigError, match=r"date_string='Friday' must look like '\d\d \w{3} \d{4}'") as refusal:
        ChatRenderer(gptoss(), {"date_string": "Friday"})
    assert "\n" not in str(refusal.value)


def test_other_templates_are_left_alone():
    tokenizer = chat_tokenizer()
    assert not template_date.asks_for_date(tokenizer, None)
    assert template_date.pinned(tokenizer, {"tone": 1}) == {"tone": 1}
    tokenizer.chat_template = {"default": CHAT_TEMPLATE, "dated": "{{ strftime_now('%d') }}"}
    assert not template_date.asks_for_date(tokenizer, None)
