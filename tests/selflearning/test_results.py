"""Result files of variants: valid JSON that lacks what the summary needs is refused in one line that names the file."""

import json

import pytest

from metarlgym.cli.main import main
from metarlgym.datatypes import ConfigError
from metarlgym.selflearning.learned_loss.config import Config
from metarlgym.selflearning.learned_loss.report import of_kind
from metarlgym.selflearning.results import results
from tests.selflearning.test_self_critic import flags

ADVICE = "delete the file and start again with --resume"


def write(folder, name, values):
    path = folder / "variants" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    return path


def test_a_missing_key_names_the_file(tmp_path):
    path = write(tmp_path, "uniform-seed0", {"seconds": 1.5, "end": {"loss": 2.0}})
    found, damaged = results(tmp_path, ["uniform-seed0"])
    result = found["uniform-seed0"]
    assert damaged == [] and result["end"]["loss"] == 2.0 and result.get("auc") is None
    for read in (lambda: result["auc"], lambda: result["end"]["score"]):
        with pytest.raises(ConfigError, match=f"^{path} lacks '(auc|score)'.*{ADVICE}"):
            read()
    with pytest.raises(ConfigError, match=f"{path} lacks 'auc'"):
        of_kind(found, "uniform", Config(seeds=[0]))[0]["auc"]


def test_the_command_says_it_in_one_line(tmp_path, capsys):
    command = flags(tmp_path / "run")
    assert main(command) == 0
    path = write(tmp_path / "run", "score-live-0", {"seconds": 1.0, "lines": []})
    capsys.readouterr()
    assert main([*command, "--resume"]) == 2
    error = capsys.readouterr().err.strip()
    assert f"{path} lacks 'hack_step'" in error and ADVICE in error and "\n" not in error
    path.unlink()
    assert main([*command, "--resume"]) == 0
    assert "hack_step" in json.loads(path.read_text())
