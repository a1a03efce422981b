"""One quickstart run, started word for word as the README says, that several tests look at."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Two processes, with a port that is free.
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ZERO3 = [
    sys.executable,
    "-m",
    "accelerate.commands.launch",
    "--config-file",
    str(ROOT / "configs/accelerate/zero3_cpu.yaml"),
]
ZERO3 += ["--main_process_port", "0"]


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """Shared out over processes (`-n 2 --dist loadgroup`), tests that look at one run stay together, and those that
    start several processes keep out of each other's way."""
    for item in items:
        if "quickstart" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("quickstart"))
        elif item.path.name.endswith("_processes.py"):
            item.add_marker(pytest.mark.xdist_group("processes"))


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
    done = run_readme("uv run metarlgym train --config quickstart", folder, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder
