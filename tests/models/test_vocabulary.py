"""A tokenizer with more tokens than the model's embedding is refused before anything is claimed or played."""

import pytest
from tiny import make_model

from metarlgym.cli.main import main
from metarlgym.datatypes import ConfigError
from metarlgym.models.loading import check_vocabulary
from metarlgym.models.scratch import byte_tokenizer, chat_tokenizer, word_tokenizer


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A model with 7 tokens, and the tokenizer of another."""
    folder = tmp_path_factory.mktemp("mixed")
    make_model(word_tokenizer(["a b c"]), context=512).save_pretrained(folder)
    chat_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("command", ["train", "eval", "read"])
def test_it_is_one_line(command, mixed, tmp_path, capsys):
    out = tmp_path / "out"
    words = {
        "train": ["--env_id", "Doors-v0", "--model_name_or_path", mixed, "--max_steps", 1, "--output_dir", out],
        "eval": ["--env", "Doors-v0", "--model", mixed, "--json", out],
        "read": ["rlm", "--model", mixed, "-n", 2, "--source-args", '{"v": 4, "L": 2}', "--json", out],
    }
    assert main([command, *map(str, words[command])]) == 2
    name = "model_name_or_path" if command == "train" else "model"
    assert capsys.readouterr().err.strip() == (
        f"error: {name}={str(mixed)!r}: the tokenizer has 259 tokens, the model's embedding 7: use the model's own "
        "tokenizer."
    )
    assert not out.exists()


def test_an_embedding_may_be_larger_and_tokens_may_have_gaps_between_them():
    tokenizer = byte_tokenizer()
    config = make_model(tokenizer).config
    check_vocabulary("m", tokenizer, config)
    config.vocab_size += 61
    check_vocabulary("m", tokenizer, config)
    tokenizer.add_tokens(["<one more>"])
    check_vocabulary("m", tokenizer, config)
    config.vocab_size = 259
    with pytest.raises(ConfigError, match="the tokenizer has 260 tokens, the model's embedding 259"):
        check_vocabulary("m", tokenizer, config)
