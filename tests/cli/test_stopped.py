"""Ctrl-C and SIGTERM end every command with one line that says what is saved, and their own exit status."""

import json
import os
import signal

import pytest

from metarlgym import registry
from metarlgym.cli.main import main
from metarlgym.envs.doors import Doors

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
signals = pytest.mark.parametrize("number", STATUS, ids=lambda number: number.name)


class Stopping(Doors):
    number = signal.SIGTERM

    def on_step(self, action):
        os.kill(os.getpid(), self.number)
        return super().on_step(action)


@pytest.fixture(autouse=True)
def stopping(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    monkeypatch.setattr(registry, "_register_in_gymnasium", lambda env_id: None)
    registry.register("Stopping-v0", Stopping)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    yield
    signal.signal(signal.SIGINT, before)


def stopped(capsys, number, *words):
    """The line about it."""
    before = signal.getsignal(signal.SIGTERM)
    assert main(words) == STATUS[number]
    assert signal.getsignal(signal.SIGTERM) == before
    err = capsys.readouterr().err.strip()
    assert err.startswith("stopped: ") and "\n" not in err
    return err


@signals
def test_eval_and_play(number, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(Stopping, "number", number)
    path = tmp_path / "x.json"
    line = stopped(capsys, number, "eval", "--policy", "random", "--env", "Stopping-v0", "-n", "9", "--json", str(path))
    assert "the evaluation is not done, and nothing is written" in line
    line = stopped(capsys, number, "play", "Stopping-v0", "--policy", "random", "--save", str(path))
    assert "the trial is not done, and nothing is written" in line
    assert not path.exists()


@signals
def test_check(number, monkeypatch, capsys):
    monkeypatch.setattr(Stopping, "number", number)
    assert "not all contracts are checked" in stopped(capsys, number, "check", "Stopping-v0")


@signals
def test_generate_and_yardsticks(number, monkeypatch, capsys, tmp_path):
    from metarlgym.sequences.data import parquet
    from metarlgym.sequences.scoring import reference_tables as yardsticks

    def stop(*_, **__):
        os.kill(os.getpid(), number)

    monkeypatch.setattr(parquet, "write", stop)
    line = stopped(capsys, number, "generate", "rlm", "--sequences", "10", "--out", str(tmp_path / "x.parquet"))
    assert "run the same command again" in line
    monkeypatch.setattr(yardsticks, "rlm_rows", lambda *_: (stop() for _ in range(1)))
    assert "the table is not done" in stopped(capsys, number, "yardsticks", "rlm")


def test_sys_exit_in_a_plugin_or_library_is_not_silent(monkeypatch, capsys):
    def leave(*_, **__):
        raise SystemExit(3)

    monkeypatch.setattr(registry, "list_envs", leave)
    assert main(["list"]) == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith("error: sys.exit(3) was called at ") and "\n" not in line


def test_commands_end_as_before(capsys):
    assert main(["--version"]) == 0
    assert main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.split("\n", 1)[1])
    assert main(["list", "--nonsense"]) == 2
    assert "--nonsense" in capsys.readouterr().err
    assert main(["eval", "--help"]) == 0
