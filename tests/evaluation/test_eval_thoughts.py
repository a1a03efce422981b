"""Evaluation of a model that thinks: rates of cut thoughts in the report, and dropped thoughts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from metarlgym import ConfigError
from metarlgym.evaluation.evaluate import EvalSettings, evaluate
from metarlgym.policies.in_process import InProcessPolicy
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.play_settings import PlaySettings
from metarlgym.trial import TrialSettings
from tests.thinkers import DOORS, GUESS, thinking_parts
from tests.tiny import word_parts


def report(thoughts=3, keep="all", group=GUESS, parts=None, kept=None, trials=16):
    model, _, renderer = parts or thinking_parts(group)
    trial = TrialSettings(episodes=3, keep_thoughts=keep)
    settings = EvalSettings(trial, trials, limits=Limits(3, thoughts), baselines=False)
    return evaluate(group, InProcessPolicy(model, renderer), renderer, settings, keep=kept)


def test_rates_of_thoughts_are_reported():
    played = []
    found = report(kept=played)
    thoughts = sum(t.thoughts for t in played)
    assert found.thought_rate == thoughts / sum(t.turns for t in played)
    assert found.thought_cut_rate == sum(t.cut_thoughts for t in played) / thoughts
    assert found.thought_tokens == sum(t.thought_tokens for t in played) / thoughts
    written = found.to_dict()
    assert 0 < written["thought_cut_rate"] < 1 and written["thought_tokens"] <= 3
    assert any(t.cut_thoughts and not t.truncated for t in played)  # a cut thought is not a cut action or trial


def test_models_without_thoughts_have_a_report_without_them():
    written = report(parts=word_parts(DOORS), group=DOORS, thoughts=None).to_dict()
    assert not any("thought" in name for name in written)


def test_a_warning_when_most_actions_follow_a_cut_thought():
    most = report(1, parts=thinking_parts(thinks=0.9))
    assert "raise max_thought_tokens" in most.thought_warning
    assert report(100).thought_warning is None
    assert report(0).thought_warning is None  # asked for
    console = Console(width=100)
    with console.capture() as capture:
        console.print(most.table())
    assert "100% cut" in capture.get()


@pytest.mark.parametrize("keep", ["episode", "none"])
def test_the_controls_are_played_without_thoughts_too(keep):
    found = report(keep=keep, trials=8)
    assert found.errors == 0 and found.controls["no_memory"] and found.controls["shuffled"]


def test_settings_that_need_thoughts_are_refused_without_them():
    tokenizer = word_parts(DOORS)[1]
    play = PlaySettings("Doors-v0", {"style": "terse", "doors": 3}, limits=Limits(3, 5))
    with pytest.raises(
        ConfigError, match=r"max_thought_tokens=5 would have no effect: the tokenizer of 'm' has no token"
    ):
        play.make_renderer("m", tokenizer, DOORS)
    play = replace(play, limits=Limits(), trial=TrialSettings(keep_thoughts="episode"))
    with pytest.raises(ConfigError, match="keep_thoughts=episode would have no effect"):
        play.make_renderer("m", tokenizer, DOORS)
