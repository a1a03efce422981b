"""From pretraining to GRPO: ids, words, prefixes, and a short GRPO run from a pretrained network."""

import json

import pytest
import torch

from metarlgym import ConfigError, TaskGroup, make
from metarlgym.models.loading import load_tokenizer
from metarlgym.models.networks import NetworkArguments, make_network
from metarlgym.pretraining.game_tokenizer import Words
from metarlgym.pretraining.run import parse, run_pretraining
from metarlgym.rollout.make_renderer import make_renderer
from metarlgym.sequences.scoring.expected_loss import HeldOutLoss
from metarlgym.sequences.sources import RLM, MetaLM
from metarlgym.train import main as train_main

GAME = {"V": 8, "n": 2, "l": 4, "e": 0.0}


def test_symbols_keep_their_ids():
    source = MetaLM(V=8, n=2, l=4, L=20, seed=0)
    words = Words("MetaLM-v0", GAME, source)
    tokenizer = words.tokenizer()
    env = make("MetaLM-v0", **GAME, style="terse")
    assert tokenizer.encode("3 | _ 7", add_special_tokens=False) == [3, source.separator, 0, 7]
    assert tokenizer.decode(words.prefix) == f"{tokenizer.bos_token} metalm" and len(tokenizer) == words.size
    seen = env.reset(seed=0)[0] + " " + env.step("1")[0]
    ids = tokenizer.encode(f"{env.rules()} / {seen} ?", add_special_tokens=False)
    assert tokenizer.unk_token_id not in ids and max(ids[2:-1]) < source.vocab_size


def test_nothing_is_predicted_within_the_prefix():
    words = Words("RLM-v0", {"v": 5}, RLM(5, 3))
    batch = {"input_ids": torch.ones(2, 4, dtype=torch.long), "labels": torch.full((2, 4), 3)}
    found = words.before(batch, -100)
    assert found["input_ids"][0].tolist() == [*words.prefix, 1, 1, 1, 1]
    assert found["labels"][0].tolist() == [-100] * len(words.prefix) + [3] * 4


def test_evaluated_with_its_prefix():
    source = MetaLM(V=8, n=2, l=4, L=20, seed=0)
    words = Words("MetaLM-v0", GAME, source)
    network = make_network(NetworkArguments(hidden_size=16, num_heads=2), words.size, 32)
    line = HeldOutLoss(source, 3).model(network, prefix=words.prefix)
    ids = torch.tensor([[*words.prefix, *source.tokens(0, 1, "eval")[0]]])
    logits = network(input_ids=ids).logits[0, len(words.prefix) :, :10].double()
    assert line.entropy[0] == pytest.approx(torch.distributions.Categorical(logits=logits).entropy().tolist())


@pytest.mark.parametrize(
    ("env_id", "args", "told"),
    [
        ("Doors-v0", {}, "not a prediction game"),
        ("MetaLM-v0", {"V": 9}, "has 11 symbols, the source has 10"),
        ("MetaLM-v0", {**GAME, "answer": "probabilities"}, "answer='token'"),
    ],
)
def test_what_does_not_fit(env_id, args, told):
    with pytest.raises(ConfigError) as error:
        Words(env_id, args, MetaLM(V=8, n=2, l=4, L=20, seed=0))
    assert told in str(error.value) and "\n" not in str(error.value)


def test_grpo_starts_from_a_pretrained_network(tmp_path):
    flags = {
        "source": "metalm",
        "source_args": json.dumps({**GAME, "L": 32}),
        "words_of": "MetaLM-v0",
        "words_args": json.dumps(GAME),
        "context": 256,
        "hidden_size": 16,
        "num_heads": 2,
        "max_steps": 3,
        "eval_sequences": 4,
        "final_eval_sequences": 8,
        "use_cpu": "true",
        "output_dir": str(tmp_path / "net"),
    }
    run_pretraining(parse([part for name, value in flags.items() for part in (f"--{name}", str(value))]))
    final = tmp_path / "net" / "final"
    group = TaskGroup("MetaLM-v0", {**GAME, "style": "terse"})
    assert make_renderer("auto", load_tokenizer(str(final)), group).fixed_action_tokens == 1
    grpo = {
        "env_id": "MetaLM-v0",
        "env_args": json.dumps({**GAME, "style": "terse", "chunk": 8, "questions": 2}),
        "model_name_or_path": str(final),
        "episodes": 2,
        "trials_per_task": 4,
        "per_device_train_batch_size": 8,
        "max_steps": 2,
        "final_eval_trials": 8,
        "use_cpu": "true",
        "output_dir": str(tmp_path / "grpo"),
    }
    assert train_main([part for name, value in grpo.items() for part in (f"--{name}", str(value))]) == 0
    assert (tmp_path / "grpo" / "eval.json").exists()
