"""Settings from a file and the command line: what resolves, and one-line errors for what does not."""

from __future__ import annotations

import pytest
import yaml

from metarlgym import ConfigError
from metarlgym.settings.flat import find_config, known_fields
from metarlgym.training.arguments import GROUPS, parse

DOORS = ["--env_id", "Doors-v0", "--max_steps", "5"]


def write(path, **content):
    path.write_text(yaml.safe_dump(content))
    return ["--config", str(path)]


# ---------------------------------------------------------------------- what resolves


@pytest.mark.parametrize("name", ["quickstart", "quickstart.yaml", "configs/quickstart.yaml"])
def test_the_quickstart_resolves_by_name(name):
    settings = parse(["--config", name])
    assert settings.run.env_id == "Doors-v0"
    assert settings.run.env_args["doors"] == 4
    assert settings.grpo.output_dir == "runs/quickstart"


def test_every_shipped_config_resolves():
    for path in sorted(find_config("quickstart").parent.glob("*.yaml")):
        if "env_id" in yaml.safe_load(path.read_text()):
            assert parse(["--config", str(path)]).run.env_id


def test_the_command_line_wins_over_the_file(tmp_path):
    file = write(tmp_path / "a.yaml", env_id="Doors-v0", max_steps=7, episodes=2)
    settings = parse([*file, "--max_steps", "9", "--output_dir", "elsewhere"])
    assert (settings.grpo.max_steps, settings.grpo.episodes) == (9, 2)
    assert settings.grpo.output_dir == "elsewhere"


@pytest.mark.parametrize("arguments", [["--max-steps", "9"], ["--max_steps=9"], ["--max-steps=9"]])
def test_ways_to_write_an_option(arguments):
    assert parse([*DOORS, *arguments]).grpo.max_steps == 9


def test_env_args_from_the_command_line_are_json():
    assert parse([*DOORS, "--env_args", '{"doors": 6}']).run.env_args == {"doors": 6}


def test_without_a_file_the_folder_is_runs_run():
    assert parse(DOORS).grpo.output_dir == "runs/run"


def test_the_resolved_settings_start_the_same_run_again(tmp_path):
    first = parse(["--config", "quickstart", "--max_steps", "11", "--credit", "gigpo", "--gamma_step", "0.9"])
    again = parse(write(tmp_path / "again.yaml", **first.resolved()))
    # `given` differs, everything that acts does not
    assert again.resolved() == first.resolved()
    assert (again.grpo.max_steps, again.grpo.credit, again.grpo.gamma_step) == (11, "gigpo", 0.9)


@pytest.mark.parametrize("flag", ["resume", "overwrite"])
def test_what_is_said_of_one_start_is_not_written_down(flag):
    settings = parse([*DOORS, f"--{flag}", "True"])
    assert getattr(settings.run, flag) is True
    assert flag not in settings.resolved()


def test_known_fields_are_ours_and_trls():
    assert {"env_id", "episodes", "scratch_layers", "model_name_or_path", "learning_rate"} <= set(known_fields(GROUPS))


# ---------------------------------------------------------------------- what does not

WRONG = [
    (["--epissodes", "3"], "'epissodes' in the command line is not a setting: did you mean episodes"),
    (["--episodes", "three"], "episodes"),
    (["--episodes", "0"], "episodes=0 must be at least 1"),
    (["--env_args", "{doors: 4}"], "env_args=.* is not valid JSON"),
    (["--env_args", "[4]"], "env_args=.* is not a JSON object"),
    (["--renderer", "html"], "renderer='html' is not known: use one of auto, chat, plain"),
    (["--scratch_tokenizer", "char"], "scratch_tokenizer='char' is not known"),
    (["--scratch_heads", "3"], "scratch_heads=3 must divide scratch_hidden_size=32"),
    (["--scratch_heads", "32"], "heads of even width"),
    (["--config"], "--config needs a file"),
    (["--config", "nowhere"], "config='nowhere': no such file.*quickstart"),
    (["stray"], "stray"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(a) for a, _ in WRONG])
def test_refused_on_the_command_line(arguments, message, capsys):
    with pytest.raises(ConfigError, match=message):
        parse([*DOORS, *arguments])
    assert capsys.readouterr().err == ""  # no usage text of argparse's


def test_a_missing_env_id_is_named():
    with pytest.raises(ConfigError, match="env_id is missing"):
        parse(["--max_steps", "3"])


def test_unknown_names_in_a_file_get_the_nearest(tmp_path):
    with pytest.raises(
        ConfigError, match=r"'trials_per_tasks' in .*a\.yaml is not a setting: did you mean trials_per_task"
    ):
        parse(write(tmp_path / "a.yaml", env_id="Doors-v0", trials_per_tasks=3))


def test_a_file_that_holds_no_settings_is_refused(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="must hold `name: value` lines"):
        parse(["--config", str(path)])


def test_broken_yaml_is_one_line_that_names_the_file(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("env_id: [Doors-v0\nepisodes: 3\n")
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        parse(["--config", str(path)])


@pytest.mark.parametrize("content", [{"episodes": "three"}, {"learning_rate": "fast"}])
def test_values_of_a_wrong_type_in_a_file_are_refused(tmp_path, content):
    with pytest.raises(ConfigError, match=next(iter(content))):
        parse(write(tmp_path / "a.yaml", env_id="Doors-v0", **content))


def test_old_names_are_read_with_a_warning(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text("env_id: Doors-v0\nmax_steps: 3\nwarmup_trials: 64\n")
    with pytest.warns(UserWarning, match="warmup_trials is called imitation_trials now"):
        settings = parse(["--config", str(path)])
    assert settings.scratch.imitation_trials == 64 and "warmup_trials" not in settings.resolved()
    with pytest.warns(UserWarning, match="--warmup_max_steps is called --imitation_max_steps now"):
        settings = parse(["--config", str(path), "--warmup_max_steps", "7", "--imitation_batch_size=9"])
    assert (settings.scratch.imitation_max_steps, settings.scratch.imitation_batch_size) == (7, 9)
    path.write_text("env_id: Doors-v0\nmax_steps: 3\nwarmup_trials: 64\nimitation_trials: 64\n")
    with pytest.raises(ConfigError, match="warmup_trials is the old name of imitation_trials, and both are given"):
        parse(["--config", str(path)])
    with pytest.raises(ConfigError, match="--warmup_trials is the old name of --imitation_trials, and both are given"):
        parse([*DOORS, "--warmup_trials", "5", "--imitation_trials=7"])
