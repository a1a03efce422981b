"""Settings that are mappings: written as YAML, as the text of a JSON object, and what is neither."""

from __future__ import annotations

import pytest
import yaml

from metarlgym import ConfigError
from metarlgym.settings.flat import _kinds
from metarlgym.settings.value_types import EXAMPLES, FILES, accepts
from metarlgym.training.arguments import GROUPS, parse

LINE = ["--env_id", "Doors-v0", "--max_steps", "3"]
THINKING = r'\{"enable_thinking": false\}\.'
NOT_MAPPINGS = [
    (
        "chat_template_kwargs",
        "nope",
        rf"chat_template_kwargs='nope' is not valid JSON \(.*\): write it like {THINKING}",
    ),
    ("chat_template_kwargs", "[1]", rf"chat_template_kwargs='\[1\]' is not a JSON object: write it like {THINKING}"),
    ("chat_template_kwargs", "5", rf"chat_template_kwargs='5' is not a JSON object: write it like {THINKING}"),
    ("chat_template_kwargs", "", "chat_template_kwargs='' is not valid JSON"),
    ("chat_template_kwargs", 5, "chat_template_kwargs=5 is not a JSON object: write it like"),
    ("chat_template_kwargs", True, "chat_template_kwargs=True is not a JSON object"),
    ("chat_template_kwargs", 0.5, "chat_template_kwargs=0.5 is not a JSON object"),
    ("chat_template_kwargs", [1], r"chat_template_kwargs=\[1\] is not a JSON object: write it like"),
    ("lr_scheduler_kwargs", "nope", "lr_scheduler_kwargs='nope' is not valid JSON .*: write it like {\"name\": value}"),
    ("gradient_checkpointing_kwargs", "5", "gradient_checkpointing_kwargs='5' is not a JSON object"),
    ("env_args", "[1]", r"env_args='\[1\]' is not a JSON object: write it like \{\"doors\": 4\}"),
]


@pytest.mark.parametrize(("name", "value", "told"), NOT_MAPPINGS)
def test_what_is_no_mapping_is_refused(name, value, told, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump({name: value}))
    ways = [["--config", str(path)], *([[f"--{name}", value]] if isinstance(value, str) else [])]
    for way in ways:
        with pytest.raises(ConfigError, match=f"^{told}") as refusal:
            parse([*LINE, *way])
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ['{"a": "false"}', ' {"a": "false"}\n'])
def test_a_mapping_may_be_written_as_json_and_stays_as_it_is_written(text):
    line = [*LINE, "--model_name_or_path", "any"]
    assert parse([*line, "--chat_template_kwargs", text]).grpo.chat_template_kwargs == {"a": "false"}


def test_mappings_that_may_be_files_and_examples_are_settings():
    mappings = {name for name, kind in _kinds(GROUPS).items() if accepts(kind, dict)}
    assert FILES | EXAMPLES.keys() <= mappings
