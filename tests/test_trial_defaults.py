"""Environment ids with settings of trials of their own."""

from __future__ import annotations

import gymnasium
import pytest
from typer.testing import CliRunner

import metarlgym
from metarlgym import ConfigError, registry
from metarlgym.cli.main import app
from metarlgym.envs.doors import Doors
from metarlgym.rollout.play_settings import PlaySettings
from metarlgym.training.arguments import parse

BUDGET = {"episodes": 4, "max_total_turns": 3, "stop_on_success": True}


@pytest.fixture
def budget_doors():
    name = "BudgetDoors-v0"
    metarlgym.register(name, Doors, kwargs={"doors": 5, "style": "terse"}, trial=BUDGET, summary="A test.")
    yield name
    del registry._REGISTRY[name]
    for each in ("metarlgym/BudgetDoors-v0", "metarlgym/BudgetDoors-Trial-v0"):
        del gymnasium.registry[each]


def test_settings_that_trials_do_not_have_are_refused():
    with pytest.raises(ConfigError, match=r"trials have no setting 'turns': use episodes, free_shots, memory"):
        metarlgym.register("Wrong-v0", Doors, trial={"turns": 3})
    assert "Wrong-v0" not in registry._REGISTRY


def test_make_and_gymnasium_take_them_over(budget_doors):
    for trial in (gymnasium.make("metarlgym/BudgetDoors-Trial-v0").unwrapped, metarlgym.make(budget_doors, episodes=4)):
        assert (trial.episodes, trial.max_total_turns, trial.stop_on_success) == (4, 3, True)
    asked = metarlgym.make(budget_doors, episodes=2, max_total_turns=9, stop_on_success=False)
    assert (asked.episodes, asked.max_total_turns, asked.stop_on_success) == (2, 9, False)
    assert isinstance(metarlgym.make(budget_doors), Doors), "without episodes it is no trial"


def test_play_settings_take_them_over(budget_doors):
    settings = PlaySettings.of({"env_id": budget_doors, "episodes": 2})
    assert (settings.trial.episodes, settings.trial.max_total_turns, settings.trial.free_shots) == (2, 3, 0)
    assert PlaySettings.of({"env_id": "Doors-v0"}).trial.episodes == 3


def test_train_takes_them_over_and_saves_them(budget_doors):
    settings = parse(["--env_id", budget_doors, "--max_steps", "1", "--episodes", "3"])
    assert (settings.grpo.episodes, settings.grpo.max_total_turns, settings.grpo.stop_on_success) == (3, 3, True)
    assert settings.own == {"max_total_turns": 3, "stop_on_success": True}
    assert settings.resolved()["max_total_turns"] == 3
    assert parse(["--env_id", "Doors-v0", "--max_steps", "1"]).own == {}


def test_play_and_eval_say_so(budget_doors):
    for command in (["play", budget_doors, "--policy", "random", "--seed", "0"], ["eval", "-e", budget_doors]):
        more = ["--policy", "random", "-n", "8", "--no-controls"] if command[0] == "eval" else []
        done = CliRunner().invoke(app, [*command, *more])
        assert done.exit_code == 0, done.output
        assert f"trials of {budget_doors}: episodes 4, max_total_turns 3, stop_on_success True" in done.output
        assert "optimum" not in done.output, "it is not known under a budget of turns"
    done = CliRunner().invoke(app, ["eval", "-e", budget_doors, "--policy", "random", "-n", "8", "-H", "2"])
    assert "trials of BudgetDoors-v0: max_total_turns 3, stop_on_success True" in done.output
