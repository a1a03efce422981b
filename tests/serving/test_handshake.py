"""Looking at a server before it is used."""

import pytest

from metarlgym.datatypes import ConfigError
from metarlgym.serving.handshake import check_for_training, check_tokenizer, inspect, parse_urls, wait_for_server
from tests.fake_vllm import FakeVLLM
from tests.tiny import byte_parts


@pytest.fixture
def fake():
    made = []

    def start(**settings):
        made.append(FakeVLLM(**settings))
        return made[-1]

    yield start
    for server in made:
        server.stop()


def test_urls():
    assert parse_urls("http://a:8000/, https://b:1 ") == ["http://a:8000", "https://b:1"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("localhost:8000", "has no scheme: write it as http://localhost:8000"),
        ("a.b", "has no scheme"),
        ("http://", "has no scheme"),
        ("http://a:1/v1", "has a path: give scheme, host and port only, as in http://a:1"),
        ("http://a:1,http://a:1/", "names a server twice"),
        (" , ", "names no server"),
    ],
)
def test_urls_that_are_none(text, words):
    with pytest.raises(ConfigError, match=words):
        parse_urls(text)


def test_a_server_that_is_not_there():
    told = []
    with pytest.raises(ConfigError, match=r"no vLLM server answered in 1 s .*metarlgym serve"):
        wait_for_server("http://127.0.0.1:9", 1.0, told.append)
    assert len(told) == 1


def test_what_a_server_says_of_itself(fake):
    server = fake(max_model_len=77)
    wait_for_server(server.url, 0)
    info = inspect(server.url)
    assert (info.model, info.max_model_len, info.transfer_backend) == ("fake", 77, "gloo")
    check_for_training(info, "gloo")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mode": "raw_logprobs"}, "--logprobs-mode raw_logprobs"),
        ({"backend": None}, "weight-transfer engine None, this trainer needs gloo"),
        ({"backend": "nccl"}, "weight-transfer engine nccl, this trainer needs gloo"),
    ],
)
def test_servers_that_cannot_be_trained_with(settings, words, fake):
    with pytest.raises(ConfigError, match=words):
        check_for_training(inspect(fake(**settings).url), "gloo")


def test_tokenizers(fake):
    _, tokenizer, _ = byte_parts()
    texts = ["Doors, 4 of them.", "é"]
    same = fake(tokenize=lambda text: tokenizer.encode(text, add_special_tokens=False))
    check_tokenizer(inspect(same.url), tokenizer, texts)
    with pytest.raises(ConfigError, match=r"tokenizer differs .*token 0.*Serve the same model"):
        check_tokenizer(inspect(fake().url), tokenizer, texts)
    longer = fake(tokenize=lambda text: [*tokenizer.encode(text, add_special_tokens=False), 7])
    with pytest.raises(ConfigError, match="tokenizer differs"):
        check_tokenizer(inspect(longer.url), tokenizer, texts)
