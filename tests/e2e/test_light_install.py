"""The package without its extra: the gym works without torch, and commands that need models say what to install."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
WORKS = (
    "list",
    "play Doors-v0 --policy oracle --seed 3",
    "check Doors-v0",
    "eval --policy oracle --env Doors-v0 --trials 50 --json report.json",
    "generate piecewise --sequences 5 --T 16 --out sequences.parquet",
    "yardsticks piecewise --sequences 50",
    "plot tree --out tree.png",
    "bench env Doors-v0 --trials 64",
    "train --help",
)
NEEDS_THE_EXTRA = (
    "train --config quickstart",
    "pretrain --config rlm_adamw",
    "selflearn --config self_critic",
    "read piecewise --model runs/x",
    "new-model --out model",
    "eval --model runs/x --env Doors-v0",
)


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    """A fresh environment with the package alone."""
    folder = tmp_path_factory.mktemp("light")
    uv = shutil.which("uv")
    assert uv is not None, "uv is needed to make an environment"
    subprocess.run([uv, "venv", "--quiet", "--python", "3.11", str(folder / "env")], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", str(folder / "env/bin/python"), str(ROOT)], check=True)
    return folder


def run(light, command):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    program = [str(light / "env/bin/metarlgym"), *command.split()]
    return subprocess.run(program, capture_output=True, text=True, cwd=light, env=environment, timeout=300)


def test_it_is_light(light):
    size = sum(p.lstat().st_size for p in (light / "env").rglob("*") if p.is_file() and not p.is_symlink())
    assert size < 600e6
    assert not list((light / "env").glob("lib/python3*/site-packages/torch"))


@pytest.mark.parametrize("command", WORKS)
def test_what_works(light, command):
    done = run(light, command)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", NEEDS_THE_EXTRA)
def test_what_needs_the_extra_says_so(light, command):
    done = run(light, command)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "pip install 'metarlgym[train]'" in done.stderr
