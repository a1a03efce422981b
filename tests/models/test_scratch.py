"""Models and tokenizers from scratch: every word known, every text round, weights as large as the width asks for."""

from __future__ import annotations

import pytest
import torch
from tiny import make_model, terse, trial_maker

from metarlgym import ConfigError, list_envs
from metarlgym.models.scratch import (
    BOS,
    END,
    PAD,
    UNKNOWN,
    ScratchArguments,
    byte_tokenizer,
    scratch_model,
    word_tokenizer,
)
from metarlgym.policies.scripted import OraclePolicy, RandomPolicy
from metarlgym.rollout.manager import RolloutManager, TrialSpec
from metarlgym.training.warmup import sample_text

TEXTS = ["doors 1 nothing", "2 prize /"]


# ---------------------------------------------------------------------- tokenizers


def test_words_are_tokens():
    tokenizer = word_tokenizer(TEXTS)
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("doors 2 prize")) == ["doors", "2", "prize"]
    assert tokenizer.get_vocab().keys() == {PAD, BOS, END, UNKNOWN, "doors", "1", "nothing", "2", "prize", "/"}
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == (PAD, BOS, END)


def test_words_go_there_and_back():
    tokenizer = word_tokenizer(TEXTS)
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_word_that_was_never_seen_is_unknown():
    tokenizer = word_tokenizer(TEXTS)
    assert tokenizer.encode("doors 7") == [tokenizer.encode("doors")[0], tokenizer.unk_token_id]


def test_the_vocabulary_does_not_depend_on_the_order_of_the_texts():
    assert word_tokenizer(TEXTS).get_vocab() == word_tokenizer(TEXTS[::-1]).get_vocab()


@pytest.mark.parametrize("text", ["Door 1: the prize! 1 point.", "a  b\n\n c\t", "ü € 漢 🙂", "\x00\x7f", " lead", ""])
def test_bytes_go_there_and_back(text):
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text.encode())


def test_there_are_256_bytes_and_three_marks():
    assert len(byte_tokenizer()) == 259


@pytest.mark.parametrize("make", [lambda: word_tokenizer(TEXTS), byte_tokenizer], ids=["word", "byte"])
def test_tokenizers_survive_saving(tmp_path, make):
    from metarlgym.models.loading import load_tokenizer
    from metarlgym.rollout.make_renderer import is_word_level

    tokenizer = make()
    tokenizer.save_pretrained(tmp_path)
    make_model(tokenizer).save_pretrained(tmp_path)
    again = load_tokenizer(str(tmp_path))
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.decode(again.encode(TEXTS[0])) == TEXTS[0]
    assert again.eos_token_id == tokenizer.eos_token_id
    assert is_word_level(again) == is_word_level(tokenizer)


@pytest.mark.parametrize("env_id", [spec.env_id for spec in list_envs()])
def test_every_word_of_every_terse_game_is_known(env_id):
    """What sampled random play did not show, other random play and optimal play do not show either."""
    group = terse(env_id)
    make = trial_maker(group, 3)
    tokenizer = word_tokenizer(sample_text(group, make))
    trials = [TrialSpec(make, group.task(10_000 + i), i, ("other", i)) for i in range(300)]
    seen = {group.env.rules()}
    for policy, number in ((RandomPolicy(), 300), (OraclePolicy(), 100)):  # some optima take a millisecond a step
        for trajectory in RolloutManager(policy).run(trials[:number]):
            for episode in trajectory.episodes:
                seen.add(episode.opening)
                seen.update(text for turn in episode.turns for text in (turn.action, turn.observation))
    words = {word for text in seen for word in text.split()}
    assert words - set(tokenizer.get_vocab()) == set()


@pytest.mark.parametrize("env_id", [spec.env_id for spec in list_envs()])
def test_the_answer_to_an_invalid_action_is_one_of_its_own(env_id):
    """Random legal play never shows it: its one unknown word is the `<unk>` token, which nothing else is."""
    group = terse(env_id)
    tokenizer = word_tokenizer(sample_text(group, trial_maker(group, 3)))
    trial = trial_maker(group, 2)()
    trial.reset(options={"task": group.task(0), "episode_seed": 0})
    words = trial.step("open sesame").observation.split()
    assert [word for word in words if word not in tokenizer.get_vocab()] in ([], ["invalid"])


def test_a_game_that_fails_under_random_play_is_told():
    from metarlgym import TaskGroup

    group = TaskGroup("Doors-v0")

    def broken():
        trial = trial_maker(group, 2)()
        trial.env.on_step = lambda action: 1 / 0
        return trial

    with pytest.raises(ConfigError, match="fails under random legal play: ZeroDivisionError"):
        sample_text(group, broken, 4)


# ---------------------------------------------------------------------- models


def model(width=32, seed=0, **args):
    return scratch_model(ScratchArguments(scratch_hidden_size=width, **args), byte_tokenizer(), 64, seed)


@pytest.mark.parametrize("width", [16, 64, 256])
def test_the_initialisation_follows_the_width(width):
    weights = [p.detach() for name, p in model(width).named_parameters() if p.dim() == 2]
    for weight in weights:
        assert float(weight.std()) == pytest.approx(width**-0.5, rel=0.1)


def test_another_initialisation_can_be_given():
    assert float(model(scratch_init_std=0.02).lm_head.weight.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_the_seed_gives_the_weights_and_touches_no_global_stream():
    state = torch.get_rng_state()
    first, second, other = model(), model(), model(seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_sizes_are_those_asked_for():
    made = model(48, scratch_layers=3, scratch_heads=6)
    assert (made.config.hidden_size, made.config.num_hidden_layers, made.config.head_dim) == (48, 3, 8)
    assert made.config.max_position_embeddings == 64
    assert made.get_input_embeddings().weight.shape == (259, 48)
    assert (made.config.eos_token_id, made.config.pad_token_id) == (2, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scratch_tokenizer": "char"}, "use one of word, byte"),
        ({"scratch_hidden_size": 30, "scratch_heads": 4}, "must divide scratch_hidden_size=30"),
        ({"scratch_hidden_size": 12, "scratch_heads": 4}, "heads of even width"),
    ],
)
def test_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ScratchArguments(**settings)
