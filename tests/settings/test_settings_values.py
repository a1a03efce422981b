"""Values of settings: types, ranges, choices, keys that come twice, paths, and files that are not what they seem."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import yaml
from random_settings import command_line

from metarlgym import ConfigError
from metarlgym.pretraining import run as pretraining
from metarlgym.pretraining.refused_fields import REFUSED as REFUSED_IN_PRETRAIN
from metarlgym.selflearning import run as selflearning
from metarlgym.settings.flat import FOLDERS, _kinds, read_flat
from metarlgym.settings.ranges import BOUNDS, choices
from metarlgym.settings.value_types import accepts
from metarlgym.settings.yaml_file import read_yaml
from metarlgym.train import main
from metarlgym.training import arguments
from metarlgym.training.config import MetaGRPOConfig
from metarlgym.training.refused_fields import REFUSED

PARSE = {"train": arguments.parse, "pretrain": pretraining.parse, "selflearn": selflearning.parse}
BASE = {
    "train": {"env_id": "Doors-v0", "max_steps": 3},
    "pretrain": {"source": "piecewise"},
    "selflearn": {"experiment": "self_critic"},
}
GROUPS = {
    "train": arguments.GROUPS,
    "pretrain": pretraining.GROUPS,
    **{n: (selflearning.SelfLearnRun, selflearning.find_experiment(n).Config) for n in selflearning.EXPERIMENTS},
}
BOTH = {**REFUSED, **REFUSED_IN_PRETRAIN}


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return ["--config", str(path)]


def from_file(tmp_path, command="train", **content):
    return PARSE[command](write(tmp_path / "a.yaml", yaml.safe_dump({**BASE[command], **content})))


def from_text(tmp_path, text):
    return arguments.parse(write(tmp_path / "a.yaml", f"env_id: Doors-v0\nmax_steps: 3\n{text}\n"))


# ---------------------------------------------------------------------- every setting has its range or its choices


@pytest.mark.parametrize("name", GROUPS)
def test_every_number_has_a_range(name):
    numeric = {n for n, kind in _kinds(GROUPS[name]).items() if accepts(kind, int) or accepts(kind, float)}
    listed = {n for n, kind in _kinds(GROUPS[name]).items() if kind in (list[int], list[float], list[float] | None)}
    assert numeric | listed - BOTH.keys() <= BOUNDS.keys() | BOTH.keys()


def test_ranges_are_those_of_settings_that_exist():
    assert BOUNDS.keys() <= {name for groups in GROUPS.values() for name in _kinds(groups)}


@pytest.mark.parametrize("name", GROUPS)
def test_defaults_lie_in_their_ranges_and_choices(name):
    for group in GROUPS[name]:
        for item in dataclasses.fields(group):
            value = item.default
            if item.name in BOUNDS and isinstance(value, int | float) and (item.name, value) != ("max_steps", -1):
                assert BOUNDS[item.name].holds(value), item.name
            if item.name in choices(group) and isinstance(value, str):
                assert getattr(value, "value", value) in choices(group)[item.name], item.name


# ---------------------------------------------------------------------- types and ranges in a file

WRONG = [
    ("learning_rate: yes", "learning_rate=True must be a number"),
    ("learning_rate: fast", "learning_rate='fast' must be a number"),
    ("learning_rate: -1", "learning_rate=-1.0 must be at least 0"),
    ("learning_rate: .nan", "learning_rate=nan must be a finite number"),
    ("learning_rate: -.inf", "learning_rate=-inf must be a finite number"),
    ("learning_rate: 'nan'", "learning_rate='nan' must be a finite number"),
    ("learning_rate: [1.0e-3]", r"learning_rate=\[0.001\] must be a number, not a list"),
    ("learning_rate: {a: 1}", "learning_rate=.* is a mapping and must be a number"),
    ("learning_rate: 2024-01-01", "learning_rate=.* is a date and must be a number"),
    ("episodes: 2.5", r"episodes=2.5 must be a whole number\."),
    ("episodes: 2.0", "episodes=2.0 must be a whole number: write 2"),
    ("episodes: 1e1", "episodes='1e1' must be a whole number: write 10"),
    ("episodes:", "episodes=None must be a whole number; leave episodes out for its default"),
    ("episodes: true", "episodes=True must be a whole number"),
    ("episodes: 100000000000000000000", "episodes=1.* must be at most 100000"),
    ("seed: -1", "seed=-1 must be at least 0"),
    ("seed: 5000000000", "seed=5000000000 must be at most 4294967295"),
    ("per_device_train_batch_size: 0", "per_device_train_batch_size=0 must be at least 1"),
    ("max_grad_norm: -1.0", "max_grad_norm=-1.0 must be at least 0"),
    ("logging_steps: 0", "logging_steps=0 must be above 0"),
    ("save_steps: 0", "save_steps=0 must be above 0"),
    ("save_steps: -1", "save_steps=-1 must be above 0"),
    ("temperature: 0", "temperature=0.0 must be above 0"),
    ("warmup_steps: -1", "warmup_steps=-1 must be at least 0"),
    ("ddp_timeout: 0", "ddp_timeout=0 must be at least 1"),
    ("threads: 0", "threads=0 must be at least 1"),
    ("threads: -1", "threads=-1 must be at least 1"),
    ("scratch_layers: 0", "scratch_layers=0 must be at least 1"),
    ("scratch_hidden_size: 1000000000000", "scratch_hidden_size=1000000000000 must be at most 65536"),
    ("scratch_init_std: 0", "scratch_init_std=0.0 must be above 0"),
    ("sample_every: -1", "sample_every=-1 must be at least 0"),
    ("final_eval_trials: -1", "final_eval_trials=-1 must be at least 0"),
    ("adam_beta1: 1.0", "adam_beta1=1.0 must be at least 0 and below 1"),
    ("lr_scheduler_type: nonsense", "lr_scheduler_type='nonsense' is not known: use one of linear, cosine"),
    ("optim: adamw_torhc", "optim='adamw_torhc' is not known: did you mean adamw_torch"),
    ("report_to: nonsense", "report_to='nonsense' is not known: use one of none, all"),
    ("report_to: [none, nonsense]", "report_to='nonsense' is not known"),
    ("loss_type: nonsense", "loss_type='nonsense' is not known: use one of grpo"),
    ("save_strategy: no", "save_strategy=False must be text.*write it in quotes"),
    ("model_revision: 1.10", "model_revision=1.1 must be text: write it in quotes"),
    ("run_name: 2024-01-01", "run_name=.* must be text: write it in quotes"),
    ("stop_on_success: 1", "stop_on_success=1 must be true or false: write true"),
    ("stop_on_success: maybe", "stop_on_success='maybe' must be true or false"),
    ("env_args: {doors: .nan}", "env_args=.* holds nan: numbers must be finite"),
    ("env_args: {1: 2}", "env_args=.* has the key 1: keys must be text"),
    ("env_args: {doors: 2024-01-01}", "env_args=.* holds .*a date: write it in quotes"),
    ('env_args: \'{"doors": 3, "doors": 4}\'', "env_args=.* sets 'doors' twice"),
    ("env_args: &a {doors: *a}", "env_args=.* holds too many values, or contains itself"),
    ("output_dir: ''", "output_dir='' is empty"),
    ('run_name: "a\\0b"', "run_name=.* holds a character that text cannot hold"),
    ("lr_scheduler_type: cosine_with_min_lr", "lr_scheduler_type='cosine_with_min_lr': ValueError: .*min_lr"),
    ("optim: sgd\noptim_args: nonsense", "optim_args='nonsense'"),
    ("torch_empty_cache_steps: 0", "torch_empty_cache_steps=0 must be at least 1"),
    ("load_in_8bit: true\nload_in_4bit: true", "load_in_8bit=True, load_in_4bit=True: You can't use 8 bit and 4 bit"),
    ("env: 3", "env=3 must be a mapping of environment variables"),
    ("env: {A: [1]}", r"env: A=\[1\] must be text or a number"),
    ("1: 2", "1 in .* is not a setting"),
    ("no: 2", "False in .* is not a setting"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[text for text, _ in WRONG])
def test_refused_in_a_file(tmp_path, text, message):
    if text.split(":")[0] in REFUSED:
        message = text.split(":")[0]
    with pytest.raises(ConfigError, match=message) as caught:
        from_text(tmp_path, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("command", "content", "message"),
    [
        ("pretrain", {"seed": -1}, "seed=-1 must be at least 0"),
        ("pretrain", {"hidden_size": 0}, "hidden_size=0 must be at least 1"),
        ("pretrain", {"hidden_size": 8.0}, "hidden_size=8.0 must be a whole number: write 8"),
        ("pretrain", {"init_std": 0.0}, "init_std=0.0 must be above 0"),
        ("pretrain", {"max_steps": -1}, "max_steps=-1 must be at least 1"),
        ("pretrain", {"momentum": 1.0}, "momentum=1.0 must be at least 0 and below 1"),
        ("pretrain", {"positions": "alibi", "widening": 2}, "widening=2 must be 4"),
        ("selflearn", {"workers": 0}, "workers=0 must be at least 1"),
        ("selflearn", {"seeds": [0, -1]}, r"seeds=\[0, -1\] holds -1: each must be at least 0"),
        ("selflearn", {"seeds": [True]}, "seeds=.* holds True, which must be a whole number"),
        ("selflearn", {"seeds": 3}, "seeds=3 must be a list of whole numbers"),
        ("selflearn", {"lr": -1.0}, "lr=-1.0 must be above 0"),
        ("selflearn", {"heads": 3}, "heads=3 must divide hidden_size=32"),
        ("selflearn", {"V": 1000}, "n_gram=3 with V=1000: V.* must be at most 65536"),
        ("selflearn", {"experiment": "plan4"}, "experiment='plan4' is not known: use one of self_critic, gist_tokens"),
        ("selflearn", {"experiment": "gist_tokens", "layers": 1}, "layers=1 must be at least 2"),
        (
            "selflearn",
            {"experiment": "learned_loss", "fixed_rates": [0.0]},
            r"fixed_rates=\[0.0\] holds 0.0: each must be above 0",
        ),
    ],
)
def test_refused_in_the_other_commands(tmp_path, command, content, message):
    with pytest.raises(ConfigError, match=message):
        from_file(tmp_path, command, **content)


def test_numbers_may_be_text_and_whole_ones_stand_for_floats(tmp_path):
    args = from_text(tmp_path, "learning_rate: 1e-5\nmax_grad_norm: 1\nadam_beta1: 0\nwarmup_steps: 10").grpo
    assert (args.learning_rate, args.max_grad_norm, args.adam_beta1, args.warmup_steps) == (1e-5, 1.0, 0.0, 10)
    assert [type(v) for v in (args.learning_rate, args.max_grad_norm, args.warmup_steps)] == [float, float, int]


def test_one_text_stands_for_a_list_of_it(tmp_path):
    settings = from_text(tmp_path, "use_peft: true\nlora_target_modules: all-linear")
    assert settings.model.lora_target_modules == "all-linear"


@pytest.mark.parametrize("value", [True, float("nan"), "fast", -1.0])
def test_the_class_refuses_too(value):
    with pytest.raises(ConfigError, match="learning_rate"):
        MetaGRPOConfig(output_dir="unused", max_steps=3, learning_rate=value)


# ---------------------------------------------------------------------- keys that come twice, anchors, documents


def test_a_key_that_comes_twice_is_refused_with_its_lines(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.yaml' sets 'episodes' twice, in lines 3 and 5: keep one of them"):
        from_text(tmp_path, "episodes: 2\nseed: 0\nepisodes: 3")


def test_a_nested_key_that_comes_twice_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="sets 'doors' twice, in lines 4 and 6"):
        from_text(tmp_path, "env_args:\n  doors: 3\n  safe: 0.4\n  doors: 4")


def test_a_merged_key_may_be_set_as_well(tmp_path):
    path = tmp_path / "merged.yaml"
    path.write_text("base: &b {doors: 3, safe: 0.4}\none: {<<: *b, doors: 4}\ntwo: {<<: *b, doors: 5}\n")
    content = read_yaml(path)
    assert (content["one"], content["two"]) == ({"doors": 4, "safe": 0.4}, {"doors": 5, "safe": 0.4})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n---\nb: 2\n", "expected a single document"),
        ("- a\n", "must hold `name: value` lines"),
        ("just text\n", "must hold `name: value` lines"),
        ("a: [1\n", "is not valid YAML"),
        ("a: 2024-13-45\n", "holds a value that YAML cannot read: month must be in 1..12"),
        ("a: !!python/object:os.system x\n", "is not valid YAML"),
        ("a: " + "[" * 1200 + "\n", "nested too deeply|is not valid YAML"),
        ("a: " + "9" * 5000 + "\n", "holds a value that YAML cannot read"),
    ],
)
def test_files_that_hold_something_else(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_that_say_what_they_are(tmp_path, encoding):
    path = tmp_path / "a.yaml"
    path.write_bytes("env_id: Doors-v0\nmax_steps: 3\noutput_dir: héllo\n".encode(encoding))
    assert arguments.parse(["--config", str(path)]).grpo.output_dir == "héllo"


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le"])
def test_encodings_that_do_not(tmp_path, encoding):
    path = tmp_path / "a.yaml"
    path.write_bytes("run_name: héllo\n".encode(encoding))
    with pytest.raises(ConfigError, match=r"a\.yaml' is not (UTF-8 )?text"):
        read_yaml(path)


def test_an_empty_file_sets_nothing(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing\n")
    assert read_yaml(path) == {}


# ---------------------------------------------------------------------- paths and environment variables


def test_the_home_folder_is_written_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "mine.yaml", "env_id: Doors-v0\nmax_steps: 3\nmodel_name_or_path: ~/model\n")
    found = arguments.parse(["--config", "~/mine.yaml", "--output_dir", "~/out"])
    assert found.grpo.output_dir == str(tmp_path / "out")
    assert found.model.model_name_or_path == str(tmp_path / "model")
    assert found.resolved()["model_name_or_path"] == str(tmp_path / "model")


@pytest.mark.parametrize("name", ["~nobody-of-this-name/a.yaml", "a" * 5000, "a\0b", "."])
def test_config_names_that_no_file_can_have(name):
    with pytest.raises(ConfigError, match="no such file"):
        arguments.parse(["--config", name])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_config_that_may_not_be_read(tmp_path):
    parts = write(tmp_path / "a.yaml", "env_id: Doors-v0\n")
    (tmp_path / "a.yaml").chmod(0)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        arguments.parse(parts)


def test_environment_variables_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("OF_A_CONFIG", "before")
    from_text(tmp_path, "env: {OF_A_CONFIG: 7}")
    assert os.environ["OF_A_CONFIG"] == "7"


# ---------------------------------------------------------------------- the command line

LINES = [
    (["--seed", "-1"], "seed=-1 must be at least 0"),
    (["--learning_rate", "-1e-3"], "learning_rate=-0.001 must be at least 0"),
    (["--max_steps", "2.5"], r"max_steps='2.5' must be a whole number\."),
    (["--max_steps"], "argument --max_steps: expected one argument"),
    (["--max_steps", "--seed", "1"], "argument --max_steps: expected one argument"),
    (["--stop_on_success", "maybe"], "stop_on_success='maybe' must be true or false"),
    (["-h"], "'-h' does not belong to any setting: write --name value"),
    (["--", "x"], "'' in the command line is not a setting"),
    (["--no_max_steps"], "'--no_max_steps' does not belong to any setting"),
    (["--config", "quickstart", "--config", "doors_k6"], "--config is given 2 times"),
    (["--output_dir", ""], "output_dir='' is empty"),
]


@pytest.mark.parametrize(("parts", "message"), LINES, ids=[" ".join(parts) for parts, _ in LINES])
def test_refused_on_the_command_line(parts, message):
    with pytest.raises(ConfigError, match=message):
        arguments.parse(["--env_id", "Doors-v0", "--max_steps", "3", *parts])


def test_flags_and_repeated_options():
    base = ["--env_id", "Doors-v0", "--max_steps", "3"]
    assert arguments.parse([*base, "--resume"]).run.resume is True
    assert arguments.parse([*base, "--resume", "false"]).run.resume is False
    assert arguments.parse([*base, "--stop-on-success=yes"]).grpo.stop_on_success is True
    assert arguments.parse([*base, "--max_steps", "9"]).grpo.max_steps == 9  # the last one counts, as is usual
    assert arguments.parse([*base, "--use_peft", "--lora_target_modules", "a", "b"]).model.lora_target_modules == [
        "a",
        "b",
    ]
    assert (
        arguments.parse([*base, "--optim", "sgd", "--optim_args", "foreach=False"]).grpo.optim_args == "foreach=False"
    )


def test_settings_that_are_refused_may_have_their_default():
    groups, reason = (arguments.RunArguments,), {"renderer": "does nothing here: leave it out."}
    read_flat(["--env_id", "a", "--renderer", "auto"], groups, "train", refused=reason)
    for value in ("plain", "nonsense"):
        with pytest.raises(ConfigError, match=f"^renderer='{value}' does nothing here: leave it out.$"):
            read_flat(["--env_id", "a", "--renderer", value], groups, "train", refused=reason)


# ---------------------------------------------------------------------- a run without a length


def test_training_without_max_steps_is_refused_before_anything_is_done(tmp_path, capsys):
    for flags in ([], ["--dry-run"]):
        assert main(["--env_id", "Doors-v0", "--output_dir", str(tmp_path / "run"), *flags]) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("error: max_steps is missing") and printed.err.count("\n") == 1
        assert printed.out == ""
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------- what a run writes reads back

ROOT = Path(__file__).parents[2] / "configs"
SHIPPED = [(c, path) for c, place in FOLDERS.items() for path in sorted((ROOT / place).glob("*.yaml"))]
SHIPPED = [(c, path) for c, path in SHIPPED if "compute_environment" not in path.read_text()]


@pytest.mark.parametrize(("command", "path"), SHIPPED, ids=[f"{c}-{path.stem}" for c, path in SHIPPED])
def test_shipped_configs_read_back_as_the_same_run(command, path, tmp_path):
    first = PARSE[command](["--config", str(path), "--output_dir", "out"])
    again = PARSE[command](write(tmp_path / "config.yaml", yaml.safe_dump(first.resolved(), sort_keys=False)))
    assert again.resolved() == first.resolved()
    for mine, theirs in zip(_parts(again), _parts(first), strict=True):
        assert _values(mine) == _values(theirs)
    # The values of the file are those of the run.
    said = {name: value for name, value in yaml.safe_load(path.read_text()).items() if name != "experiment"}
    assert {name: first.resolved()[name] for name in said} == said


def _parts(found):
    return [part for part in vars(found).values() if dataclasses.is_dataclass(part)]


def _values(part):
    return {item.name: str(getattr(part, item.name)) for item in dataclasses.fields(part) if item.init}


AWKWARD = {
    "report_to": "none",
    "lr_scheduler_type": "cosine_with_min_lr",
    "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
    "optim": "sgd",
    "gamma": 1,
    "free_shots": 1,
    "save_strategy": "no",
    "use_peft": True,
    "lora_target_modules": ["q_proj"],
    "generation_batch_size": 16,
    "scale_rewards": "batch",
    "credit": "trial",
    "logging_steps": 0.5,
    "debug": "underflow_overflow",
    "accelerator_config": {"split_batches": False},
}


@pytest.mark.parametrize("way", ["file", "command line"])
def test_values_that_libraries_change_read_back(way, tmp_path):
    content = {**BASE["train"], **{name: value for name, value in AWKWARD.items() if name not in REFUSED}}
    first = from_file(tmp_path, **content) if way == "file" else arguments.parse(command_line(content))
    again = arguments.parse(write(tmp_path / "config.yaml", yaml.safe_dump(first.resolved(), sort_keys=False)))
    assert again.resolved() == first.resolved()
    for mine, theirs in zip(_parts(again), _parts(first), strict=True):
        values = _values(mine) | {"output_dir": ""}
        assert values == _values(theirs) | {"output_dir": ""}
