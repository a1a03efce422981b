"""Checks of `chat_template_kwargs`: arguments that a chat template would not use, or takes for something else."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from metarlgym.datatypes import ConfigError
from metarlgym.rollout.template_date import CLOCK, DATE, template_text
from metarlgym.settings.value_types import show

SWITCHES = {
    **dict.fromkeys(("true", "yes", "on", "y", "t", "1", "enabled"), True),
    **dict.fromkeys(("false", "no", "off", "n", "f", "0", "disabled", "none", "null", ""), False),
}
"""Texts that mean a truth value."""
OPEN = {"tools", "documents"}
"""Parameters of `apply_chat_template` that only reach the template."""


def check_names(tokenizer: Any, template_kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments that the renderer sets itself, and those that the template never reads.

    Raises:
        ConfigError: naming the argument and those that the template reads; or the template is not valid Jinja.
    """
    if not template_kwargs:
        return
    own = {*inspect.signature(tokenizer.apply_chat_template).parameters, "messages", "conversations", CLOCK} - OPEN
    tokens = set(tokenizer.special_tokens_map)
    read = _read_names(tokenizer, template_kwargs)
    known = sorted(read - own - tokens)
    for name, value in template_kwargs.items():
        start = f"chat_template_kwargs: {name}={show(value)}"
        if name == "chat_template":
            raise ConfigError(f"{start} is a setting of its own: set chat_template to the path of a Jinja file.")
        if name == CLOCK:
            raise ConfigError(f"{start} is set by MetaRLGym: give {DATE} to set the date, or leave it out.")
        if name in own:
            raise ConfigError(f"{start} is set by MetaRLGym when it renders a trial: leave it out.")
        if name in tokens:
            raise ConfigError(f"{start} comes from the tokenizer: change it there, or leave it out.")
        if name not in read:
            near = difflib.get_close_matches(name, known, n=1)
            fix = f"Did you mean {near[0]}? " if near else ""
            fix += f"It reads {', '.join(known)}." if known else "It reads no arguments: leave them out."
            raise ConfigError(
                f"{start} would have no effect: the chat template of {tokenizer.name_or_path!r} does not read it. {fix}"
            )


def check_kinds(template_kwargs: Mapping[str, Any], render: Callable[[Mapping[str, Any]], str]) -> None:
    """Refuse a value that is no truth value where the template reads one, such as the text `"false"`.

    An argument is a switch for the template if true and false are rendered differently, and the value as one of them.

    Args:
        template_kwargs: the arguments.
        render: renders a conversation that has thoughts with the given arguments.

    Raises:
        ConfigError: naming the argument, and what to write.
    """
    for name, value in template_kwargs.items():
        if value is None or isinstance(value, bool):
            continue
        meant = SWITCHES.get(value.strip().lower()) if isinstance(value, str) else None
        if isinstance(value, str) and meant is None:
            continue  # a text such as "high", which some templates compare with others
        try:
            on, off, found = (render({**template_kwargs, name: v}) for v in (True, False, value))
        except Exception:  # templates may raise anything, such as for a truth value where they need a list
            continue
        if on == off or found not in (on, off):
            continue
        taken = found == on
        if isinstance(value, int | float):
            if taken == bool(value):
                continue
            meant = bool(value)
        fix = "true or false" if meant is None else f"{_json(meant)} without quotes" if value else _json(meant)
        raise ConfigError(
            f"chat_template_kwargs: {name}={show(value)} must be true or false, and the chat template takes it for "
            f"{_json(taken)}: write {fix}."
        )


def broken(tokenizer: Any, error: Exception, template_kwargs: Mapping[str, Any] | None = None) -> ConfigError:
    """The error for a template that raises."""
    given = f" with chat_template_kwargs={show(dict(template_kwargs))}" if template_kwargs else ""
    text = " ".join(str(error).split()).rstrip(".")
    return ConfigError(f"the chat template of {tokenizer.name_or_path!r} fails{given}: {type(error).__name__}: {text}.")


def _read_names(tokenizer: Any, template_kwargs: Mapping[str, Any]) -> frozenset[str]:
    from jinja2 import TemplateError

    templates = tokenizer.chat_template
    several = isinstance(templates, dict) and template_kwargs.get("tools") is not None and "tool_use" in templates
    text = templates["tool_use"] if several else template_text(tokenizer)
    try:
        names = variables(text)
    except TemplateError as error:
        raise broken(tokenizer, error) from error
    # A template that formats dates itself is given the clock of this day.
    return names | {DATE} if CLOCK in text else names


@lru_cache(maxsize=8)
def variables(text: str) -> frozenset[str]:
    """Names that a template reads before it sets them, without the functions of Jinja and transformers.

    Raises:
        TemplateError: the template is not valid Jinja.
    """
    from jinja2 import Environment, meta, nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        """`{% generation %}`, by which transformers marks what the assistant says."""

        tags = {"generation"}

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)

    environment = Environment(extensions=["jinja2.ext.loopcontrols", Generation])
    tree = environment.parse(text)
    found = meta.find_undeclared_variables(tree) & _read_first(tree, set())
    return frozenset(found - environment.globals.keys() - {"raise_exception"})


def _read_first(node: Any, bound: set[str]) -> set[str]:
    """Names read before any branch sets them; `bound` are those set so far in this scope, and is extended.

    `meta.find_undeclared_variables` alone also has the names that only some branches set, such as `content`.
    """
    from jinja2 import nodes

    if isinstance(node, nodes.Name):
        if node.ctx == "load":
            return {node.name} - bound
        bound.add(node.name)
        return set()
    children = list(node.iter_child_nodes())
    if isinstance(node, nodes.Assign | nodes.For):  # in `set x = x`, the value is read before the name is set
        children[:2] = children[1], children[0]
    if isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock | nodes.With | nodes.Scope):
        bound = set(bound)
    return set().union(*(_read_first(child, bound) for child in children))


def _json(value: bool) -> str:
    return "true" if value else "false"
