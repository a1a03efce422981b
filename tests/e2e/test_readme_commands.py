"""The quickstart learns, and every command of the README and the site works as it is written.

`tests/doc_commands.py` says which commands run here. All are in one file, because `--dist loadfile` keeps a file in one
process, and so the quickstart is trained once.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.doc_commands import PAGES, ROOT, RUN, blocks

pytestmark = pytest.mark.e2e


def run(command: str, folder: Path, answers: str | None = None, timeout: int = 600) -> subprocess.CompletedProcess[str]:
    """Run a command in this environment, which is the project's own, so `uv run` is left out."""
    words = shlex.split(command.removeprefix("uv run "))
    environment = dict(os.environ)
    while "=" in words[0]:
        name, value = words.pop(0).split("=", 1)
        environment[name] = os.pathsep.join(filter(None, [value, os.environ.get(name)]))
    assert words[0] == "metarlgym", command
    words = [sys.executable, "-m", "metarlgym.cli.main", *words[1:]]
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, input=answers, timeout=timeout
    )


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory) -> Path:
    """A folder like a fresh clone in which the quickstart has been run."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "configs").symlink_to(ROOT / "configs")
    done = run("uv run metarlgym train --config quickstart", folder, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def folder(quickstart) -> Path:
    """The quickstart's folder, with the files that pages tell the reader to save."""
    for page in PAGES:
        for title, content in blocks(page.read_text(), "python", "yaml"):
            if title:
                (quickstart / title).write_text(content)
    return quickstart


def test_quickstart_learns_to_explore(quickstart):
    folder = quickstart / "runs" / "quickstart"
    report = json.loads((folder / "eval.json").read_text())
    print(report["return_mean"], report["curve"], report["controls"])
    assert report["return_mean"] >= 4.40
    assert report["optimum"] == pytest.approx(4.5)
    for value, best in zip(report["curve"], (0.25, 0.5, 0.75, 1, 1, 1), strict=True):
        assert abs(value - best) <= 0.03
    assert max(report["controls"]["shuffled"]["curve"][3:]) <= 0.25
    for name in ("config.yaml", "metrics.jsonl", "trials.jsonl", "adaptation.png", "final/model.safetensors"):
        assert (folder / name).exists(), name


def check(command: str, folder: Path) -> None:
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
