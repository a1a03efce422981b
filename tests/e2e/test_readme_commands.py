"""Every command of the README works as it is written."""

import re

import pytest

from tests.e2e.conftest import ROOT, run_readme

pytestmark = pytest.mark.e2e

README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    """Commands in bash blocks and in the first column of tables."""
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.S)
    lines = [line.strip() for block in blocks for line in block.splitlines() if line.strip()]
    table = re.findall(r"^\| `(metarlgym [^`]+)` \|", README, flags=re.M)
    return lines + table


ELSEWHERE = {
    "uv run metarlgym train --config quickstart",  # the fixture
    "uv run pytest",  # this very command
}


def test_every_command_is_known():
    others = [c for c in commands() if not c.startswith(("metarlgym ", "uv run metarlgym "))]
    assert others == ["git clone https://github.com/metarlgym/metarlgym && cd metarlgym", "uv run pytest"]


RUNNABLE = [c for c in commands() if "metarlgym " in c and c not in ELSEWHERE and not c.startswith("git")]


@pytest.mark.parametrize("command", RUNNABLE)
def test_command_runs(command, quickstart):
    answers = "[1]\n[2]\n[3]\n[4]\n" if " play " in command else None
    if command == "metarlgym train --config FILE":  # runs/quickstart is taken, as it should be
        command += " --output_dir runs/short --max_steps 4 --warmup_trials 512 --warmup_max_steps 4"
    done = run_readme(command.replace("FILE", "quickstart"), quickstart, timeout=600, input=answers)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
