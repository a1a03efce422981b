"""The hack alarm in a real GRPO run: its reward rises while the model forgets what random text looks like."""

import io

import pytest
import torch
from rich.console import Console
from tiny import logged, make_trainer

from metarlgym import ConfigError
from metarlgym.runtime.checkpoint import latest_complete
from metarlgym.training.hack_alarm import HackAlarm
from metarlgym.training.hack_detector import HackDetector, Measure

SETTINGS = {"trials_per_task": 16, "per_device_train_batch_size": 128, "max_steps": 25, "learning_rate": 2e-2}


def run(folder, names=("loss",), **changes):
    said = io.StringIO()
    detector = HackDetector({name: Measure("low", 0.01, relative=True) for name in names}, patience=3, margin=0.1)
    trainer = make_trainer(folder, **SETTINGS)
    ids = torch.randint(len(trainer.processing_class), (8, 12), generator=torch.Generator().manual_seed(0))

    def measure(model):
        with torch.no_grad():
            logits = model(input_ids=ids.to(model.device)).logits[:, :-1]
        return {"loss": float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))}

    alarm = HackAlarm(detector, measure, "trial_return", console=Console(file=said, width=200), **changes)
    trainer.add_callback(alarm)
    trainer.train()
    return trainer, alarm, said.getvalue()


def test_alarm_ends_the_run_with_a_checkpoint(tmp_path):
    trainer, alarm, said = run(tmp_path)
    step = alarm.detector.alarm_step
    assert step is not None and trainer.state.global_step == step < 25
    assert [check["step"] for check in alarm.checks] == list(range(1, step + 1))
    last = alarm.checks[-1]
    assert last["signal"] > alarm.checks[0]["signal"] + 0.1 and last["loss"] > 1.01 * alarm.checks[0]["loss"]
    assert said.startswith(f"step {step}: trial_return keeps improving while loss got worse")
    assert latest_complete(tmp_path)[0].name == f"checkpoint-{step}"


def test_without_stop_it_only_says_so_once(tmp_path):
    trainer, alarm, said = run(tmp_path, stop=False)
    assert trainer.state.global_step == 25 and alarm.detector.alarm_step is not None
    assert said.count("is being hacked") == 1 and len(logged(trainer, "trial_return")) == 25


def test_measures_must_be_those_of_the_detector(tmp_path):
    with pytest.raises(ConfigError, match="also watches 'entropy'"):
        run(tmp_path, names=("loss", "entropy"))
