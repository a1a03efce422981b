"""`metarlgym new-model`: a chat model that everything else can load."""

import signal
import subprocess
import sys

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from metarlgym.cli.main import main
from metarlgym.cli.new_model import PART
from metarlgym.datatypes import ConfigError, Message
from metarlgym.models.loading import load_model, load_tokenizer
from metarlgym.rollout.render import ChatRenderer
from metarlgym.runtime.lock import Lock


@pytest.mark.parametrize("head", ["--tied", "--untied"])
def test_new_model(head, tmp_path, capsys):
    folder = tmp_path / "tiny"
    assert main(["new-model", "--out", str(folder), head]) == 0
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.tie_word_embeddings == (head == "--tied")
    assert model.config.vocab_size == len(tokenizer)
    renderer = ChatRenderer(tokenizer)
    ids = renderer.prompt((Message("system", "Rules, é."), Message("user", "Go.")))
    text = "<|im_start|>system\nRules, é.<|im_end|>\n<|im_start|>user\nGo.<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(ids) == text
    assert renderer.end_id == tokenizer.convert_tokens_to_ids("<|im_end|>") == tokenizer.eos_token_id

    assert main(["new-model", "--out", str(folder)]) == 2
    assert "holds a model already" in " ".join(capsys.readouterr().err.split())


def test_a_folder_where_nothing_can_be_written(capsys):
    assert main(["new-model", "--out", "/proc/model"]) == 2
    line = capsys.readouterr().err
    assert "out='/proc/model' cannot be written" in line and line.strip().count("\n") == 0


def test_nothing_is_replaced(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "tokenizer.json").write_text("mine")
    (tmp_path / "link").symlink_to("/data/none")
    for out, told in (
        (tmp_path / "mine", "holds tokenizer.json, which would be replaced"),
        (tmp_path / "mine" / "tokenizer.json", "is a file"),
        (tmp_path / "link", "is a link to '/data/none', which does not exist"),
    ):
        assert main(["new-model", "--out", str(out)]) == 2
        line = capsys.readouterr().err
        assert told in line and line.startswith("error: out=") and line.count("\n") == 1
    assert (tmp_path / "mine" / "tokenizer.json").read_text() == "mine"


def test_a_pretrained_model_has_its_own_shape(tmp_path, capsys):
    out = tmp_path / "m"
    for arguments, told in (
        (["--pretrained", "smollm2", "--layers", "3"], "layers=3 has no effect with --pretrained"),
        (["--pretrained", "smollm2", "--untied"], "tied=False has no effect with --pretrained"),
        (["--dtype", "bfloat16"], "dtype=bfloat16 is for --pretrained"),
    ):
        assert main(["new-model", "--out", str(out), *arguments]) == 2
        line = capsys.readouterr().err
        assert told in line and line.count("\n") == 1
    (tmp_path / "model.safetensors").write_text("mine")
    assert main(["new-model", "--pretrained", "smollm2", "--out", str(tmp_path)]) == 2
    assert "holds model.safetensors, which would be replaced" in capsys.readouterr().err
    assert not out.exists() and (tmp_path / "model.safetensors").read_text() == "mine"


KILLED = """
import os, signal
from transformers import PreTrainedTokenizerBase
from metarlgym.cli.main import main
from metarlgym.cli.new_model import PART

PreTrainedTokenizerBase.save_pretrained = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
main(["new-model", "--out", {out!r}])
"""


def test_a_process_that_is_killed_leaves_no_model(tmp_path, capsys):
    out = tmp_path / "m"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    done = subprocess.run([sys.executable, "-c", KILLED.format(out=str(out))], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (out / PART / "model.safetensors").exists()
    with pytest.raises(ConfigError, match=r"is a folder without config\.json\.$"):
        load_model(str(out))

    assert main(["new-model", "--out", str(out)]) == 0  # the same command again
    assert {path.name for path in out.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors", "notes.txt"),
        *("chat_template.jinja", "tokenizer.json", "tokenizer_config.json"),
    }
    assert load_model(str(out)).num_parameters() and load_tokenizer(str(out)).chat_template


def test_two_processes_do_not_write_one_model(tmp_path, capsys):
    out = tmp_path / "m"
    out.mkdir()
    lock = Lock(out)
    try:
        assert main(["new-model", "--out", str(out)]) == 2
    finally:
        lock.release()
    line = capsys.readouterr().err
    assert line.startswith(f"error: out={str(out)!r} is being written by another process") and "output_dir" not in line
    assert not any(out.iterdir())


def test_all_files_have_the_same_permissions(tmp_path):
    assert main(["new-model", "--out", str(tmp_path / "tiny")]) == 0
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "tiny").iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]
