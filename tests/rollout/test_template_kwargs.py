"""Arguments of chat templates that would do nothing, or something else than is meant, and templates at fault."""

from __future__ import annotations

import pytest
from families import byte_family, trl_template
from template_table import TABLE

from metarlgym import ConfigError
from metarlgym.datatypes import Message
from metarlgym.models.scratch import CHAT_TEMPLATE, chat_tokenizer
from metarlgym.rollout.render import ChatRenderer
from metarlgym.rollout.template_kwargs import variables

ONE_TURN = "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
PROMPT = "<|im_start|>assistant\n"


def refusal(template, arguments=None):
    """What the renderer says of a template with arguments, or None if it is accepted."""
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = template
    try:
        ChatRenderer(tokenizer, arguments)
    except ConfigError as error:
        assert "\n" not in str(error)
        return str(error).replace(repr(tokenizer.name_or_path), "NAME")
    return None


@pytest.fixture(scope="module")
def qwen3():
    return TABLE["qwen3"].make()


READ = {
    "qwen3": {"enable_thinking", "tools"},
    "qwen3_training": {"enable_thinking", "tools"},  # has {% generation %}
    "qwen3_6": {"add_vision_id", "enable_thinking", "preserve_thinking", "tools"},
    "llama3_1": {"bos_token", "builtin_tools", "custom_tools", "date_string", "tools_in_user_message"},
    "nemotron_3_nano": {"enable_thinking", "tools", "truncate_history_thinking"},
    "gptoss": {"builtin_tools", "model_identity", "reasoning_effort", "strftime_now", "tools"},
    "phi3": {"eos_token"},
}


@pytest.mark.parametrize("name", READ)
def test_what_templates_read(name):
    assert variables(trl_template(name)) - {"messages", "add_generation_prompt"} == READ[name]


def test_names_are_read_as_jinja_scopes_them():
    text = (
        "{% macro show(shown) %}{{ shown }}{% endmacro %}{% set tone = tone|default(1) %}{% set own = 1 %}{{ own }}"
        "{% for word in words %}{{ loop.index }}{{ word }}{% if word %}{% break %}{% endif %}{% endfor %}{{ range(3) }}"
        "{% if not mood is defined %}{% set mood = raise_exception('no') %}{% endif %}{{ shown }}{{ namespace(a=a) }}"
        "{% if a %}{% set later = 1 %}{% endif %}{{ later }}"
    )
    assert variables(text) == {"tone", "words", "mood", "shown", "a"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"enable_thinkin": False}, "enable_thinkin=False would have no effect: the chat template of '' does not read"),
        ({"enable_thinkin": False}, "it. Did you mean enable_thinking? It reads enable_thinking, tools."),
        ({"enable_thinking": False, "date_string": "1"}, "date_string='1' would have no effect"),
        ({"content": "x"}, "content='x' would have no effect"),  # the template sets it itself
        ({"messages": []}, "messages=[] is set by MetaRLGym when it renders a trial: leave it out."),
        ({"add_generation_prompt": False}, "add_generation_prompt=False is set by MetaRLGym"),
        ({"tokenize": True}, "tokenize=True is set by"),
        ({"conversation": 1}, "conversation=1 is set by"),
        ({"padding": True}, "padding=True is set by"),
        (
            {"chat_template": "{{ 1 }}"},
            "chat_template='{{ 1 }}' is a setting of its own: set chat_template to the path",
        ),
        ({"strftime_now": "x"}, "strftime_now='x' is set by MetaRLGym: give date_string to set the date"),
        ({"eos_token": "x"}, "eos_token='x' comes from the tokenizer: change it there"),
        ({"enable_thinking": "false"}, "enable_thinking='false' must be true or false, and the chat template takes it"),
        ({"enable_thinking": "false"}, "for true: write false without quotes."),
        ({"enable_thinking": "True"}, "for true: write true without quotes."),
        ({"enable_thinking": ""}, "for true: write false."),
        ({"enable_thinking": 0}, "for true: write false."),
        ({"enable_thinking": [False]}, "for true: write true or false."),
    ],
)
def test_refused_arguments(arguments, told, qwen3):
    with pytest.raises(ConfigError) as error:
        ChatRenderer(qwen3, arguments)
    assert str(error.value).startswith("chat_template_kwargs: ") and told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("arguments", [{"enable_thinking": v} for v in (True, False, None, 1)] + [{"tools": []}])
def test_accepted_arguments(arguments, qwen3):
    ChatRenderer(qwen3, arguments)


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{ x }}", "off"),
        ("{{ x or 'calm' }}", "no"),
        ("{% if x == 'off' %}A{% else %}B{% endif %}", "off"),
        ("{% for word in x %}{{ word }}{% endfor %}", ["a", "b"]),
        ("{% if x > 1 %}A{% endif %}", 1),
        ("{% if x %}A{% endif %}", 0),
        ("{{ x.name }}", {"name": "a"}),
        ("{% generation %}{{ x }}{% endgeneration %}", "a"),
    ],
)
def test_texts_numbers_and_lists_that_a_template_reads_as_such(template, value):
    assert refusal(template + CHAT_TEMPLATE, {"x": value}) is None


def test_of_several_templates_the_one_in_use_counts():
    several = {"default": CHAT_TEMPLATE, "tool_use": "{{ tone }}{{ tools|length }}" + CHAT_TEMPLATE}
    assert "tone='a' would have no effect" in refusal(several, {"tone": "a"})
    tool = {"type": "function", "function": {"name": "look"}}
    assert refusal(several, {"tone": "a", "tools": [tool]}) is None


def test_a_template_without_arguments_and_a_broken_one():
    assert refusal(CHAT_TEMPLATE, {"a": 1}).endswith("does not read it. It reads no arguments: leave them out.")
    assert "fails: TemplateSyntaxError" in refusal("{% for %}", {"a": 1})
    told = refusal("{{ 'a' + n }}" + CHAT_TEMPLATE, {"n": 4})
    assert "NAME fails with chat_template_kwargs={'n': 4}: TypeError" in told


def test_a_random_template_is_named_as_the_fault():
    for text in ('{{ ["a", "b"]|random }}', "{{ lipsum(1) }}", "{{ range(100)|random }}"):
        told = refusal(text + CHAT_TEMPLATE)
        assert told.startswith("the chat template of NAME renders the same conversation differently each time")


EARLIER = ONE_TURN.replace("m['content']", "m['content'] if loop.last else m['content']{}")


@pytest.mark.parametrize("change", ["|upper", "|lower", "|title", "|replace('\n', ' ')", "[:30]", ".split()|join(' ')"])
def test_templates_that_change_earlier_turns(change):
    template = f"{{% for m in messages %}}{EARLIER.replace('{}', change)}{{% endfor %}}{PROMPT}"
    assert "rewrites earlier turns" in refusal(template)


@pytest.mark.parametrize("size", [2, 5, 12, 100])
def test_templates_that_show_a_window(size):
    rest = f"{{% for m in messages[-{size}:] %}}{ONE_TURN}{{% endfor %}}{PROMPT}"
    assert "rewrites earlier turns" in refusal(rest)
    after_rules = rest.replace("messages[-", "messages[1:][-")
    assert "rewrites earlier turns" in refusal(f"{{{{ messages[0]['content'] }}}}{after_rules}")


def test_rules_that_a_template_leaves_out_of_system_messages_go_into_the_first_turn():
    loop = f"{{% for m in messages if m['role'] != 'system' %}}{ONE_TURN}{{% endfor %}}{PROMPT}"
    renderer = ChatRenderer(byte_family(loop, ["<|im_start|>", "<|im_end|>"], eos="<|im_end|>"))
    assert not renderer.template.system
    prompt = renderer.prompt([Message("system", "Open doors."), Message("user", "Which?")])
    assert "Open doors.\n\nWhich?" in renderer.tokenizer.decode(prompt)
