"""Every command of the README and the site works as it is written; `tests/doc_commands.py` says which run here."""

import os
import shlex
import subprocess
import sys

import pytest

from tests.doc_commands import PAGES, RUN, blocks

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def folder(quickstart):
    """The quickstart's folder, with the files that pages tell the reader to save."""
    for page in PAGES:
        for title, content in blocks(page.read_text(), "python", "yaml"):
            if title:
                (quickstart / title).write_text(content)
    return quickstart


def run(command: str, folder, answers: str | None) -> subprocess.CompletedProcess[str]:
    """Run a command in this environment, which is the project's own, so `uv run` is left out."""
    words = shlex.split(command.removeprefix("uv run "))
    environment = dict(os.environ)
    while "=" in words[0]:
        name, value = words.pop(0).split("=", 1)
        environment[name] = os.pathsep.join(filter(None, [value, os.environ.get(name)]))
    assert words[0] == "metarlgym", command
    words = [sys.executable, "-m", "metarlgym.cli.main", *words[1:]]
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, input=answers, timeout=600
    )


def check(command: str, folder) -> None:
    """Run a command, shortened as its entry says."""
    how = RUN[command]
    for old, new in how.change:
        assert old in command
        command = command.replace(old, new)
    done = run(command + how.add, folder, how.answers)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("command", RUN)
def test_command_runs(command, folder):
    needs = RUN[command].needs
    if needs is not None and not (folder / needs[0]).exists():
        check(needs[1], folder)
    check(command, folder)
