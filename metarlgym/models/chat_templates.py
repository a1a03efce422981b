"""The chat template that a run uses instead of the tokenizer's own: a Jinja file, or TRL's training template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metarlgym.datatypes import ConfigError
from metarlgym.files import expand

TRL = "trl"
"""The value of `chat_template` that means TRL's training template of the model's family."""


def use_chat_template(tokenizer: Any, chat_template: str | None) -> None:
    """Give a tokenizer the template named by the setting `chat_template`; None keeps its own.

    The tokenizer is changed in place and saved with it, so a trained model carries the template of its run.

    Raises:
        ConfigError: the file cannot be read or is empty; or TRL has no template for this tokenizer.
    """
    if chat_template == TRL:
        tokenizer.chat_template = _trl_template(tokenizer)
    elif chat_template is not None:
        tokenizer.chat_template = read_template(chat_template)


def read_template(name: str) -> str:
    """The text of a Jinja file.

    Raises:
        ConfigError: it cannot be read, or is empty.
    """
    setting = f"chat_template={name!r}"
    try:
        text = Path(expand(name)).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{setting}: no such file. Give the path of a Jinja template, or {TRL!r}.") from None
    except OSError as error:
        raise ConfigError(f"{setting} cannot be read ({error.strerror}): give the path of a Jinja template.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{setting} is not UTF-8 text: give the path of a Jinja template.") from None
    if not text.strip():
        raise ConfigError(f"{setting} is empty: give the path of a Jinja template, or leave it out.")
    return text


def _trl_template(tokenizer: Any) -> str:
    """TRL's training template for a tokenizer, which may be the tokenizer's own."""
    from trl.chat_template_utils import get_training_chat_template

    setting, name = f"chat_template={TRL!r}", tokenizer.name_or_path
    if not tokenizer.chat_template:
        raise ConfigError(
            f"{setting}: the tokenizer of {name!r} has no chat template of its own to go by; give a file."
        )
    try:
        return get_training_chat_template(tokenizer) or tokenizer.chat_template
    except Exception as error:  # ValueError for an unknown template; templates that it tries may raise anything
        raise ConfigError(
            f"{setting}: TRL has no training template for the chat template of {name!r}, which it knows by its exact "
            "text. Leave chat_template out to use the model's own, or give the path of a Jinja file, such as one of "
            f"{', '.join(path.name for path in _trl_files())} in {_trl_files()[0].parent}."
        ) from error


def _trl_files() -> list[Path]:
    import trl

    return sorted((Path(trl.__file__).parent / "chat_templates").glob("*_training.jinja"))
