"""Defaults that depend on the model, and the estimates behind them and behind the dry run."""

from __future__ import annotations

import pytest
import torch
from tiny import terse
from transformers import LlamaConfig, Qwen3Config
from transformers.integrations import HfDeepSpeedConfig, is_deepspeed_zero3_enabled
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from metarlgym.datatypes import ConfigError
from metarlgym.models.scratch import ScratchArguments, chat_tokenizer, scratch_model
from metarlgym.rollout.render import ChatRenderer, PlainRenderer
from metarlgym.rollout.thinking import Thinking
from metarlgym.tasks import TaskGroup
from metarlgym.training.arguments import parse
from metarlgym.training.config import TASKS, _micro_batch
from metarlgym.training.footprint import HEAD_TILE, TILES_ON_CPU, Rows, Shape, memory, random_rows, thought_room
from metarlgym.training.model_defaults import check_action_room, model_defaults
from metarlgym.trial import TrialSettings

BASE = ["--env_id", "Doors-v0", "--max_steps", "10", "--model_name_or_path", "m"]
ROWS = Rows(prompt=100, longest=200, mean=190.0, turns=3, action=4, shortest=4, listed=True)
QWEN = {
    "0.6b": Qwen3Config(hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16),
    "4b": Qwen3Config(hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32),
}
SMALL = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    tie_word_embeddings=True,
)


@pytest.fixture(scope="module")
def chat():
    return ChatRenderer(chat_tokenizer())


def chosen(chat, config, *given, rows=ROWS):
    return model_defaults(parse([*BASE, *given]), chat, Shape.of(config), rows)


def test_a_small_model_is_trained_whole_and_a_large_one_by_lora(chat):
    small, large = chosen(chat, SMALL), chosen(chat, QWEN["4b"])
    assert small["learning_rate"] == 1e-5 and "use_peft" not in small and "gradient_checkpointing" not in small
    assert large["use_peft"] is True and large["learning_rate"] == 1e-4 and large["gradient_checkpointing"] is True
    assert large["lora_target_modules"] == "all-linear"
    assert small["max_action_tokens"] == 16


def test_what_is_given_stays(chat):
    given = ["--learning_rate", "3e-5", "--max_action_tokens", "9", "--per_device_train_batch_size", "8"]
    given += ["--final_eval_trials", "900"]
    assert chosen(chat, SMALL, *given) == {}
    full = chosen(chat, QWEN["4b"], "--use_peft", "false")
    assert full["learning_rate"] == 2e-6 and "lora_target_modules" not in full


def test_a_batch_holds_four_tasks_in_micro_batches_that_fit(chat):
    small, large = chosen(chat, SMALL), chosen(chat, QWEN["0.6b"])
    for batch in (small, large):
        assert batch["per_device_train_batch_size"] * batch["gradient_accumulation_steps"] == 4 * 8
    assert large["per_device_train_batch_size"] <= small["per_device_train_batch_size"]
    longer = Rows(prompt=1000, longest=4000, mean=4000.0, turns=3, action=4, shortest=4, listed=True)
    assert chosen(chat, SMALL, rows=longer)["per_device_train_batch_size"] < small["per_device_train_batch_size"]
    reset = chosen(chat, SMALL, "--memory", "last_1", "--episodes", "3")
    assert reset["per_device_train_batch_size"] * reset["gradient_accumulation_steps"] == 4 * 8 * 3


def test_they_are_settings_like_any_other(chat):
    values = chosen(chat, SMALL)
    settings = parse(BASE, values)
    assert settings.grpo.learning_rate == 1e-5
    assert settings.resolved()["learning_rate"] == 1e-5, "saved, so that a resume has the same"
    assert settings.arguments == BASE


def test_models_that_do_not_chat_keep_the_projects_defaults(chat):
    plain = PlainRenderer(chat_tokenizer())
    assert model_defaults(parse(BASE), plain, Shape.of(SMALL), ROWS) == {}


def test_random_rows_are_measured():
    group = terse("Doors-v0", doors=3)
    full = TaskGroup("Doors-v0", {"doors": 3})
    chat = ChatRenderer(chat_tokenizer())
    rows = random_rows(full, lambda: full.make_trial(TrialSettings(episodes=4)), chat)
    assert rows.turns == 4
    assert rows.action == len(chat.encode("[safe]")) + 1
    assert rows.prompt < rows.mean <= rows.longest
    assert rows.at_most(rows.action + 5) == rows.longest + 4 * 5 and rows.at_most(1) == rows.longest
    last = random_rows(group, lambda: group.make_trial(TrialSettings(episodes=4, memory="last_1")), chat)
    assert last.turns == 1


def test_shape_counts_what_the_model_has():
    tokenizer = chat_tokenizer()
    model = scratch_model(ScratchArguments(scratch_hidden_size=32, scratch_layers=2, scratch_heads=4), tokenizer, 64, 0)
    shape = Shape.of(model.config)
    assert shape.parameters == model.num_parameters()
    output = model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=True)
    kept = sum(layer.keys.numel() + layer.values.numel() for layer in output.past_key_values.layers)
    assert shape.key_values * 3 == kept


def test_memory_follows_the_settings():
    def peak(*given):
        return memory(parse([*BASE, *given]), Shape.of(SMALL), 200, 200)

    full, lora = peak(), peak("--use_peft", "true")
    assert full.states == 16 * Shape.of(SMALL).parameters and lora.states == full.states // 4
    assert peak("--gradient_checkpointing", "true").activations < full.activations / 4
    assert 2 * peak("--per_device_train_batch_size", "16").activations == full.activations
    assert full.peak >= full.program + full.states


def test_actions_that_may_hold_reasoning_keep_their_room(chat):
    free = Rows(prompt=100, longest=200, mean=190.0, turns=3, action=4, shortest=4, listed=False)
    assert "max_action_tokens" not in chosen(chat, SMALL, rows=free)


def test_thoughts_count(chat):
    chat.thinking = Thinking(1, 2, (2,), opened=True)
    try:
        long = chosen(chat, SMALL, "--max_thought_tokens", "2000")
        off = ["--max_thought_tokens", "2000", "--chat_template_kwargs", '{"enable_thinking": false}']
        short = chosen(chat, SMALL, "--max_thought_tokens", "0")
        assert long["per_device_train_batch_size"] < short["per_device_train_batch_size"]
        assert thought_room(parse([*BASE, "--max_thought_tokens", "2000"]), chat) == 2001
        assert thought_room(parse([*BASE, *off]), chat) == 2001, "the template opens it all the same"
        chat.thinking = Thinking(1, 2, (2,))
        assert thought_room(parse([*BASE, *off]), chat) == 0
    finally:
        chat.thinking = None
    assert thought_room(parse(BASE), chat) == 0
    assert ROWS.at_most(10, 100) == 200 + 3 * (100 + 6)


def test_lora_is_not_chosen_against_a_given_setting(chat):
    given = ["--sync_ref_model", "true", "--beta", "0.1"]
    assert "use_peft" not in chosen(chat, QWEN["4b"], *given)


def test_the_shape_is_known_under_zero3():
    """transformers shards every model that is built while ZeRO-3 is on, also those without weights."""
    config = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}, "train_batch_size": 1})
    try:
        assert is_deepspeed_zero3_enabled()
        assert Shape.of(SMALL).parameters == 134_515_008
        assert is_deepspeed_zero3_enabled(), "it stays on"
    finally:
        unset_hf_deepspeed_config()
        del config


@pytest.mark.parametrize("world", [1, 2, 3, 5, 6, 7])
@pytest.mark.parametrize("steps", [1, 3, 4])
@pytest.mark.parametrize("rows_per_trial", [1, 3])
def test_the_default_batch_fits_any_number_of_processes(world, steps, rows_per_trial):
    rows = 8 * rows_per_trial
    size = _micro_batch(rows, rows_per_trial, world * steps, steps)
    assert size * world * steps >= TASKS * rows
    assert size * world * steps % rows == 0 and size * steps % rows_per_trial == 0


def test_the_reference_model_counts():
    def states(*given):
        return memory(parse([*BASE, *given]), Shape.of(SMALL), 200, 200).states

    assert states("--beta", "0.1") == states() + 4 * Shape.of(SMALL).parameters
    assert states("--beta", "0.1", "--use_peft", "true") == states("--use_peft", "true")
    assert states("--rollouts_ahead", "1") == states() + 4 * Shape.of(SMALL).parameters  # the copy that plays


def test_tokens_that_rows_share_count_once():
    def need(sampled, common, *given):
        settings = parse([*BASE, "--per_device_train_batch_size", "16", *given])
        return memory(settings, Shape.of(SMALL), 200, sampled, common)

    shape = Shape.of(SMALL)
    gathered = 16 * 200 * shape.key_values * 4
    assert need(200, 120).activations == shape.kept(120 + 16 * 80, 4) + gathered
    assert need(200, 0).activations == shape.kept(16 * 200, 4)
    bounded = need(200, 120, "--micro_batch_tokens", "600")
    assert bounded.activations == shape.kept(600, 4) + 6 * 200 * shape.key_values * 4
    head, tile = 4 * shape.vocabulary * shape.width, 4 * 16 * 10 * HEAD_TILE[1]
    assert need(10, 120).logits == head + tile * (1 if torch.cuda.is_available() else TILES_ON_CPU)


def test_random_play_shows_what_rows_share(chat):
    group = TaskGroup("Doors-v0", {"doors": 2})
    rows = random_rows(group, lambda: group.make_trial(TrialSettings(episodes=2)), chat)
    assert rows.prompt // 2 < rows.common < rows.longest
    assert rows.sampled_at_most(8) == rows.turns * max(8, rows.action)


def test_a_bound_in_tokens_decides_the_memory_of_an_update(chat):
    def activations(*given):
        return memory(
            parse([*BASE, "--per_device_train_batch_size", "64", *given]), Shape.of(SMALL), 200, 200
        ).activations

    shape = Shape.of(SMALL)
    assert activations() == shape.kept(64 * 200, 4)
    assert activations("--micro_batch_tokens", "2000") == shape.kept(2000, 4)
    assert activations("--micro_batch_tokens", "100") == shape.kept(200, 4)  # a longer row alone
    assert activations("--micro_batch_tokens", "50000") == shape.kept(64 * 200, 4)

    long = Rows(prompt=100, longest=9000, mean=4000.0, turns=3, action=4, shortest=4, listed=True)
    several = chosen(chat, QWEN["0.6b"], rows=long)
    assert several["gradient_accumulation_steps"] > 1
    whole = chosen(chat, QWEN["0.6b"], "--micro_batch_tokens", "2000", rows=ROWS)
    assert whole["gradient_accumulation_steps"] == 1, "rows of a micro-batch no longer decide the memory"


@pytest.mark.parametrize(
    ("given", "listed", "problem"),
    [
        (3, True, "max_action_tokens=3 is too small: of the legal actions of Doors-v0 the longest takes 4 tokens"),
        (
            1,
            False,
            "max_action_tokens=1 is too small: of the legal actions of Doors-v0 the shortest seen takes 2 tokens",
        ),
        (4, True, None),
        (2, False, None),
    ],
)
def test_actions_that_would_always_be_cut(given, listed, problem):
    rows = Rows(prompt=100, longest=200, mean=190.0, turns=3, action=4, shortest=2, listed=listed)
    settings = parse([*BASE, "--max_action_tokens", str(given)])
    if problem is None:
        check_action_room(settings, rows)
    else:
        with pytest.raises(ConfigError, match=problem):
            check_action_room(settings, rows)
