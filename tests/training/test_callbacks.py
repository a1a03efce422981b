"""What a run writes and shows while it trains."""

from __future__ import annotations

import io
import json
import time

import pytest
from rich.console import Console
from tiny import make_trainer, play, specs, terse, trial_maker, word_parts

from metarlgym.datatypes import Episode, MetaTrajectory, Task, Turn
from metarlgym.policies.scripted import RandomTokenPolicy
from metarlgym.rollout.records import decode_with
from metarlgym.runtime.metrics_file import MetricsFile
from metarlgym.training.callbacks import LiveProgress, TrialSamples, sparkline
from metarlgym.training.phases import PhaseClock

DOORS = terse("Doors-v0")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def console(terminal=False):
    return Console(file=io.StringIO(), force_terminal=terminal, width=160)


def test_metrics_are_one_json_object_a_line(tmp_path):
    trainer = make_trainer(tmp_path, DOORS, None, {"callbacks": [MetricsFile(tmp_path)]}, max_steps=3)
    trainer.train()
    written = lines(tmp_path / "metrics.jsonl")
    steps = [line for line in written if "trial_return" in line]
    assert [line["step"] for line in steps] == [1, 2, 3]
    assert {"seconds", "episode_1/return", "adaptation_slope", "zero_signal_groups", "grad_norm"} <= set(steps[0])
    assert [line["seconds"] for line in written] == sorted(line["seconds"] for line in written)


def test_trials_are_written_every_few_steps(tmp_path):
    model, _, renderer = word_parts(DOORS)
    played, _ = play(model, renderer, specs(DOORS, trial_maker(DOORS), 5))
    samples = TrialSamples(tmp_path, every=2, count=3)
    for step in range(5):
        samples(step, played)
    written = lines(tmp_path / "trials.jsonl")
    assert [line["step"] for line in written] == [0] * 3 + [2] * 3 + [4] * 3
    assert written[0]["episodes"][0]["turns"][0].keys() == {"action", "observation", "reward", "valid"}
    assert written[0]["returns"] == played[0].returns


def test_texts_that_cannot_be_encoded_do_not_keep_trials_from_being_written(tmp_path):
    turn = Turn("\ud800", "é 🎲", 0.0)
    trial = MetaTrajectory(Task("x", {"name": "\ud800", "é": "\\ud800"}), 0, [Episode("o", [turn])], 1)
    TrialSamples(tmp_path, every=1, count=1)(0, [trial])
    (written,) = lines(tmp_path / "trials.jsonl")
    assert written["task"]["params"] == {"name": "?", "é": "\\ud800"}
    answered = written["episodes"][0]["turns"][0]
    assert (answered["action"], answered["observation"]) == ("?", "é 🎲")


def test_no_trials_are_written_where_none_are_asked_for(tmp_path):
    TrialSamples(tmp_path, every=0, count=3)(0, [])
    assert not (tmp_path / "trials.jsonl").exists()


@pytest.mark.parametrize(
    ("curve", "top", "expected"),
    [([0, 0.5, 1], 1, " ▄█"), ([0, 2, 4], 4, " ▄█"), ([2.0, -1.0], 1, "█ "), ([], 1, ""), ([0.0], 0, " ")],
)
def test_sparkline(curve, top, expected):
    assert sparkline(curve, top) == expected


def test_without_a_terminal_progress_is_plain_lines(tmp_path):
    screen = console()
    progress = LiveProgress(screen, DOORS.env.optimal_returns(3))
    make_trainer(tmp_path, DOORS, None, {"callbacks": [progress]}, max_steps=2).train()
    text = screen.file.getvalue()
    assert "step 1/2" in text and "step 2/2" in text
    assert " on 2 tasks (mean optimum 1.50)" in text  # 8 rows, 4 a task
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("settings", "tasks"),
    [
        ({}, 2),
        ({"logging_steps": 2}, 4),
        ({"logging_steps": 10}, 4),  # the last step is logged
        ({"per_device_train_batch_size": 4, "max_steps": 2}, 1),
        ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}, 2),
        ({"per_device_train_batch_size": 4, "steps_per_generation": 2, "logging_steps": 2}, 2),
        ({"num_iterations": 2, "logging_steps": 4, "max_steps": 4}, 4),
        ({"memory": "none", "per_device_train_batch_size": 24}, 2),
    ],
    ids=str,
)
def test_the_line_tells_how_many_tasks_the_return_is_a_mean_of(tmp_path, settings, tasks):
    screen, played = console(), set()
    progress = LiveProgress(screen, DOORS.env.optimal_returns(3))

    def note(step, trajectories):
        played.update((step, t.task.key, i // 4) for i, t in enumerate(trajectories))

    make_trainer(
        tmp_path, DOORS, None, {"callbacks": [progress], "on_trials": note}, **{"max_steps": 2, **settings}
    ).train()
    first = screen.file.getvalue().splitlines()[0]
    assert f" on {tasks} task" in first and "mean optimum 1.50" in first
    every = settings.get("logging_steps", 1)
    assert len({entry for entry in played if entry[0] < every}) == tasks


def test_on_a_terminal_progress_is_drawn_and_put_away(tmp_path):
    screen = console(terminal=True)
    progress = LiveProgress(screen, None)
    make_trainer(tmp_path, DOORS, None, {"callbacks": [progress]}, max_steps=2).train()
    assert progress.live is None
    assert "2/2" in screen.file.getvalue()


def test_long_curves_are_shortened():
    progress = LiveProgress(console(), None)
    progress.latest = {"trial_return": 1.0, **{f"episode_{n}/return": n / 20 for n in range(1, 21)}}
    line = progress.line()
    assert "0.25 0.80" in line and "0.50" not in line
    assert len(progress.curve()) == 20


def test_samples_hold_the_rules_and_on_request_the_contexts(tmp_path):
    model, _, renderer = word_parts(DOORS)
    played, _ = play(model, renderer, specs(DOORS, trial_maker(DOORS), 2))
    TrialSamples(tmp_path, 1, 2, rules="find the prize", decode=decode_with(renderer))(0, played)
    for line, trial in zip(lines(tmp_path / "trials.jsonl"), played, strict=True):
        assert line["rules"] == "find the prize"
        (context,), (row,) = line["contexts"], trial.rows
        assert (context["ids"], context["action_mask"], context["logprobs"]) == (row.ids, row.action_mask, row.logprobs)
        assert context["text"].split() == renderer.tokenizer.convert_ids_to_tokens(row.ids)


# ---------------------------------------------------------------------- what goes on within a step


@pytest.fixture
def watched():
    """(display with a clock in a rollout, its screen)."""
    screen = console()
    progress = LiveProgress(screen, None)
    progress.clock = PhaseClock()
    return progress, screen


def test_a_long_phase_is_told_and_told_again(watched, monkeypatch):
    progress, screen = watched
    progress._place = "step 3/10"
    now = [100.0]
    monkeypatch.setattr("metarlgym.training.callbacks.time.monotonic", lambda: now[0])
    meter = progress.clock.meter
    meter.planned, meter.trials, meter.turns, meter.sampled_tokens, meter._busy = 32, 5, 40, 300, 6.0
    with progress.clock.during("rollout"):
        progress._told = now[0]
        for _ in range(26):
            progress._tell()
            now[0] += 1
    told = screen.file.getvalue().splitlines()
    assert len(told) == 2
    assert told[0] == "step 3/10  rollout, 10 s: 5 of 32 trials, 40 turns, 300 tokens sampled (50/s)"
    assert told[1].startswith("step 3/10  rollout, 20 s")


def test_short_phases_are_not_told(watched, monkeypatch):
    progress, screen = watched
    now = [100.0]
    monkeypatch.setattr("metarlgym.training.callbacks.time.monotonic", lambda: now[0])
    for _ in range(20):
        for phase in ("rollout", "weight_update"):
            with progress.clock.during(phase):
                now[0] += 4
                progress._tell()
    assert screen.file.getvalue() == ""


def test_the_line_tells_the_seconds_of_a_step(watched):
    progress, _ = watched
    progress.latest = {"trial_return": 1.0, "time/rollout": 20.06, "time/train": 35.0, "time/weight_update": 0.001}
    progress.latest["rollout/tokens_per_second"] = 161.4
    assert progress.line().endswith("rollout 20.1 s, update 35.0 s, 161 tokens/s")


def test_a_run_shows_what_goes_on_and_stops_watching(tmp_path, monkeypatch):
    monkeypatch.setattr("metarlgym.training.callbacks.LONG", 0.0)
    monkeypatch.setattr("metarlgym.training.callbacks.EVERY", 0.0)
    screen = console()
    progress = LiveProgress(screen, None)

    class Slow(RandomTokenPolicy):
        def submit(self, request, done):
            time.sleep(0.05)
            super().submit(request, done)

    own = {"callbacks": [progress], "policy": lambda model, renderer, temperature: Slow(renderer)}
    trainer = make_trainer(tmp_path, DOORS, None, own, max_steps=2)
    progress.clock = trainer.clock
    trainer.train()
    assert "step 1/2  rollout, " in screen.file.getvalue() and " of 8 trials, " in screen.file.getvalue()
    assert progress.ticker is None
