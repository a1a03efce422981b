"""What loads can be saved: broken files are named, generation configs repaired, and nothing trained is lost."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from tiny import make_trainer, terse, word_parts
from tokenizers.pre_tokenizers import PreTokenizer
from transformers import AutoModelForCausalLM, GenerationConfig

from metarlgym import ConfigError, MetaRLGymError
from metarlgym.cli.main import main
from metarlgym.models.loading import load_config, load_model, load_tokenizer
from metarlgym.models.saveable import check_saveable, saveable
from metarlgym.runtime.checkpoint import latest_complete
from metarlgym.training.arguments import parse
from metarlgym.training.final import save_final

DOORS = terse("Doors-v0")


@pytest.fixture
def folder(tmp_path):
    """A model's folder that a test may damage."""
    model, tokenizer, _ = word_parts(DOORS)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def one_line(call):
    with pytest.raises(ConfigError) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert ".." not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------- generation configs


@pytest.mark.parametrize(
    ("content", "dropped"),
    [
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, "temperature=0.6, top_p=0.9"),
        ({"temperature": 0.0}, "temperature=0.0"),
    ],
    ids=str,
)
def test_a_generation_config_that_cannot_be_saved_is_repaired(folder, tmp_path, content, dropped):
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": 1, **content}))
    with pytest.raises(ValueError):
        AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "plain")
    with pytest.warns(UserWarning, match="generation_config.json of .* could not be saved again") as caught:
        model = load_model(str(folder))
    assert "`temperature`" in str(caught[0].message)  # the reason, not only that it is invalid
    assert dropped in str(caught[0].message) and "left out of what is saved" in str(caught[0].message)
    model.save_pretrained(tmp_path / "saved")
    assert GenerationConfig.from_pretrained(tmp_path / "saved").eos_token_id == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(str(tmp_path / "saved"))


def test_a_sound_generation_config_stays(folder, tmp_path):
    content = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "eos_token_id": 1}
    (folder / "generation_config.json").write_text(json.dumps(content))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(str(folder)).save_pretrained(tmp_path / "saved")
    assert content.items() <= json.loads((tmp_path / "saved" / "generation_config.json").read_text()).items()


# ---------------------------------------------------------------------- files


def lfs(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


DAMAGE = {
    "weights lfs": ("model.safetensors", lfs, "is a Git LFS pointer, not the file itself: run `git lfs pull`"),
    "weights half": ("model.safetensors", lambda p: cut(p, p.stat().st_size // 2), " bytes of "),
    "weights header": ("model.safetensors", lambda p: cut(p, 100), "ends within its header (100 bytes)"),
    "weights empty": ("model.safetensors", lambda p: cut(p, 0), "is empty"),
    "weights html": ("model.safetensors", lambda p: p.write_bytes(b"\x02" + 7 * b"\0" + b"<h1>"), "not a safetensors"),
    "weights longer": ("model.safetensors", lambda p: p.write_bytes(p.read_bytes() + b"x"), " bytes of "),
    "config": ("config.json", lambda p: p.write_text("{"), "is not JSON in UTF-8"),
    "config list": ("config.json", lambda p: p.write_text("[]"), "holds a list, not a JSON object"),
    "config utf-16": ("config.json", lambda p: p.write_text("{}", encoding="utf-16"), "is not JSON in UTF-8"),
    "config lfs": ("config.json", lfs, "Git LFS pointer"),
    "generation config": ("generation_config.json", lambda p: p.write_text("{"), "is not JSON in UTF-8"),
    "index": ("model.safetensors.index.json", lambda p: p.write_text("{"), "is not JSON in UTF-8"),
}


@pytest.mark.parametrize(("file", "damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_broken_file_is_named_before_anything_is_loaded(folder, file, damage, message):
    damage(folder / file)
    for load in (load_config, load_model):
        line = one_line(lambda load=load: load(str(folder)))
        assert str(folder / file) in line and message in line
        assert line.startswith(f"model_name_or_path={str(folder)!r} cannot be loaded: ")


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("tokenizer.json", lfs),
        ("tokenizer.json", lambda p: cut(p, 200)),
        ("tokenizer_config.json", lambda p: p.write_text("{")),
    ],
)
def test_a_broken_tokenizer_file_is_named(folder, file, damage):
    damage(folder / file)
    assert str(folder / file) in one_line(lambda: load_tokenizer(str(folder)))


@pytest.mark.parametrize(
    "change",
    [{"model_type": "nonsense"}, {"hidden_size": "wide"}, {"num_attention_heads": 0}, {"vocab_size": 3}],
    ids=str,
)
def test_a_config_that_fits_no_model_is_one_line(folder, change):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert "cannot be loaded" in one_line(lambda: load_model(str(folder)))


def test_a_tokenizer_of_another_form_is_one_line(folder):
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "Nonsense"}}')
    assert "has no tokenizer that loads" in one_line(lambda: load_tokenizer(str(folder)))


def test_a_missing_shard_is_named(folder):
    model = load_model(str(folder))
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="10KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    load_model(str(folder))
    shards[1].unlink()
    assert f"{shards[1]} is missing: download or copy it again" in one_line(lambda: load_config(str(folder)))


def test_a_home_folder_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_model("~/model").num_parameters() == load_model(str(folder)).num_parameters()
    assert load_tokenizer("~/model").get_vocab() == load_tokenizer(str(folder)).get_vocab()
    assert load_config("~/model").vocab_size
    assert "'~/gone': no such folder" in one_line(lambda: load_model("~/gone"))


def test_a_file_is_not_a_folder(folder):
    path = str(folder / "config.json")
    assert "is a file: give the model's folder" in one_line(lambda: load_model(path))


def test_commands_name_the_file_too_and_claim_no_folder(folder, tmp_path, capsys):
    cut(folder / "model.safetensors", 5000)
    path, out = str(folder), str(tmp_path / "out")
    for command in (
        ["train", "--env_id", "Doors-v0", "--max_steps", "1", "--model_name_or_path", path, "--output_dir", out],
        ["pretrain", "--source", "piecewise", "--max_steps", "1", "--model_name_or_path", path, "--output_dir", out],
        ["eval", "--env", "Doors-v0", "--model", path],
        ["read", "piecewise", "-n", "1", "--model", path],
        ["serve", "--model", path],
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        assert f"{folder / 'model.safetensors'} has 5,000 bytes of " in error
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------- before a run


def test_weights_and_tokenizer_are_looked_at_before_a_run(folder):
    name, config, tokenizer = str(folder), load_config(str(folder)), load_tokenizer(str(folder))
    check_saveable(name, config, tokenizer)
    tokenizer.backend_tokenizer.pre_tokenizer = PreTokenizer.custom(object())
    assert "has a tokenizer that loads but cannot be saved" in one_line(lambda: check_saveable(name, config, tokenizer))
    (folder / "generation_config.json").write_text('{"num_beams": 1, "num_return_sequences": 3}')
    assert "generation_config.json cannot be loaded (Greedy" in one_line(lambda: check_saveable(name, config, None))
    assert "cannot be loaded: Greedy" in one_line(lambda: load_model(name))
    (folder / "generation_config.json").unlink()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "holds no weights as safetensors" in one_line(lambda: check_saveable(name, config, None))


def test_weights_that_share_memory_undeclared_are_refused(folder):
    model = load_model(str(folder))
    assert saveable(model, "x") is model
    first = model.model.layers[0]
    first.self_attn.q_proj.weight = first.self_attn.o_proj.weight
    assert "loads but cannot be saved" in one_line(lambda: saveable(model, "x"))


# ---------------------------------------------------------------------- at the end of a run


def test_nothing_is_lost_where_final_cannot_be_written(tmp_path):
    """A checkpoint of the last step is written instead, and a resumed run ends as if nothing had happened."""
    settings = parse(["--env_id", "Doors-v0", "--output_dir", str(tmp_path), "--max_steps", "2"])
    trainer = make_trainer(tmp_path, DOORS, save_strategy="no")
    trainer.train()
    (tmp_path / "final").write_text("in the way")
    with pytest.raises(MetaRLGymError, match=r"final could not be written .* resume from step 2 with --resume"):
        save_final(trainer, trainer.processing_class, settings, tmp_path)
    checkpoint, _ = latest_complete(tmp_path)
    assert checkpoint.name == "checkpoint-2"
    (tmp_path / "final").unlink()
    again = make_trainer(tmp_path, DOORS, word_parts(DOORS, seed=9), save_strategy="no")
    again.train(resume_from_checkpoint=str(checkpoint))
    final = save_final(again, again.processing_class, settings, tmp_path)
    weights = torch.cat([p.detach().flatten() for p in load_model(str(final)).parameters()])
    assert torch.equal(weights, torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
