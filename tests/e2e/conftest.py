"""One quickstart run, started word for word as the README says, that several tests look at."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_readme(command: str, cwd: Path, **kwargs) -> subprocess.CompletedProcess:
    """Run a README command; `uv run` is left out, because the tests' environment is the project's already."""
    words = shlex.split(command.removeprefix("uv run "))
    assert words[0] == "metarlgym", command
    return subprocess.run(
        [sys.executable, "-m", "metarlgym.cli.main", *words[1:]], cwd=cwd, capture_output=True, text=True, **kwargs
    )


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory) -> Path:
    """A folder like a fresh clone in which the quickstart has been run."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "configs").symlink_to(ROOT / "configs")
    done = run_readme("uv run metarlgym train --config configs/quickstart.yaml", folder, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder
