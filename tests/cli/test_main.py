"""The command line: what it prints, and one line for every bad input."""

import json
import subprocess
import sys

import pexpect
import pytest
from tiny import make_model, terse, trial_maker

from metarlgym.cli.main import main


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """An untrained model of Doors, as a run leaves it in `final/`."""
    from metarlgym.models.scratch import word_tokenizer
    from metarlgym.training.warmup import sample_text

    folder = tmp_path_factory.mktemp("model")
    group = terse("Doors-v0")
    tokenizer = word_tokenizer(sample_text(group, trial_maker(group), 64))
    make_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def evaluate(*arguments, env="Doors-v0", trials="8"):
    return main(["eval", "--env", env, "--episodes", "3", "--trials", trials, *map(str, arguments)])


def test_list_shows_every_group(capsys):
    assert main(["list", "--json"]) == 0
    ids = {entry["env_id"] if "env_id" in entry else entry["id"] for entry in json.loads(capsys.readouterr().out)}
    assert {"Doors-v0", "Bandit-v0", "GuessNumber-v0", "Mastermind-v0", "DarkRoom-v0"} <= ids


def test_check_prints_a_line_for_each_contract(capsys):
    assert main(["check", "Doors-v0"]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 20


def test_oracle_evaluation_has_the_promised_fields(tmp_path, capsys):
    path = tmp_path / "eval.json"
    assert evaluate("--policy", "oracle", "--json", path, trials="400") == 0
    report = json.loads(path.read_text())
    assert report["decode"] is None and report["model"] == "oracle"
    assert report["optimum_kind"] == "exact"
    assert report["return_mean"] == pytest.approx(report["optimum"], abs=0.2)
    promised = "task_group episodes trials return_mean return_ci95 optimum random normalized_score curve curve_ci95"
    assert set(promised.split()) <= report.keys()
    assert set(report["controls"]) == {"no_memory", "shuffled"}


def test_model_evaluation(tmp_path, model_folder):
    path = tmp_path / "eval.json"
    arguments = ("--model", model_folder, "--env-args", '{"style": "terse"}', "--json", path)
    assert evaluate(*arguments) == 0
    report = json.loads(path.read_text())
    assert report["decode"] == {"temperature": 1.0, "greedy": False}
    assert len(report["curve"]) == 3 and report["errors"] == 0


def test_a_person_plays_in_a_terminal(tmp_path):
    saved = tmp_path / "trial.json"
    command = f"-m metarlgym.cli.main play Doors-v0 --episodes 2 --seed 3 --save {saved}"
    child = pexpect.spawn(sys.executable, command.split(), timeout=60, encoding="utf-8")
    for action in ("[1]", "[safe]"):
        child.expect("> ")
        child.sendline(action)
    child.expect(pexpect.EOF)
    trial = json.loads(saved.read_text())
    assert [turn["action"] for episode in trial["episodes"] for turn in episode["turns"]] == ["[1]", "[safe]"]


def test_help_is_quick_and_loads_no_torch():
    code = "import sys; from metarlgym.cli.main import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


BAD = {
    "unknown env": (["eval", "--policy", "random", "--env", "Dors-v0", "--json", "x.json"], "Doors-v0"),
    "free shots": (["play", "Doors-v0", "--episodes", "3", "--free-shots", "3"], "free_shots=3"),
    "setting": (["train", "--config", "quickstart", "--learning_rat", "1"], "learning_rate"),
    "value": (["train", "--config", "quickstart", "--max_steps", "many"], "max_steps"),
    "model of a dry run": (
        ["train", "--config", "quickstart", "--model_name_or_path", "./nope", "--dry-run"],
        "no such folder",
    ),
    "config": (["train", "--config", "nope"], "quickstart"),
    "model": (["eval", "--model", "./nope", "--env", "Doors-v0", "--json", "x.json"], "no such folder"),
    "json": (["eval", "--policy", "random", "--env", "Doors-v0", "--env-args", "{", "--json", "x.json"], "not JSON"),
    "argument": (["play", "Doors-v0", "--env-args", '{"dors": 1}'], "dors"),
    "eval split": (
        ["eval", "--policy", "random", "--env", "Doors-v0", "--env-args", '{"split": "content"}', "--json", "x.json"],
        "held-out",
    ),
    "fraction": (["play", "Doors-v0", "--env-args", '{"doors": 3.5}'], "doors=3.5 must be a whole number"),
    "safe": (["play", "Doors-v0", "--env-args", '{"safe": "x"}'], "safe='x' must be a number in [0, 1]"),
    "class": (["play", "metarlgym.envs.doors:Doors"], "env='metarlgym.envs.doors:Doors' is not registered"),
    "most episodes": (["play", "Doors-v0", "--episodes", "100000000"], "episodes=100000000 must be at most 100000"),
    "port": (["serve", "--model", "some/model", "--port", "99999"], "port=99999 must be at most 65535"),
    "temperature nan": (
        ["eval", "--model", "m", "--env", "Doors-v0", "--temperature", "nan"],
        "must be a finite number",
    ),
    "temperature inf": (
        ["eval", "--model", "m", "--env", "Doors-v0", "--temperature", "inf"],
        "must be a finite number",
    ),
    "temperature 0": (["eval", "--model", "m", "--env", "Doors-v0", "--temperature", "0"], "use --greedy"),
    "temperature of greedy play": (
        ["eval", "--model", "m", "--env", "Doors-v0", "--temperature", "2", "--greedy"],
        "temperature=2 has no effect with --greedy: leave out one of them.",
    ),
    "action tokens": (
        ["eval", "--model", "m", "--env", "Doors-v0", "--max-action-tokens", "0"],
        "max_action_tokens=0 must be above 0; leave it out for 64.",
    ),
    "foreign module": (["play", "os:system"], "The module 'os' registers no such environment"),
    "width": (["new-model", "--out", "m", "--hidden-size", "17"], "heads=2 must divide hidden-size=17"),
    "heads": (["new-model", "--out", "m", "--heads", "3"], "heads=3 must divide hidden-size=64"),
    "layers": (["new-model", "--out", "m", "--layers", "70000"], "error: layers=70000 must be at most 65536"),
    "unwritable": (["eval", "--policy", "random", "--env", "Doors-v0", "--json", "/nowhere/x.json"], "/nowhere"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments, named = BAD[name]
    if arguments[0] == "eval":
        arguments = [*arguments, "--episodes", "2", "--trials", "50"]
    assert main(arguments) == 2
    errors = capsys.readouterr().err.strip()
    assert errors.startswith("error: ") and "\n" not in errors and named in errors
    assert not list(tmp_path.iterdir())


def test_missing_chat_template(model_folder, capsys, tmp_path):
    assert evaluate("--model", model_folder, "--renderer", "chat", "--json", tmp_path / "x.json") == 2
    assert "chat template" in capsys.readouterr().err


def test_a_folder_that_holds_another_run_is_left_alone(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    assert main(["train", "--config", "quickstart", "--output_dir", str(tmp_path)]) == 2
    assert "holds config.yaml, which a run would write, but no run.json" in capsys.readouterr().err
    assert (tmp_path / "config.yaml").read_text() == "seed: 1\n"
