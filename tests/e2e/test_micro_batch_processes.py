"""Two processes whose rows need unequal numbers of passes train as one process does, under DDP and ZeRO-3."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.e2e.launchers import ROOT, TORCHRUN, ZERO3

pytestmark = pytest.mark.e2e

ROWS, LIMIT = 8, 120


def train(launcher: list[str], folder: Path, loss_type: str, rows: int, limit: int, *prompts: object) -> dict:
    """The weights."""
    command = [*launcher, "-m", "tests.e2e.uneven_steps", str(folder), loss_type, *map(str, (rows, limit, *prompts))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return load_file(folder / "model.safetensors")


def passes(folder: Path, rank: int) -> list[tuple[int, int]]:
    return [tuple(shape) for shape in json.loads((folder / f"passes-{rank}.json").read_text())]


def logged(folder: Path, name: str) -> list[float]:
    return [line[name] for line in json.loads((folder / "log.json").read_text()) if name in line]


@pytest.fixture(scope="module", params=["dapo", "grpo"])
def one(request, tmp_path_factory):
    """The run of one process in TRL's own micro-batches."""
    folder = tmp_path_factory.mktemp("micro") / "one"
    return request.param, folder, train([sys.executable], folder, request.param, 2 * ROWS, 0)


@pytest.mark.parametrize("launcher", [TORCHRUN, ZERO3], ids=["torchrun", "ZeRO-3"])
def test_two_processes_with_unequal_rows_equal_one(launcher, one, tmp_path):
    loss_type, before, expected = one
    found = train(launcher, tmp_path, loss_type, ROWS, LIMIT)
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) <= 1e-5
    for name in ("grad_norm", "loss", "entropy", "clip_ratio/region_mean", "padding_share"):
        assert len(logged(tmp_path, name)) == 4, name
    # TRL's metrics are means of its micro-batches', ours are means over tokens.
    for name, error in (("grad_norm", 1e-5), ("loss", 1e-5), ("entropy", 0.01)):
        assert logged(tmp_path, name) == pytest.approx(logged(before, name), rel=error, abs=1e-5), name
    first, second = passes(tmp_path, 0), passes(tmp_path, 1)
    assert len(first) == len(second) > 8
    assert (1, 2) in second and (1, 2) not in first  # the second process, with short rows, kept in step
    assert all(rows == 1 or rows * width <= LIMIT for rows, width in first + second)


@pytest.mark.parametrize("limit", [0, LIMIT])
def test_two_processes_that_share_prefixes_equal_one_with_whole_rows(limit, tmp_path):
    """They forward trees of other sizes, and equally many."""
    expected = train([sys.executable], tmp_path / "one", "dapo", 2 * ROWS, 0, 3, "no")
    assert not logged(tmp_path / "one", "forward/tokens")
    for name, launcher in (("torchrun", TORCHRUN), ("ZeRO-3", ZERO3)):
        folder = tmp_path / name
        found = train(launcher, folder, "dapo", ROWS, limit, 3)
        assert max(float((found[key] - expected[key]).abs().max()) for key in expected) <= 1e-5
        assert logged(folder, "grad_norm") == pytest.approx(logged(tmp_path / "one", "grad_norm"), rel=1e-4)
        assert len(passes(folder, 0)) == len(passes(folder, 1)) >= 4
        assert sum(logged(folder, "forward/tokens")) < 0.6 * sum(logged(folder, "forward/row_tokens"))
