"""Random values for random settings end in settings or in one ConfigError of one line, and touch nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import yaml
from base_runs import PRETRAIN, TRAIN
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_settings import command_line, settings_of

from metarlgym import ConfigError
from metarlgym.pretraining import run as pretraining
from metarlgym.selflearning import run as selflearning
from metarlgym.training import arguments
from metarlgym.training.resolve import resolve


def train(parts):
    resolve(arguments.parse(parts))


def pretrain(parts):
    config = pretraining.parse(parts).config
    config.make_words(config.make_source())


def selflearn(parts):
    found = selflearning.parse(parts)
    selflearning.find_experiment(found.run.experiment).variants(found.config)


def experiment(name):
    groups = (selflearning.SelfLearnRun, selflearning.find_experiment(name).Config)
    return selflearn, settings_of(groups, {"experiment": name}, ("experiment",))


COMMANDS = {
    "train": (train, settings_of(arguments.GROUPS, TRAIN), 250),
    "pretrain": (pretrain, settings_of(pretraining.GROUPS, PRETRAIN), 300),
    **{name: (*experiment(name), 100) for name in selflearning.EXPERIMENTS},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An empty working folder, and a file beside it for the settings."""
    folder = tmp_path_factory.mktemp("work") / "empty"
    folder.mkdir()
    return folder


def outcome(command, parts, place):
    """What a command line comes to; whatever it changes in the process is put back."""
    before, here = dict(os.environ), Path.cwd()
    os.chdir(place)
    try:
        command([*parts, "--output_dir", "run"] if "--output_dir" not in parts else parts)
        return "settings"
    except ConfigError as error:
        return str(error)
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ.update(before)
        torch.set_num_threads(1)


@pytest.mark.parametrize("way", ["file", "command line"])
@pytest.mark.parametrize("name", COMMANDS)
def test_settings_or_one_line(name, way, place):
    command, drawn, examples = COMMANDS[name]
    ended = {"settings": 0, "refused": 0}

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(content=drawn, style=st.sampled_from([None, False, True]))
    def check(content, style):
        if way == "file":
            file = place.parent / "config.yaml"
            file.write_text(yaml.safe_dump(content, default_flow_style=style, allow_unicode=True), encoding="utf-8")
            parts = ["--config", str(file)]
        else:
            parts = command_line(content)
        found = outcome(command, parts, place)
        assert "\n" not in found and len(found) < 2000, found
        assert list(place.iterdir()) == []
        ended["settings" if found == "settings" else "refused"] += 1

    check()
    assert min(ended.values()) > examples // 25, ended  # neither all refused nor all let through
