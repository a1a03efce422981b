"""The exploration bonus: entropy over the legal actions at the points where they branch."""

from __future__ import annotations

import pytest
import torch
from tiny import make_trainer, terse, word_parts

from metarlgym import ConfigError, Env, Step, register, registry
from metarlgym.envs.doors import Doors
from metarlgym.models.scratch import ScratchArguments, chat_tokenizer, scratch_model
from metarlgym.rollout.choices import Choices
from metarlgym.rollout.render import ChatRenderer
from metarlgym.rollout.thinking import Thinking
from metarlgym.rollout.transcript import Transcript
from metarlgym.tasks import TaskGroup
from metarlgym.training.exploration import LegalEntropy, check_choices, choice_tensors
from metarlgym.training.prefixes.forward import row_index
from metarlgym.trial import Trial, TrialSettings


@pytest.fixture(scope="module")
def chat():
    return ChatRenderer(chat_tokenizer())


def doors_trial(**arguments):
    trial = TaskGroup("Doors-v0", {"doors": 2, **arguments}).make_trial(TrialSettings(episodes=2))
    trial.reset(seed=0)
    return trial


# ---------------------------------------------------------------------- where actions branch


def test_branching_points_follow_the_tree_of_legal_actions(chat):
    trial, encode = doors_trial(), chat.encode
    action = [*encode("[2]"), chat.end_id]
    (place, legal), *rest = Choices(chat).of(trial, action)
    shared = len(encode("["))
    assert place == shared, "all actions begin with a bracket, which is no choice"
    assert set(legal) == {encode(text)[shared] for text in ("[1]", "[2]", "[safe]")}
    assert not rest, "the end of the action is no choice either"


def test_an_illegal_action_counts_as_far_as_it_was_legal(chat):
    trial, encode = doors_trial(), chat.encode
    assert len(Choices(chat).of(trial, [*encode("[9]"), chat.end_id])) == 1
    assert Choices(chat).of(trial, encode("I open door 2")) == []


def test_an_action_that_begins_like_another_branches_at_its_end(chat):
    class Prefixes(Env):
        def sample_task(self, rng):
            return 0

        def on_reset(self, params, rng):
            return "go"

        def on_step(self, action):
            return Step("", 0.0, True, False, {"valid": True, "success": False})

        def legal_actions(self):
            return ["a", "aa"]

    register("Prefixes-v0", Prefixes)
    try:
        trial = TaskGroup("Prefixes-v0").make_trial(TrialSettings(episodes=2))
        trial.reset(seed=0)
        one, two = chat.encode("a"), chat.encode("aa")
        found = dict(Choices(chat).of(trial, [*one, chat.end_id]))
        assert two[: len(one)] == one, "the tokenizer of this test spells letter by letter"
        assert set(found[len(one)]) == {chat.end_id, two[len(one)]}
    finally:
        registry._REGISTRY.pop("Prefixes-v0")


# ---------------------------------------------------------------------- the entropy


def row(prompt, completion, choices):
    transcript = Transcript.open(prompt)
    transcript.add_action(completion, [0.0] * len(completion), 0, 0)
    transcript.choices.update(choices)
    return transcript


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_entropy_equals_that_of_renormalized_logits(temperature):
    tokenizer = chat_tokenizer()
    model = scratch_model(ScratchArguments(scratch_hidden_size=16, scratch_layers=2, scratch_heads=2), tokenizer, 64, 0)
    rows = [row([5, 6, 7], [8, 9, 10], {1: (9, 11, 12)}), row([5, 6, 7], [8, 9, 10], {0: (8, 3), 2: (10, 4, 5)})]
    tensors = choice_tensors(rows, torch.device("cpu"))
    bonus = LegalEntropy(model, temperature)
    ids = torch.tensor([r.ids for r in rows])
    bonus.arm()
    logits = model(input_ids=ids).logits / temperature
    found = bonus.entropies(tensors["choice_positions"], tensors["choice_ids"], row_index(2, 6, 3, "cpu"))
    expected = []
    for i, r in enumerate(rows):
        for position, legal in r.choices.items():
            logp = torch.log_softmax(logits[i, 3 + position - 1, list(legal)], -1)
            expected.append(-(logp.exp() * logp).sum())
    assert torch.allclose(found, torch.stack(expected), atol=1e-6)
    found.sum().backward()
    assert all(p.grad is not None for p in model.model.layers.parameters())


def gradient_of(trainer, batch, coefficient):
    trainer.args.exploration_coef = str(coefficient)
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, batch).backward()
    return torch.cat([p.grad.flatten() for p in trainer.model.model.layers.parameters()])


def test_the_bonus_is_the_gradient_of_the_entropy_over_the_action_tokens(tmp_path):
    group = terse("Doors-v0", doors=3)
    trainer = make_trainer(tmp_path, group, word_parts(group, layers=2), exploration_coef="1")
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    rows = [dict(row) for row in trainer.train_dataset.select(range(2)) for _ in range(4)]
    batch = trainer._generate_and_score_completions(rows)
    tokens = float((batch["completion_mask"] * batch["tool_mask"]).sum())
    assert float(batch["choice_items"]) == tokens
    assert int((batch["choice_positions"] >= 0).sum()) == tokens, "each action of terse Doors is one word, chosen"
    bonus = gradient_of(trainer, batch, 1.0) - gradient_of(trainer, batch, 0.0)
    trainer.model.zero_grad()
    trainer._exploration.arm()
    inputs = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    trainer.model(input_ids=inputs, attention_mask=torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1))
    index = row_index(len(inputs), inputs.shape[1], batch["completion_ids"].shape[1], "cpu")
    entropies = trainer._exploration.entropies(batch["choice_positions"], batch["choice_ids"], index)
    (-entropies.sum() / tokens).backward()
    alone = torch.cat([p.grad.flatten() for p in trainer.model.model.layers.parameters()])
    assert torch.allclose(bonus, alone, atol=1e-6)
    assert float(alone.abs().max()) > 1e-5


def test_the_bonus_keeps_a_policy_exploring_that_would_not(tmp_path):
    """With a large coefficient the policy stays uniform over the legal actions, and is so over nothing else."""
    group = terse("Doors-v0", doors=3)
    ends = {}
    for name, coefficient in (("without", "0"), ("with", "5")):
        parts = word_parts(group, layers=1)
        trainer = make_trainer(
            tmp_path / name, group, parts, exploration_coef=coefficient, max_steps=30, learning_rate=3e-2
        )
        trainer.train()
        rows = [log for log in trainer.state.log_history if "entropy" in log]
        ends[name] = rows[-1]
    assert ends["with"]["legal_entropy"] > 1.3  # ln 4 = 1.386
    assert "legal_entropy" not in ends["without"]
    assert ends["without"]["entropy"] < 1.0


def test_an_environment_without_a_list_is_refused():
    listed, unlisted = TaskGroup("GuessNumber-v0"), TaskGroup("GuessNumber-v0", {"numbers": 100_000})
    check_choices(listed, lambda: listed.make_trial(TrialSettings(episodes=2)))
    with pytest.raises(
        ConfigError, match=r"which GuessNumber-v0 does not list with \{'numbers': 100000\}: leave it out"
    ):
        check_choices(unlisted, lambda: unlisted.make_trial(TrialSettings(episodes=2)))


def test_a_list_that_raises_is_one_line():
    class Raises(Doors):
        def legal_actions(self):
            raise SystemExit("no list today")

    with pytest.raises(ConfigError, match=r"legal_actions\(\) of Doors-v0 raised MetaRLGymError: .*no list today"):
        check_choices(TaskGroup("Doors-v0"), lambda: Trial(Raises(), 2))


def test_an_unfinished_thought_holds_no_choice(chat):
    first, other = chat.encode("[1]"), chat.encode("x")
    chat.thinking = Thinking(start_id=other[0], end_id=chat.encode("y")[0], close_ids=(chat.encode("y")[0],))
    try:
        trial = doors_trial()
        assert Choices(chat).of(trial, [*other, *first, chat.end_id]) == [], "cut inside the thought"
        (place, _), *_ = Choices(chat).of(trial, [*other, *chat.encode("y"), *first, chat.end_id])
        assert place == 2 + len(chat.encode("[")), "after the thought"
        chat.thinking = Thinking(other[0], chat.encode("y")[0], tuple(chat.encode("y")), opened=True)
        assert Choices(chat).of(trial, [*first, chat.end_id]) == [], "the prompt opened the thought"
    finally:
        chat.thinking = None
