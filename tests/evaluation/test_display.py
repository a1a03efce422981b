"""What an evaluation shows while it plays."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console
from tiny import terse, word_parts

from metarlgym.evaluation import display
from metarlgym.evaluation.choice import Choice
from metarlgym.evaluation.display import EvalDisplay
from metarlgym.evaluation.evaluate import EvalSettings, evaluate
from metarlgym.policies.in_process import InProcessPolicy
from metarlgym.policies.scripted import OraclePolicy, ScriptedPolicy
from metarlgym.runtime.memory_watch import MemoryState
from metarlgym.trial import TrialSettings

DOORS = terse("Doors-v0")


def console(terminal=False):
    return Console(file=io.StringIO(), force_terminal=terminal, width=160)


def said(screen):
    return screen.file.getvalue()


def test_plain_lines_begin_before_the_first_trial_ends(monkeypatch):
    monkeypatch.setattr(display, "FIRST_LINE", 0.02)
    monkeypatch.setattr(display, "EVERY", 0.02)
    screen = console()

    def act(trial, rng):
        time.sleep(0.03)  # the main thread is busy, as with a model
        return "safe"

    with EvalDisplay(screen, controls=True) as watch:
        settings = EvalSettings(TrialSettings(6), 4, baselines=True)
        evaluate(DOORS, ScriptedPolicy(act), None, settings, watch=watch)
    lines = said(screen).splitlines()
    assert any(re.match(r"held-out trials: 0 of 4 trials, [1-9]\d* turns", line) for line in lines)
    assert any(line.startswith("control: no memory: ") and line.endswith(" left") for line in lines)
    assert re.fullmatch(r"played 72 turns in \d+ s", lines[-1])  # three passes: random play is not the policy's
    assert "\x1b" not in said(screen)


def test_quick_evaluations_are_one_line():
    screen = console()
    model, _, renderer = word_parts(DOORS)
    with EvalDisplay(screen, controls=False) as watch:
        settings = EvalSettings(TrialSettings(2), 4, controls=False, baselines=False)
        evaluate(DOORS, InProcessPolicy(model, renderer), renderer, settings, watch=watch)
    (line,) = said(screen).splitlines()
    assert line.startswith("played 8 turns, ") and " tokens sampled (" in line and "encoded" in line


def end(watch, trials):
    for i in range(trials):
        watch.trial(watch.name, i, None)


def test_the_share_covers_all_passes():
    watch = EvalDisplay(console(), controls=True)
    assert watch.share() == 0 and watch.left() == "" and watch.line() == "preparing"
    watch.begin("main", 10)
    end(watch, 5)
    assert watch.share() == pytest.approx(5 / 30)
    watch.meter._busy = 20
    assert watch.left() == "2 min left"  # 100 s, as five sixths are left
    end(watch, 5)
    watch.begin("random", 10)
    end(watch, 3)
    assert watch.share() == pytest.approx(1 / 3)
    watch.begin("no_memory", 10)
    assert watch.share() == pytest.approx(1 / 3) and watch.done == 0
    watch.begin("shuffled", 10)
    end(watch, 5)
    assert watch.share() == pytest.approx(25 / 30)


def test_until_the_number_is_chosen_no_time_is_promised():
    screen = console()
    watch = EvalDisplay(screen, controls=False)
    watch.begin("main", 0)
    end(watch, 7)
    assert watch.left() == "" and "7 of the first 8 trials" in watch.line()
    watch.chosen(Choice(70, 2000, 240, 7200))
    assert said(screen) == "70 trials, about 4 min; --trials 2000 would take 2.0 h\n"
    watch.meter._busy = 10
    assert watch.left() == "2 min left" and "7 of 70 trials" in watch.line()


def test_on_a_terminal_there_are_bars_for_the_passes():
    screen = console(terminal=True)
    with EvalDisplay(screen, controls=True) as watch:
        evaluate(DOORS, OraclePolicy(), None, EvalSettings(TrialSettings(3), trials=8), watch=watch)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said(screen))
    for name in display.PASSES.values():
        assert name in text
    assert "8/8" in text and "72 turns" in text and watch.live is None


def test_a_warning_about_memory(monkeypatch):
    states = iter([MemoryState(100, 50, 0), *[MemoryState(100, 1, 0)] * 1000])
    monkeypatch.setattr("metarlgym.runtime.memory_watch.memory_state", lambda: next(states))
    monkeypatch.setattr(display, "FIRST_LINE", 0.01)
    screen = console()
    with EvalDisplay(screen, controls=False, lower="--concurrency"):
        time.sleep(0.2)
    assert said(screen).count("memory is nearly full") == 1 and "lower --concurrency" in said(screen)
