"""Stopping a run from outside: a checkpoint, status 75, and a resume that ends as if nothing had been."""

import os
import signal

import pytest

from metarlgym.rollout.protocol import PolicyLost
from metarlgym.runtime.checkpoint import COMPLETE
from metarlgym.runtime.interrupt import PREEMPTED
from metarlgym.train import main
from metarlgym.training.rollouts import Rollouts
from tests.training.test_run import SMALL

CHANGES = {"save_strategy": "no", "final_eval_trials": "0", "imitation_trials": "0"}
KEPT = {name: value for name, value in SMALL.items() if name not in ("save_steps", "imitation_max_steps")}
SETTINGS = [word for name, value in {**KEPT, **CHANGES}.items() for word in (f"--{name}", value)]


@pytest.mark.parametrize("how", ["file", "signal"])
def test_a_run_that_is_asked_to_stop(how, tmp_path, capsys, monkeypatch):
    from metarlgym.runtime import metrics_file

    folder = tmp_path / "run"
    inner = metrics_file.MetricsFile.on_log

    def log(self, args, state, control, logs=None, **rest):
        inner(self, args, state, control, logs, **rest)
        if state.global_step == 2:
            if how == "file":
                (folder / "STOP").touch()
            else:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(metrics_file.MetricsFile, "on_log", log)
    before = signal.getsignal(signal.SIGTERM)
    assert main([*SETTINGS, "--output_dir", str(folder)]) == PREEMPTED
    assert "stopped after step 3 as asked; resume with --resume" in " ".join(capsys.readouterr().err.split())
    assert (folder / "checkpoint-3" / COMPLETE).exists() and not (folder / "final").exists()
    assert (folder / "STOPPED").read_text() == "3\n" and not (folder / "STOP").exists()
    assert signal.getsignal(signal.SIGTERM) == before

    monkeypatch.undo()
    assert main([*SETTINGS, "--output_dir", str(folder), "--resume"]) == 0
    assert (folder / "final" / "model.safetensors").exists() and not (folder / "STOPPED").exists()


@pytest.mark.parametrize("signaled", [True, False])
def test_a_rollout_that_is_lost_after_sigterm(signaled, tmp_path, capsys, monkeypatch):
    """A cluster that sends SIGTERM to everything ends the servers too."""
    folder, inner = tmp_path / "run", Rollouts._specs

    def specs(self, plan):
        if plan.step == 2:
            if signaled:
                os.kill(os.getpid(), signal.SIGTERM)
            raise PolicyLost("the server is gone")
        return inner(self, plan)

    monkeypatch.setattr(Rollouts, "_specs", specs)
    status = main([*SETTINGS, "--output_dir", str(folder)])
    told = " ".join(capsys.readouterr().err.split())
    assert (folder / "checkpoint-2" / COMPLETE).exists()
    if signaled:
        assert status == PREEMPTED and (folder / "STOPPED").read_text() == "2\n"
        assert "stopped after step 2 as asked" in told
    else:
        assert status not in (0, PREEMPTED) and not (folder / "STOPPED").exists()
        assert "the server is gone" in told
