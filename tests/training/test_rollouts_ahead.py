"""Rollouts that are played ahead: which weights play them, what is trained, and how they end."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import pytest
import torch
from tiny import logged, make_config, make_trainer, terse, word_parts

from metarlgym import ConfigError
from metarlgym.policies.in_process import InProcessPolicy
from metarlgym.runtime.agreement import AgreedError

DOORS = terse("Doors-v0", doors=3)
STEPS = 6


def trainer_on_doors(folder, **settings):
    return make_trainer(folder, DOORS, word_parts(DOORS), max_steps=STEPS, **settings)


def trials_of(trainer):
    """A list that fills with (step, task, token ids, log-probabilities) of each trial that is trained on."""
    trials = []

    def keep(step, trajectories):
        trials.extend((step, t.task.key, t.rows[0].ids, t.rows[0].logprobs) for t in trajectories)

    trainer.on_trials = keep
    return trials


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def run(trainer):
    trials = trials_of(trainer)
    trainer.train()
    return trials, weights(trainer)


def copy_of(model):
    """Made from nothing but configuration and weights."""
    copied = type(model)(model.config)
    copied.load_state_dict(model.state_dict())
    return copied


def same(found, expected):
    """The same trials and weights. Rounding may depend on where in memory a copy of the weights lies."""
    assert [t[:3] for t in found[0]] == [t[:3] for t in expected[0]]
    for mine, other in zip(found[0], expected[0], strict=True):
        assert mine[3] == pytest.approx(other[3], abs=1e-5)
    assert torch.allclose(found[1], expected[1], atol=1e-5)


def delayed(folder, by, **settings):
    """The same without threads or plans: each rollout is played when it is due, by a copy of older weights."""
    trainer = trainer_on_doors(folder, rollouts_ahead=by, **settings)
    trainer.rollouts.ahead = 0
    history = {}

    @contextmanager
    def acting():
        step = trainer.state.global_step
        history[step] = copy_of(trainer.model)
        yield InProcessPolicy(history[max(0, step - by)], trainer.renderer, trainer.temperature)

    trainer.backend.acting = acting
    return run(trainer)


@pytest.mark.parametrize("by", [1, 4])
def test_the_weights_are_those_of_so_many_updates_before(tmp_path, by):
    trials, final = run(trainer_on_doors(tmp_path / "a", rollouts_ahead=by))
    same((trials, final), delayed(tmp_path / "b", by))
    current, now = run(trainer_on_doors(tmp_path / "c"))
    assert [t[:2] for t in current] == [t[:2] for t in trials], "the same tasks, whoever plays them"
    assert not torch.allclose(now, final, atol=1e-4)


def test_two_runs_are_equal(tmp_path):
    same(*(run(trainer_on_doors(tmp_path / name, rollouts_ahead=1)) for name in "ab"))


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_accumulation_steps": 2, "steps_per_generation": 1},  # two rollouts a step
        {"gradient_accumulation_steps": 1, "steps_per_generation": 2},  # two steps a rollout
        {"gradient_accumulation_steps": 2, "steps_per_generation": 2, "num_iterations": 3},
        {"gradient_accumulation_steps": 2, "steps_per_generation": 3},
        {"gradient_accumulation_steps": 3, "steps_per_generation": 2},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_plans_are_the_rollouts_that_come(tmp_path, settings):
    trainer = trainer_on_doors(tmp_path, rollouts_ahead=2, **settings)
    taken = []
    take = trainer.rollouts.take

    def watched(rows):
        played = take(rows)
        taken.append((played.plan.step, max(played.trajectories[0].rows[0].version)))
        return played

    trainer.rollouts.take = watched
    ahead, _ = run(trainer)
    now, _ = run(trainer_on_doors(tmp_path, **settings))
    assert [t[:2] for t in ahead] == [t[:2] for t in now]
    steps = [step for step, _ in taken]
    assert [version for _, version in taken] == [steps[max(0, i - 2)] for i in range(len(steps))]


def test_the_old_policy_is_the_current_one_and_tokens_are_weighted(tmp_path):
    trainer = trainer_on_doors(tmp_path, rollouts_ahead=2, learning_rate=0.05)
    seen = []
    compute = trainer._compute_loss

    def keep(model, inputs):
        seen.append((copy_of(trainer.model), {k: v for k, v in inputs.items() if torch.is_tensor(v)}))
        return compute(model, inputs)

    trainer._compute_loss = keep
    trainer.train()
    updates = logged(trainer, "off_policy/updates")
    assert updates == [0, 1, 2, 2, 2, 2]
    for since, (model, batch) in zip(updates, seen, strict=True):
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        with torch.no_grad():
            logits = model.eval()(input_ids=ids, attention_mask=mask).logits[:, :-1]
        logp = torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])[..., 0][:, batch["prompt_ids"].shape[1] - 1 :]
        actions = (batch["completion_mask"] * batch["tool_mask"]).bool()
        assert torch.allclose(batch["old_per_token_logps"][actions], logp[actions], atol=1e-5)
        ratio = (logp - batch["sampling_per_token_logps"]).exp().clamp(max=3.0)[actions]
        assert torch.allclose(batch["importance_sampling_ratio"][actions], ratio, atol=1e-4)
        assert (since > 0) == bool((ratio - 1).abs().max() > 1e-3)
    assert logged(trainer, "off_policy/log_ratio")[0] < 1e-5 < logged(trainer, "off_policy/log_ratio")[-1]


def test_one_rollout_is_played_while_the_one_before_is_trained_on(tmp_path):
    trainer = trainer_on_doors(tmp_path, rollouts_ahead=1)
    threads, at_once = [], []
    compute, play = trainer._compute_loss, trainer.rollouts._manager

    def slow_loss(model, inputs):
        time.sleep(0.3)
        at_once.append(trainer.rollouts._in_flight.done if trainer.rollouts._in_flight else None)
        return compute(model, inputs)

    def manager(policy, meter):
        threads.append(threading.current_thread().name)
        return play(policy, meter)

    trainer._compute_loss, trainer.rollouts._manager = slow_loss, manager
    trainer.train()
    assert threads == ["MainThread"] + ["rollouts"] * (STEPS - 1)
    assert at_once[:-1] == [True] * (STEPS - 1) and at_once[-1] is None
    assert all(0 < value < 0.3 for value in logged(trainer, "time/rollout")[1:])
    assert all(value < 0.3 for value in logged(trainer, "time/wait_for_rollout"))
    assert all(value > 0.3 for value in logged(trainer, "idle/rollout")[1:])


def test_an_evaluation_waits_for_the_rollout_and_plays_with_the_latest_weights(tmp_path):
    trainer = trainer_on_doors(tmp_path, rollouts_ahead=1, eval_strategy="steps", eval_steps=2, eval_trials=16)
    acting, in_flight = trainer.backend.acting, []

    def watched():
        in_flight.append(trainer.rollouts._in_flight)
        return acting()

    trainer.backend.acting = watched
    trials, final = run(trainer)
    assert len(logged(trainer, "eval_return")) == 3
    assert in_flight and not any(in_flight)
    same((trials, final), run(trainer_on_doors(tmp_path, rollouts_ahead=1)))
    for mine, copied in zip(trainer.model.parameters(), trainer.backend._copy.parameters(), strict=True):
        assert torch.equal(mine, copied)


@pytest.mark.parametrize("by", [1, 3])
def test_what_is_raised_in_the_background_ends_the_run(tmp_path, by):
    trainer = trainer_on_doors(tmp_path, rollouts_ahead=by)
    specs = trainer.rollouts._specs

    def broken(plan):
        found = specs(plan)
        if plan.step == 2:

            def fail():
                raise RuntimeError("no environment today")

            found = [type(spec)(fail, spec.task, spec.seed, spec.policy_seed) for spec in found]
        return found

    trainer.rollouts._specs = broken
    with pytest.raises(
        AgreedError, match=r"the rollout failed: RuntimeError: no environment today.*resume from step 2"
    ):
        trainer.train()
    assert not [thread for thread in threading.enumerate() if thread.name == "rollouts"]


def test_a_run_that_is_stopped_leaves_nothing_behind(tmp_path):
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = state.global_step == 3

    trainer = trainer_on_doors(tmp_path, rollouts_ahead=2, trainer_args={"callbacks": [Stop()]})
    trials, _ = run(trainer)
    assert {step for step, *_ in trials} == {0, 1, 2}
    assert not [thread for thread in threading.enumerate() if thread.name == "rollouts"]


def test_a_resumed_run_plays_each_task_once(tmp_path):
    settings = {"rollouts_ahead": 1, "save_strategy": "steps", "save_steps": 3}
    whole, _ = run(trainer_on_doors(tmp_path / "a", **settings))
    run(trainer_on_doors(tmp_path / "b", **settings))
    resumed = trainer_on_doors(tmp_path / "b", **settings)
    trials = trials_of(resumed)
    resumed.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-3"))
    assert [t[:2] for t in trials] == [t[:2] for t in whole if t[0] >= 3]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"rollouts_ahead": -1}, "rollouts_ahead=-1 must"),
        ({"rollouts_ahead": 1, "vllm_importance_sampling_correction": False}, "biases the gradient"),
        ({"rollouts_ahead": 1, "cast_lm_head_to_fp32": True}, "would compute its head otherwise"),
        (
            {"rollouts_ahead": 1, "loss_type": "vespo", "vllm_importance_sampling_mode": "sequence_mask"},
            "with loss_type='vespo'",
        ),
    ],
)
def test_settings_that_contradict_it(tmp_path, settings, problem):
    with pytest.raises(ConfigError, match=problem):
        make_config(tmp_path, **settings)


def test_a_copy_computes_in_bfloat16_where_the_trainer_does(tmp_path, monkeypatch):
    monkeypatch.setattr("metarlgym.settings.training_arguments.check_gpu", lambda *_, **__: None)
    trainer = trainer_on_doors(tmp_path, rollouts_ahead=1, bf16=True)
    trainer.train()
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        copied = trainer.backend.playing()(input_ids=ids).logits
        own = trainer.model(input_ids=ids).logits
    assert torch.equal(copied, own)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        plain = copy_of(trainer.model)(input_ids=ids).logits
    assert not torch.equal(copied, plain)


def test_trained_twice(tmp_path):
    trainer = trainer_on_doors(tmp_path, rollouts_ahead=1)
    trainer.train()
    trials = trials_of(trainer)
    trainer.train()
    assert logged(trainer, "off_policy/updates")[-STEPS:] == [0, 1, 1, 1, 1, 1]
    assert len(trials) == 8 * STEPS


def test_a_given_policy_acts_with_the_same_copy(tmp_path):
    given = trainer_on_doors(tmp_path / "a", rollouts_ahead=1, trainer_args={"policy": InProcessPolicy})
    same(run(given), run(trainer_on_doors(tmp_path / "b", rollouts_ahead=1)))
