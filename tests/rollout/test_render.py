"""Renderers: the prompt is made once, afterwards only the environment's new text is encoded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trl

from metarlgym import ConfigError
from metarlgym.datatypes import Message
from metarlgym.models.scratch import byte_tokenizer, word_tokenizer
from metarlgym.rollout.render import ChatRenderer, PlainRenderer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
REWRITES = CHATML.replace("{{ m['content'] }}", "{{ m['content'] if loop.last else m['content'] | lower }}")
REWRITES_USER = REWRITES.replace("loop.last", "loop.last or m['role'] == 'assistant'")
OPENS_THOUGHT = CHATML.replace("{{ m['content'] }}", "{{ m['content'].split('</think>')[-1] }}").replace(
    "<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>{% endif %}"
)
NO_END = CHATML.replace("<|im_end|>\n", "\n\n")
CONVERSATION = [Message("system", "Open doors."), Message("user", "Which?")]


def chat_tokenizer(template=CHATML):
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = template
    return tokenizer


# ---------------------------------------------------------------------- plain, fixed number of words


def word_renderer():
    tokenizer = word_tokenizer(["doors 1 2 nothing prize /"])
    return PlainRenderer(tokenizer, fixed_action_tokens=1, separator=""), tokenizer


def test_fixed_actions_need_no_end_token():
    renderer, tokenizer = word_renderer()
    prompt = renderer.prompt([Message("system", "doors"), Message("user", "")])
    assert tokenizer.convert_ids_to_tokens(prompt) == ["<bos>", "doors"]
    for ended in (True, False):
        assert tokenizer.convert_ids_to_tokens(renderer.bridge("nothing", ended)) == ["nothing"]
    assert renderer.bridge("", True) == []


def test_fixed_actions_of_a_history_stand_without_end_tokens():
    renderer, tokenizer = word_renderer()
    turns = [Message("user", "doors"), Message("assistant", "1"), Message("user", "nothing")]
    assert tokenizer.convert_ids_to_tokens(renderer.prompt(turns)) == ["<bos>", "doors", "1", "nothing"]


def test_a_prompt_of_nothing_still_has_a_token():
    renderer, tokenizer = word_renderer()
    tokenizer.bos_token = None
    assert renderer.prompt([Message("user", "")]) == [tokenizer.eos_token_id]


# ---------------------------------------------------------------------- plain, free length


def test_free_actions_end_with_the_end_token():
    tokenizer = byte_tokenizer()
    renderer = PlainRenderer(tokenizer)
    end = tokenizer.eos_token_id
    assert tokenizer.decode(renderer.bridge("higher", ended=True)) == "higher\n"
    assert renderer.bridge("higher", ended=False) == [end, *renderer.bridge("higher", ended=True)]
    assert renderer.bridge("", ended=False) == [end]
    turns = [Message("user", "guess"), Message("assistant", "7"), Message("user", "higher")]
    assert tokenizer.decode(renderer.prompt(turns)) == "<bos>guess\n7<end>higher\n"


def test_an_action_is_decoded_without_its_end_token():
    tokenizer = byte_tokenizer()
    renderer = PlainRenderer(tokenizer)
    ids = tokenizer.encode("[12]", add_special_tokens=False)
    assert renderer.decode_action(ids) == renderer.decode_action([*ids, renderer.end_id]) == "[12]"
    assert renderer.decode_action([renderer.end_id]) == ""
    assert renderer.decode_action([renderer.end_id, *ids]) == "<end>[12]"  # only the last one ended the action


def test_a_tokenizer_without_end_token_is_refused():
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="no end-of-sequence token: set eos_token"):
        PlainRenderer(tokenizer)


def test_text_is_encoded_once():
    tokenizer = byte_tokenizer()
    renderer = PlainRenderer(tokenizer)
    first = renderer.encode("higher")
    assert renderer.encode("higher") is first
    assert renderer.prompt(CONVERSATION) is renderer.prompt(list(CONVERSATION))


# ---------------------------------------------------------------------- chat


def test_the_prompt_is_the_templates_own():
    tokenizer = chat_tokenizer()
    messages = [{"role": m.role, "content": m.text} for m in CONVERSATION]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ChatRenderer(tokenizer).prompt(CONVERSATION) == list(expected)


@pytest.mark.parametrize("template", [CHATML, NO_SYSTEM], ids=["ChatML", "no system role"])
def test_a_grown_transcript_is_the_templates_rendering_of_the_whole_conversation(template):
    tokenizer = chat_tokenizer(template)
    renderer = ChatRenderer(tokenizer)
    turns = [("[1]", "Nothing.\n--- Episode 2 ---\nWhich?"), ("I think [2]", "The prize!"), ("[2] ü", "Again.")]
    ids = list(renderer.prompt(CONVERSATION))
    messages = list(CONVERSATION)
    for action, observation in turns:
        ids += [*renderer.encode(action), renderer.end_id]  # as the policy samples it
        ids += renderer.bridge(observation, ended=True)
        messages += [Message("assistant", action), Message("user", observation)]
    assert ids == renderer.prompt(messages)


TEMPLATES = Path(trl.__file__).parent / "chat_templates"
SHIPPED = [
    ("llama3_2", {}),
    ("qwen2_5", {}),
    ("qwen3", {}),
    ("qwen3_instruct_2507", {}),
    ("qwen3_training", {"enable_thinking": False}),
    ("gemma3", {}),
    ("phi3", {}),
]


@pytest.mark.parametrize(("name", "arguments"), SHIPPED, ids=[name for name, _ in SHIPPED])
def test_templates_of_known_models(name, arguments):
    template = (TEMPLATES / f"{name}.jinja").read_text()
    tokenizer = byte_tokenizer()
    marks = sorted(set(re.findall(r"<\|[a-z_]+\|>|<(?:start|end)_of_turn>", template)))
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer.chat_template = template
    renderer = ChatRenderer(tokenizer, arguments)
    ids = [*renderer.prompt(CONVERSATION), *renderer.encode("[1]"), renderer.end_id]
    messages = [*CONVERSATION, Message("assistant", "[1]"), Message("user", "Nothing.")]
    assert [*ids, *renderer.bridge("Nothing.", ended=True)] == renderer.prompt(messages)


def test_an_action_that_was_cut_is_ended_by_the_bridge():
    renderer = ChatRenderer(chat_tokenizer())
    assert renderer.bridge("x", ended=False) == [renderer.end_id, *renderer.bridge("x", ended=True)]


def test_actions_end_with_the_turn_mark_or_the_end_of_sequence():
    tokenizer = chat_tokenizer()
    renderer = ChatRenderer(tokenizer)
    assert renderer.end_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert renderer.end_ids == {renderer.end_id, tokenizer.eos_token_id}


def test_a_template_without_system_role_gets_the_rules_in_the_first_message():
    text = chat_tokenizer(NO_SYSTEM)
    prompt = text.decode(ChatRenderer(text).prompt(CONVERSATION))
    assert prompt == "<|im_start|>user\nOpen doors.\n\nWhich?<|im_end|>\n<|im_start|>assistant\n"


def test_template_arguments_reach_the_template():
    tokenizer = chat_tokenizer("{% if tone %}{{ tone }}: {% endif %}" + CHATML)
    assert tokenizer.decode(ChatRenderer(tokenizer, {"tone": "formal"}).prompt(CONVERSATION)).startswith("formal: <|im")
    assert tokenizer.decode(ChatRenderer(tokenizer).prompt(CONVERSATION)).startswith("<|im")


@pytest.mark.parametrize(("role", "template"), [("user", REWRITES_USER), ("assistant", REWRITES)])
def test_a_template_that_rewrites_history_is_refused(role, template):
    with pytest.raises(ConfigError, match=rf"rewrites earlier turns \(what the {role} said"):
        ChatRenderer(chat_tokenizer(template))


def thinking_tokenizer(template):
    tokenizer = chat_tokenizer(template)
    tokenizer.add_tokens(["<think>", "</think>"])
    return tokenizer


def test_a_template_may_begin_inside_a_thought():
    tokenizer = thinking_tokenizer(OPENS_THOUGHT)
    renderer = ChatRenderer(tokenizer)
    thinking = renderer.thinking
    assert thinking.opened
    assert [thinking.start_id, thinking.end_id] == tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    for ids in (renderer.prompt(CONVERSATION), renderer.bridge("Nothing.", ended=True)):
        assert tokenizer.decode(ids).endswith("<|im_start|>assistant\n<think>")
    assert tokenizer.decode(thinking.close_ids) == "\n</think>\n\n"  # the template writes no closing mark itself


def test_a_tokenizer_without_tokens_for_thoughts_has_no_thinking():
    assert ChatRenderer(chat_tokenizer()).thinking is None


def test_a_template_that_opens_a_thought_in_some_turns_is_refused():
    later = OPENS_THOUGHT.replace("<think>{% endif %}", "{{ '<think>' if messages | length > 2 }}{% endif %}")
    with pytest.raises(ConfigError, match=r"begins only some of the assistant's turns inside a thought"):
        ChatRenderer(thinking_tokenizer(later))


@pytest.mark.parametrize(("between", "close"), [("\n</think>\n", "\n</think>\n"), ("</think>", "\n</think>\n\n")])
def test_a_thought_is_closed_as_the_template_closes_it(between, close):
    parts = "m['content'].split('</think>')"
    thought = "{% if '</think>' in m['content'] %}{{ " + parts + "[0] + '" + between + "' }}{% endif %}"
    tokenizer = thinking_tokenizer(CHATML.replace("{{ m['content'] }}", thought + "{{ " + parts + "[-1] }}"))
    assert tokenizer.decode(ChatRenderer(tokenizer).thinking.close_ids) == close


def test_the_models_own_end_tokens_end_actions_if_they_are_control_tokens():
    tokenizer = thinking_tokenizer(CHATML)
    renderer = ChatRenderer(tokenizer)
    start, word = tokenizer.convert_tokens_to_ids("<|im_start|>"), renderer.encode("a")[0]
    before = renderer.end_ids
    renderer.end_also_with([start, word, 10**6])
    assert renderer.end_ids == before | {start}
    assert renderer.decode_action([word, start]) == "a"


def test_a_tokenizer_without_template_is_refused():
    with pytest.raises(ConfigError, match="no chat template: set renderer='plain'"):
        ChatRenderer(byte_tokenizer())


def test_a_template_whose_turns_end_in_plain_text_is_refused():
    with pytest.raises(ConfigError, match="not with a special token"):
        ChatRenderer(chat_tokenizer(NO_END))
