"""Settings of `train` for a model that is given: its form, revision, code and text."""

from __future__ import annotations

import io
import json
import shutil

import pytest
import torch
from field_runs import BASE, CHAT, GIVEN_MODEL, Run, parsed
from rich.console import Console

from metarlgym import ConfigError
from metarlgym.models.loading import load_model
from metarlgym.training import run as running


def test_the_form_of_a_given_model(start, models):
    settings = {**CHAT, "model_name_or_path": str(models / "chat")}
    plain = start(**settings)
    assert plain.trainer.model.dtype == torch.float32
    assert not (plain.folder / "start").exists()  # where a model made from scratch is kept
    assert start(**settings, attn_implementation="eager").trainer.model.config._attn_implementation == "eager"
    half = start(**settings, dtype="bfloat16")
    assert half.trainer.model.dtype == half.trainer.model.lm_head.weight.dtype == torch.bfloat16
    mixed = start(**settings, dtype="bfloat16", cast_lm_head_to_fp32=True)
    assert mixed.trainer.model.lm_head.weight.dtype == torch.float32
    assert (mixed.weights - half.weights).abs().max() > 0
    lora = start(**settings, dtype="bfloat16", use_peft=True)
    assert load_model(str(lora.folder / "final")).dtype == torch.bfloat16  # the base model was loaded in it again


def test_dropout_can_be_switched_off(start, models):
    settings = {**CHAT, "model_name_or_path": str(models / "dropout"), "max_steps": 1}
    on, off = (start(**settings, disable_dropout=value) for value in (False, True))
    assert [run.trainer.model.transformer.drop.p for run in (on, off)] == [0.1, 0]
    assert (on.weights - off.weights).abs().max() > 1e-5


def test_how_text_is_rendered(start, models):
    settings = {**CHAT, "model_name_or_path": str(models / "thinking"), "max_steps": 1}
    shutil.copytree(models / "chat", models / "thinking")
    path = models / "thinking" / "chat_template.jinja"
    path.write_text("{% if thinking %}Think.{% endif %}" + path.read_text())
    plain = start(**settings, renderer="plain").weights
    chat, thinking = start(**settings).weights, start(**settings, chat_template_kwargs={"thinking": True}).weights
    assert min((plain - chat).abs().max(), (chat - thinking).abs().max()) > 1e-5


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"model_revision": "v2"}, "model_revision='v2' with model_name_or_path='MODEL': a folder has no revisions"),
        ({"attn_implementation": "nonsense"}, "attn_implementation='nonsense' cannot be used with 'MODEL'"),
        ({"attn_implementation": "flash_attention_2"}, "attn_implementation='flash_attention_2' cannot be used"),
    ],
)
@pytest.mark.parametrize("dry", [False, True])
def test_a_model_that_cannot_be_had_as_asked_for(settings, told, dry, models, tmp_path):
    name = str(models / "chat")
    given = {k: v for k, v in BASE.items() if k not in GIVEN_MODEL}
    out = tmp_path / "out"
    parts = parsed(tmp_path, **given, **settings, model_name_or_path=name, output_dir=str(out))
    with pytest.raises(ConfigError) as caught:
        running.run_training(parts, Console(file=io.StringIO()), dry_run=dry)
    assert told.replace("MODEL", name) in str(caught.value) and "\n" not in str(caught.value)
    assert not out.exists()


def test_settings_of_a_template_need_a_template(models, tmp_path):
    shutil.copytree(models / "chat", tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    given = {k: v for k, v in BASE.items() if k not in GIVEN_MODEL}
    parts = parsed(tmp_path, **given, model_name_or_path=str(tmp_path / "bare"), chat_template_kwargs={"a": 1})
    with pytest.raises(ConfigError, match="has no chat template; leave it out"):
        running.run_training(parts, Console(file=io.StringIO()), dry_run=True)


def hub(folder, models, patch):
    """A hub's cache with a model of two revisions, and no network: their weights differ in one number."""
    import huggingface_hub.constants

    repo = folder / "models--org--tiny"
    (repo / "refs").mkdir(parents=True)
    for name, commit in (("main", "a" * 40), ("v2", "b" * 40)):
        (repo / "refs" / name).write_text(commit)
        shutil.copytree(models / "chat", repo / "snapshots" / commit)
    model = load_model(str(models / "chat"))
    with torch.no_grad():
        model.lm_head.weight += 1
    model.save_pretrained(repo / "snapshots" / ("b" * 40))
    patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))


def test_a_revision_holds_for_config_tokenizer_weights_and_reference(models, tmp_path, monkeypatch):
    hub(tmp_path / "hub", models, monkeypatch)
    settings = {**CHAT, "model_name_or_path": "org/tiny", "beta": 0.1, "learning_rate": 0.0}
    first, second = (Run(tmp_path / name, {**settings, "model_revision": name}) for name in ("main", "v2"))
    assert second.weights.sub(first.weights).abs().max() == pytest.approx(1, abs=1e-4)
    for run in (first, second):  # an untrained policy is its reference
        assert all(abs(value) < 1e-6 for value in run.lines("kl").values())
        assert torch.equal(run.trainer.model.lm_head.weight, run.trainer.ref_model.lm_head.weight)
    merged = Run(tmp_path / "lora", {**settings, "beta": None, "use_peft": True, "model_revision": "v2"})
    assert torch.equal(merged.weights, second.weights)
    with pytest.raises(ConfigError, match=r"model_name_or_path='org/tiny' has no configuration that loads"):
        Run(tmp_path / "gone", {**settings, "model_revision": "no-such-branch"})
    assert not (tmp_path / "gone" / "out").exists()


OWN_CODE = """
from transformers import Qwen3Config, Qwen3ForCausalLM


class TinyConfig(Qwen3Config):
    model_type = "metarlgym_test_tiny"


class TinyForCausalLM(Qwen3ForCausalLM):
    config_class = TinyConfig
"""


def test_code_of_a_model_is_run_only_when_trusted(start, models, tmp_path):
    folder = tmp_path / "own"
    shutil.copytree(models / "chat", folder)
    (folder / "tiny.py").write_text(OWN_CODE)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "metarlgym_test_tiny"}
    config |= {"auto_map": {"AutoConfig": "tiny.TinyConfig", "AutoModelForCausalLM": "tiny.TinyForCausalLM"}}
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["TinyForCausalLM"]}))
    settings = {**CHAT, "model_name_or_path": str(folder)}
    run = Run(tmp_path / "trusted", {**settings, "trust_remote_code": True})
    assert type(run.trainer.model).__name__ == "TinyForCausalLM"
    with pytest.raises(ConfigError, match="custom code which must be executed"):
        Run(tmp_path / "untrusted", settings)
