"""README, CONTRIBUTING.md and the site: Python examples run, every command is listed, and its options exist."""

import importlib
import os
import re
import shlex
import subprocess
import sys

import click
import pytest
import typer

from metarlgym.cli.main import app
from tests.doc_commands import ELSEWHERE, LIKE, NOT_RUN, PAGES, ROOT, RUN, blocks, commands, mentioned

COMMANDS = {command: page for page in PAGES for command in commands(page)}
CLI = typer.main.get_command(app)
# Their blocks use what the page does not define: a trainer that somebody has built.
NOT_SELF_CONTAINED = {"selflearning.md": "tests/training/test_hack_alarm.py"}
PYTHON = [page for page in PAGES[2:] if blocks(page.read_text(), "python") and page.name not in NOT_SELF_CONTAINED]


def test_python_example_runs(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert len(blocks) == 1
    (tmp_path / "readme_example.py").write_text(blocks[0])
    monkeypatch.syspath_prepend(tmp_path)  # as a file of one's own: environments can be pickled
    assert importlib.import_module("readme_example").trial.live


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.stem)
def test_python_of_the_site_runs(page, tmp_path):
    """The blocks of a page are one program; those with a title are files beside it."""
    found = blocks(page.read_text(), "python")
    for title in dict.fromkeys(title for title, _ in found):
        program = tmp_path / (title or "program.py")
        program.write_text("\n".join(content for of, content in found if of == title))
        command = [sys.executable, program.name]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr


def test_every_command_is_in_one_list():
    lists = [*RUN, *LIKE, *ELSEWHERE, *NOT_RUN]
    assert len(lists) == len(set(lists))
    missing = {command: page.name for command, page in COMMANDS.items() if command not in lists}
    assert not missing, "say in tests/doc_commands.py what runs them"
    assert not [command for command in lists if command not in COMMANDS], "no page has them any more"
    assert set(LIKE.values()) <= set(RUN)


@pytest.mark.parametrize("test", sorted({*ELSEWHERE.values(), *NOT_SELF_CONTAINED.values()}))
def test_the_named_test_exists(test):
    path, _, name = test.partition("::")
    assert not name or f"def {name}(" in (ROOT / path).read_text()
    assert (ROOT / path).exists()


def _metarlgym(command: str) -> list[str] | None:
    words = shlex.split(command)
    return words[words.index("metarlgym") + 1 :] if "metarlgym" in words else None


@pytest.mark.parametrize("command", [c for c in COMMANDS if _metarlgym(c) and c not in RUN])
def test_options_of_what_is_not_run_here_exist(command):
    words = _metarlgym(command)
    context = click.Context(CLI)
    part = CLI
    while words and hasattr(part, "commands") and words[0] in part.commands:
        part = part.commands[words.pop(0)]
    assert part is not CLI, f"{command}: no such command"
    if part.ignore_unknown_options or part.context_settings.get("ignore_unknown_options"):  # settings, vLLM's options
        return
    known = {option for parameter in part.get_params(context) for option in parameter.opts}
    assert {word.split("=")[0] for word in words if word.startswith("--")} <= known | {"--help"}


def test_commands_in_sentences_exist():
    names = {name for page in PAGES for name in mentioned(page)}
    assert names <= set(CLI.commands) and len(names) > 8


def test_the_source_documents_command_is_there():
    assert (
        "accelerate launch --config-file configs/zero3.yaml" in (ROOT / "docs/tutorials/two_terminals.md").read_text()
    )
