"""`metarlgym new-model`: a chat model that everything else can load."""

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from metarlgym.cli.main import main
from metarlgym.datatypes import Message
from metarlgym.rollout.render import ChatRenderer


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
