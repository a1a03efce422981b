"""Compiled functions where their cache has no place: the package and the home folder cannot be written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import metarlgym

CODE = """
import numpy as np
from metarlgym.sequences.sources.random_streams import open_stream
state = np.empty(2, np.uint64)
open_stream(np.uint64(5), 3, state)
print(state.tolist(), open_stream.dispatcher.stats.cache_path)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package whose folders take no new file, for root neither: __pycache__ is a file there."""
    folder = tmp_path_factory.mktemp("installed")
    source = Path(metarlgym.__file__).parent
    shutil.copytree(source, folder / "metarlgym", ignore=shutil.ignore_patterns("__pycache__"))
    for place in [folder / "metarlgym", *(p for p in (folder / "metarlgym").rglob("*") if p.is_dir())]:
        (place / "__pycache__").touch()
    return folder


def run(package, temporary, code=CODE, **variables):
    kept = {name: value for name, value in os.environ.items() if name not in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR")}
    places = {"PYTHONPATH": str(package), "HOME": "/dev/null", "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=kept | places | variables, cwd=temporary)
    assert done.returncode == 0, done.stderr
    state, _, path = done.stdout.strip().rpartition("] ")
    return state, path


def test_where_compiled_code_is_kept(package, tmp_path):
    own = tmp_path / f"metarlgym-numba-{os.getuid()}"
    state, path = run(package, tmp_path)
    assert Path(path).parent == own and list(Path(path).glob("random_streams.open_stream*.nbc"))
    assert own.stat().st_mode & 0o777 == 0o700

    own.chmod(0o770)  # others could put code there
    chosen = tmp_path / "chosen"
    assert run(package, tmp_path, NUMBA_CACHE_DIR=str(chosen))[1].startswith(f"{chosen}/")
    assert run(package, tmp_path) == (state, "None")


def test_a_command_without_any_place(package, tmp_path):
    (tmp_path / f"metarlgym-numba-{os.getuid()}").touch()
    code = "import sys; from metarlgym.cli.main import main; sys.exit(main(['list', '--json']))"
    command = [sys.executable, "-c", code]
    places = {"PYTHONPATH": str(package), "HOME": "/dev/null", "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | places, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "" and "Piecewise-v0" in done.stdout
