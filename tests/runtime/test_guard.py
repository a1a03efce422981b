"""Outputs of commands: what belongs to a run or a model is not replaced, and no two outputs share a file."""

import json

import pytest

from metarlgym import ConfigError
from metarlgym.cli.common import check_apart, check_plot, check_writable
from metarlgym.cli.main import main
from metarlgym.runtime.integrity import mark_complete


def write(folder, *names, text="{}"):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "a"
    write(folder, "run.json", text='{"kind": "train"}')
    write(
        folder, "metrics.jsonl", "eval.json", "adaptation.png", "notes.json", "start/config.json", "final/config.json"
    )
    write(folder, "final/tokenizer.json", "checkpoint-3/trainer_state.json")
    mark_complete(folder / "final", 3)
    write(folder, "final/mine.json", "final/vocab.json")
    return folder


RUNS = ["run.json", "metrics.jsonl", "eval.json", "start/config.json", "final/tokenizer.json", "final/COMPLETE"]


@pytest.mark.parametrize("name", [*RUNS, "checkpoint-3/trainer_state.json"])
def test_a_file_of_a_run_is_not_replaced(name, run, tmp_path):
    (tmp_path / "link.json").symlink_to(run / name)
    for path in (run / name, tmp_path / "link.json"):
        with pytest.raises(ConfigError, match=r"json='.*' belongs to the run in '.*/a', and would be replaced: name"):
            check_writable(path, "json")


def test_pictures_and_whatever_the_kind_of_run(run):
    with pytest.raises(ConfigError, match=r"out='.*' belongs to the run"):
        check_plot(run / "adaptation.png", "out")
    (run / "run.json").write_text("damaged")
    with pytest.raises(ConfigError, match="belongs to the run"):
        check_writable(run / "metrics.jsonl", "save")


def test_the_users_own_files_and_new_names_are_fine(run, tmp_path):
    write(tmp_path, "config.json", "metrics.jsonl", "eval.json")
    for name in ("notes.json", "new.json", "final/mine.json", "final/vocab.json", "final/new.json", "trials.jsonl"):
        check_writable(run / name, "json")
    for name in ("config.json", "metrics.jsonl", "eval.json"):
        check_writable(tmp_path / name, "json")


def test_a_model_of_whoever_made_it(tmp_path):
    write(tmp_path, "config.json", text='{"model_type": "llama"}')
    write(tmp_path, "modeling_x.py", "tokenizer.json", "x.gguf", "eval.json", "preprocessor_config.json")
    for name in ("config.json", "modeling_x.py", "tokenizer.json", "x.gguf", "preprocessor_config.json"):
        with pytest.raises(ConfigError, match="belongs to the model in"):
            check_writable(tmp_path / name, "log")
    check_writable(tmp_path / "eval.json", "json")


def test_outputs_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.png").symlink_to("s.png")
    for other in (tmp_path / "s.png", tmp_path / "link.png", tmp_path / "." / "s.png"):
        with pytest.raises(ConfigError, match=r"plot='.*' is the file of json too"):
            check_apart(json=other, trajectories=None, plot=type(tmp_path)("s.png"))
    check_apart(json=tmp_path / "a", plot=tmp_path / "b", trajectories=None)
    check_apart(json=type(tmp_path)("/dev/null"), plot=type(tmp_path)("/dev/null"))


@pytest.mark.parametrize("name", ["eval", "read", "play", "yardsticks", "plot", "serve"])
def test_every_command_looks_before_it_works(name, run, tmp_path, capsys):
    """Refused at once: the commands that would need a model name one that is not there."""
    held, picture = str(run / "metrics.jsonl"), str(run / "adaptation.png")
    (run / "summary.json").write_text("{}")
    (run / "run.json").write_text(json.dumps({"kind": "pretrain"} if name == "yardsticks" else {"kind": "train"}))
    commands = {
        "eval": ["--policy", "oracle", "--env", "Doors-v0", "--trajectories", held],
        "read": ["piecewise", "--model", "nothing", "--json", held],
        "play": ["Doors-v0", "--policy", "oracle", "--save", held],
        "yardsticks": ["piecewise", "-n", "20", "--json", str(run / "summary.json")],
        "plot": ["tree", "--out", picture],
        "serve": ["--model", "nothing", "--log", held],
    }
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main([name, *commands[name]]) == 2
    line = capsys.readouterr().err
    assert "belongs to the run in" in line and line.strip().count("\n") == 0
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "command",
    [
        ["eval", "--policy", "oracle", "--env", "Doors-v0", "--json", "s.json", "--trajectories", "s.json"],
        ["eval", "--policy", "oracle", "--env", "Doors-v0", "--json", "s.png", "--plot", "s.png"],
        ["read", "piecewise", "--model", "nothing", "--json", "s.png", "--plot", "s.png"],
    ],
    ids=lambda c: f"{c[0]} {c[-2]}",
)
def test_two_outputs_at_one_path(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2 and "is the file of json too: give each its own" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
