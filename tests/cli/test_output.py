"""Commands whose reader goes, whose terminal lacks characters, or whose machine refuses: real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from metarlgym import registry
from metarlgym.cli.main import main

YARDSTICKS = ["yardsticks", "piecewise", "-n", "20"]


def run(arguments, **variables):
    """A command with its output in pipes: standard output as text, the error, and the exit status."""
    command = [sys.executable, "-m", "metarlgym.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | variables, timeout=120)


def run_without_reader(arguments):
    """The same where nobody reads the output any more (`| true`): exit status and error."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "metarlgym.cli.main", *map(str, arguments)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writer)
    return done.returncode, done.stderr


def test_nobody_reads_the_table(tmp_path):
    status, said = run_without_reader([*YARDSTICKS, "--json", tmp_path / "y.json"])
    rows = json.loads((tmp_path / "y.json").read_text())
    assert len(rows) == 30 and said.strip() == ""
    assert status == (0 if all(row["agrees"] for row in rows) else 1)  # that of the command itself


def test_nobody_reads_print():
    assert run_without_reader(["--version"]) == (0, "")


def test_output_to_a_full_disk():
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "metarlgym.cli.main", "--version"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "No space left on device" in done.stderr


def test_a_locale_without_the_characters():
    done = run(YARDSTICKS, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert "? s.e." in done.stdout and done.stderr.strip() == "" and done.returncode in (0, 1)


def test_a_backend_that_does_not_exist(tmp_path):
    done = run(["plot", "tree", "--out", tmp_path / "t.png"], MPLBACKEND="nonsense")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "MPLBACKEND='nonsense'" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_picture_on_a_full_disk_and_through_a_link(tmp_path, capsys):
    (tmp_path / "full.png").symlink_to("/dev/full")
    assert main(["plot", "tree", "--L", "2", "--out", str(tmp_path / "full.png")]) == 2
    line = capsys.readouterr().err
    assert "full.png" in line and "No space left on device" in line and line.strip().count("\n") == 0
    (tmp_path / "t.svg").symlink_to("real.svg")
    assert main(["plot", "tree", "--L", "2", "--out", str(tmp_path / "t.svg")]) == 0
    assert (tmp_path / "t.svg").is_symlink() and (tmp_path / "real.svg").read_bytes().startswith(b"<?xml")


class Broken:
    def __init__(self):
        raise ValueError("this cannot be made")


def test_list_says_that_a_group_cannot_be_made(capsys, monkeypatch):
    registry.register("BrokenGroup-v0", Broken)
    try:
        assert main(["list"]) == 1
    finally:
        del registry._REGISTRY["BrokenGroup-v0"]
    said = capsys.readouterr()
    assert "BrokenGroup-v0: ValueError: this cannot be made" in said.err and "Doors-v0" in said.out


@pytest.mark.parametrize("seed", [2**64, -1])
@pytest.mark.parametrize(
    "command",
    [
        ["generate", "piecewise", "-n", "5", "--T", "64", "--out", "x.parquet"],
        ["plot", "tree", "--out", "t.png"],
        ["plot", "piecewise", "--out", "t.png"],
        ["yardsticks", "rlm", "--json", "y.json"],
        ["read", "rlm", "--model", "nothing"],
    ],
    ids=lambda c: "-".join(c[:2]),
)
def test_seeds_have_64_bits(command, seed, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--seed", str(seed)]) == 2
    line = capsys.readouterr().err
    assert "seed" in line and (str(seed) in line or seed < 0) and line.strip().count("\n") == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (
            ["generate", "piecewise", "-n", "2", "--law", "static", "--period", "3", "--out", "x"],
            "period=3 has no effect",
        ),
        (["generate", "piecewise", "-n", "2", "--high", "3", "--out", "x"], "high=3 has no effect, as it is for law"),
        (
            ["generate", "rlm", "-n", "2", "--num-data", "3", "--split", "eval", "--out", "x"],
            "num_data=3 has no effect",
        ),
        (["plot", "piecewise", "--law", "lin", "--low", "2", "--out", "t.png"], "low=2 has no effect"),
        (
            ["read", "piecewise", "--model", "m", "--source-args", '{"law": "lin", "period": 3}'],
            "period=3 has no effect",
        ),
        (["read", "metalm", "--model", "m", "--source-args", '{"elements": [[1]], "n": 3}'], "n=3 has no effect"),
        (["read", "rlm", "--model", "m", "--source-args", '{"num_data": 3}'], "num_data=3 has no effect"),
        (["read", "rlm", "--server", "http://127.0.0.1:9", "--device", "cpu"], "device has no effect with --server"),
        (["read", "piecewise", "--model", "m", "--source-args", '{"T": 16, "seed": 7}'], "seed=7 would draw other"),
        (["read", "rlm", "--model", "m", "--source-args", '{"seed_samples": 7}'], "seed_samples=7 would draw other"),
    ],
)
def test_options_without_effect_are_refused(command, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    line = capsys.readouterr().err
    assert told in line and line.strip().count("\n") == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["read", "piecewise"], ["eval", "--env", "Doors-v0"]], ids=lambda words: words[0])
def test_errors_about_the_model_name_the_option(command, capsys):
    assert main([*command, "--model", "no/such/folder"]) == 2
    assert capsys.readouterr().err.startswith("error: model='no/such/folder'")
