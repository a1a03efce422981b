"""Chat templates of a run: given ones, the date they print, and the end tokens of the model's own configuration."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import trl
import yaml
from field_runs import BASE, CHAT, GIVEN_MODEL, Run, parsed
from rich.console import Console

from metarlgym import ConfigError
from metarlgym.cli.run_settings import RunSettings
from metarlgym.datatypes import Message
from metarlgym.models.chat_templates import use_chat_template
from metarlgym.models.loading import load_tokenizer
from metarlgym.models.scratch import CHAT_TEMPLATE, chat_tokenizer
from metarlgym.rollout.play_settings import PlaySettings
from metarlgym.train import main
from metarlgym.training import run as running
from metarlgym.training import run_date

SHOUTS = "Be brief.{# a run's own template #}" + CHAT_TEMPLATE
TELLS_DATE = "{{ strftime_now('%Y-%m-%d') }}" + CHAT_TEMPLATE
TONE = "{{ tone }}" + CHAT_TEMPLATE
TRL = Path(trl.__file__).parent / "chat_templates"


@pytest.fixture
def model(models, tmp_path):
    """Makes a copy of the chat model with another template, or with other end tokens."""

    def make(template=CHAT_TEMPLATE, generation=None):
        folder = tmp_path / "model"
        shutil.copytree(models / "chat", folder)
        (folder / "chat_template.jinja").write_text(template)
        if generation is not None:
            (folder / "generation_config.json").write_text(json.dumps(generation))
        return {**CHAT, "model_name_or_path": str(folder), "max_steps": 1}

    return make


def on(day, monkeypatch):
    monkeypatch.setattr(run_date, "today", lambda: day)


def settings_of(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


def test_a_run_uses_the_given_template_and_saves_it(model, tmp_path):
    file = tmp_path / "shouts.jinja"
    file.write_text(SHOUTS)
    given = model()
    plain, shouting = Run(tmp_path / "plain", given), Run(tmp_path / "own", {**given, "chat_template": str(file)})
    assert (plain.weights - shouting.weights).abs().max() > 1e-5
    assert load_tokenizer(str(shouting.folder / "final")).chat_template == SHOUTS
    assert settings_of(shouting.folder)["chat_template"] == str(file)
    # Its evaluation needs the file no longer.
    file.unlink()
    assert RunSettings(str(shouting.folder / "final"), None).merged({}).get("chat_template") is None


def test_trls_training_template(model, tmp_path):
    given = model((TRL / "qwen2_5.jinja").read_text())
    run = Run(tmp_path / "run", {**given, "chat_template": "trl"})
    assert load_tokenizer(str(run.folder / "final")).chat_template == (TRL / "qwen2_5_training.jinja").read_text()


def test_a_template_that_is_not_to_be_had(tmp_path):
    tokenizer = chat_tokenizer()
    (tmp_path / "empty").touch()
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xff")
    for value, told in (
        (str(tmp_path / "none"), "none': no such file. Give the path of a Jinja template, or 'trl'"),
        (str(tmp_path), "cannot be read (Is a directory)"),
        (str(tmp_path / "empty"), "is empty"),
        (str(tmp_path / "bytes"), "is not UTF-8 text"),
        ("trl", "TRL has no training template for the chat template of '...', which it knows by its exact text"),
        ("trl", f"qwen3_training.jinja, qwen3_vl_training.jinja, smolvlm_training.jinja in {TRL}"),
    ):
        with pytest.raises(ConfigError) as refusal:
            use_chat_template(tokenizer, value)
        text = str(refusal.value).replace(repr(tokenizer.name_or_path), "'...'")
        assert text.startswith(f"chat_template={value!r}") and told in text and "\n" not in text
    assert tokenizer.chat_template == CHAT_TEMPLATE
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match=r"chat_template='trl': .* has no chat template of its own"):
        use_chat_template(tokenizer, "trl")


def test_a_broken_template_is_one_line_in_a_dry_run(model, tmp_path):
    (tmp_path / "broken.jinja").write_text("{% for %}")
    given = {k: v for k, v in BASE.items() if k not in GIVEN_MODEL}
    parts = parsed(tmp_path, **{**given, **model(), "chat_template": str(tmp_path / "broken.jinja")})
    with pytest.raises(ConfigError, match="fails: TemplateSyntaxError") as refusal:
        running.run_training(parts, Console(file=io.StringIO()), dry_run=True)
    assert "\n" not in str(refusal.value)


def test_the_date_of_a_run_is_recorded_and_stays(model, tmp_path, monkeypatch):
    given = model(TELLS_DATE)
    on("30 Dec 2029", monkeypatch)
    run = Run(tmp_path / "run", given)
    assert settings_of(run.folder)["chat_template_kwargs"] == {"date_string": "30 Dec 2029"}
    renderer = run.trainer.renderer
    assert renderer.tokenizer.decode(renderer.prompt([Message("user", "Which?")])).startswith("2029-12-30")


def test_resuming_on_another_day_changes_nothing(model, tmp_path, monkeypatch):
    given = {k: v for k, v in BASE.items() if k not in GIVEN_MODEL}
    given |= {**model(TELLS_DATE), "max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    weights = []
    for name, days in (("whole", ["30 Dec 2029"]), ("resumed", ["30 Dec 2029", "02 Jan 2030"])):
        out = tmp_path / name
        for number, day in enumerate(days):
            on(day, monkeypatch)
            if number:
                for path in ("checkpoint-2/COMPLETE", "final/model.safetensors"):
                    (out / path).unlink()
            parts = parsed(tmp_path, **given, output_dir=str(out), resume=bool(number))
            running.run_training(parts, Console(file=io.StringIO()))
        assert settings_of(out)["chat_template_kwargs"] == {"date_string": "30 Dec 2029"}
        weights.append((out / "final" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    # Its evaluation tells that date too, whatever else the template is given.
    held = RunSettings(str(tmp_path / "resumed" / "final"), None)
    assert held.merged({})["chat_template_kwargs"] == {"date_string": "30 Dec 2029"}
    both = held.merged({"chat_template_kwargs": {"tone": 1}})["chat_template_kwargs"]
    assert both == {"date_string": "30 Dec 2029", "tone": 1}
    # But no template that tells none, and no plain renderer, is given it.
    (tmp_path / "undated.jinja").write_text(TONE)
    (tmp_path / "dated.jinja").write_text(TELLS_DATE)
    for given_instead, arguments in (
        ({"chat_template": str(tmp_path / "undated.jinja")}, {}),
        ({"chat_template": str(tmp_path / "undated.jinja"), "chat_template_kwargs": {"tone": 1}}, {"tone": 1}),
        ({"chat_template": str(tmp_path / "dated.jinja")}, {"date_string": "30 Dec 2029"}),
        ({"renderer": "plain"}, None),
    ):
        assert held.merged(given_instead).get("chat_template_kwargs") == arguments
    # A changed template is noticed.
    (Path(given["model_name_or_path"]) / "chat_template.jinja").write_text("Be brief." + TELLS_DATE)
    parts = parsed(tmp_path, **given, output_dir=str(out), resume=True)
    with pytest.raises(ConfigError, match=r"the chat template is not the one that the run in .* --resume needs the"):
        running.run_training(parts, Console(file=io.StringIO()))


def test_a_template_without_a_date_gets_none(model, tmp_path):
    run = Run(tmp_path / "run", {**model(TONE), "chat_template_kwargs": {"tone": 1}})
    assert settings_of(run.folder)["chat_template_kwargs"] == {"tone": 1}


def test_template_arguments_written_as_json_are_read_back(model, tmp_path):
    given = {k: v for k, v in BASE.items() if k not in GIVEN_MODEL}
    out = tmp_path / "out"
    line = ["--chat_template_kwargs", '{"tone": 1}']
    parts = parsed(tmp_path, *line, **{**given, **model(TONE), "output_dir": str(out)})
    running.run_training(parts, Console(file=io.StringIO()))
    merged = RunSettings(str(out / "final"), None).merged({})
    assert PlaySettings.of(merged).chat_template_kwargs == {"tone": 1}


def test_actions_end_with_the_models_own_end_tokens(model, tmp_path):
    turn, end = chat_tokenizer().convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    word = chat_tokenizer().encode("a", add_special_tokens=False)[0]
    run = Run(tmp_path / "run", model(generation={"eos_token_id": [turn, word]}))
    assert run.trainer.renderer.end_ids == {end, turn}
    assert {end, turn} <= set(run.trainer.eos_token_ids)  # those that TRL does not count as truncated
    saved = json.loads((run.folder / "final" / "generation_config.json").read_text())
    assert {end, turn} <= set(saved["eos_token_id"])


def test_eval_takes_templates_and_their_arguments(model, tmp_path, capsys):
    from metarlgym.cli.main import main as cli

    path = model(CHAT_TEMPLATE)["model_name_or_path"]
    common = [
        "eval",
        "--model",
        path,
        "--env",
        "Doors-v0",
        "--trials",
        "2",
        "--no-controls",
        "--max-action-tokens",
        "2",
    ]
    (tmp_path / "asks.jinja").write_text("{{ raise_exception('no tone') if not tone }}" + CHAT_TEMPLATE)
    file = ["--chat-template", str(tmp_path / "asks.jinja")]
    assert cli([*common, *file]) == 2
    assert "fails: TemplateError: no tone" in capsys.readouterr().err
    assert cli([*common, *file, "--chat-template-kwargs", '{"tone": 1}']) == 0
    for words, told in (
        (["--chat-template-kwargs", "tone"], "chat-template-kwargs='tone' is not JSON"),
        ([*file, "--renderer", "plain"], "chat_template='"),
        (["--chat-template-kwargs", '{"a": 1}', "--renderer", "plain"], "renderer='plain' has no chat template"),
    ):
        assert cli([*common, *words]) == 2
        assert told in capsys.readouterr().err
    assert cli(["eval", "--policy", "random", "--env", "Doors-v0", *file]) == 2
    assert "chat_template=" in capsys.readouterr().err


def test_arguments_that_do_nothing_are_refused_by_train_and_eval(model, tmp_path, capsys):
    from metarlgym.cli.main import main as cli

    path = model("{% if thinking %}Think.{% endif %}" + CHAT_TEMPLATE)["model_name_or_path"]
    given = {k: v for k, v in BASE.items() if k not in GIVEN_MODEL}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({**given, **CHAT, "model_name_or_path": path, "output_dir": str(tmp_path / "o")}))
    for value, told in (
        ('{"thinkin": false}', "thinkin=False would have no effect: the chat template of '...' does not read it. Did"),
        ('{"thinking": "false"}', "thinking='false' must be true or false, and the chat template takes it for true"),
        ('{"tokenize": true}', "tokenize=True is set by MetaRLGym when it renders a trial: leave it out."),
    ):
        assert main(["--config", str(config), "--dry-run", "--chat_template_kwargs", value]) == 2
        train = capsys.readouterr().err
        line = ["eval", "--model", path, "--env", "Doors-v0", "--trials", "2", "--chat-template-kwargs", value]
        assert cli(line) == 2
        for text in (train, capsys.readouterr().err):
            assert f"chat_template_kwargs: {told}" in text.replace(repr(path), "'...'")


def test_a_dry_run_shows_the_date_and_the_template(model, tmp_path, capsys, monkeypatch):
    on("30 Dec 2029", monkeypatch)
    given = {k: v for k, v in BASE.items() if k not in GIVEN_MODEL}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**given, **model(TELLS_DATE), "output_dir": str(tmp_path / "out")}))
    assert main(["--config", str(path), "--dry-run"]) == 0
    assert "date_string: 30 Dec 2029" in capsys.readouterr().out
