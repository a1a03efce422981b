"""Tiny task groups, models and trainers that tests share. Models are untrained: what they do is irrelevant here."""

from __future__ import annotations

import torch

from metarlgym import TaskGroup, Trial
from metarlgym.models.scratch import ScratchArguments, byte_tokenizer, scratch_model, word_tokenizer
from metarlgym.policies.in_process import InProcessPolicy
from metarlgym.rollout.make_renderer import make_renderer
from metarlgym.rollout.manager import RolloutManager, TrialSpec
from metarlgym.rollout.protocol import ActReply, Policy
from metarlgym.rollout.render import PlainRenderer
from metarlgym.seeding import derive
from metarlgym.training.warmup import sample_text

torch.set_num_threads(1)


def terse(env_id, **env_args):
    return TaskGroup(env_id, {"style": "terse", **env_args})


def trial_maker(group, episodes=3, **trial_args):
    return lambda: Trial(group.make_env(), episodes, **trial_args)


def specs(group, make_trial, trials, seed=0):
    """Trials on the tasks 0, 1, ... of a group, with their own noise and policy seeds."""
    return [TrialSpec(make_trial, group.task(i), derive(seed, i), (seed, "policy", i)) for i in range(trials)]


def word_parts(group, width=16, layers=1, context=128, seed=0):
    """(model, tokenizer, renderer) with one token per word."""
    tokenizer = word_tokenizer(sample_text(group, trial_maker(group), 64))
    return make_model(tokenizer, width, layers, context, seed), tokenizer, make_renderer("plain", tokenizer, group)


def byte_parts(width=16, layers=2, context=256, seed=0):
    """(model, tokenizer, renderer) with one token per byte and actions that end with a token."""
    tokenizer = byte_tokenizer()
    return make_model(tokenizer, width, layers, context, seed), tokenizer, PlainRenderer(tokenizer)


def make_model(tokenizer, width=16, layers=1, context=128, seed=0):
    sizes = ScratchArguments(scratch_hidden_size=width, scratch_layers=layers, scratch_heads=2)
    return scratch_model(sizes, tokenizer, context, seed)


def play(model, renderer, trial_specs, limits=None, concurrency=None, **policy_args):
    """(trajectories, policy) of an in-process rollout."""
    policy = InProcessPolicy(model, renderer, **policy_args)
    return RolloutManager(policy, renderer, limits, concurrency).run(trial_specs), policy


def full_logprobs(model, ids, temperature=1.0):
    """Log-probability of every token but the first under one plain forward pass; shape `(len(ids) - 1,)`."""
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor([ids])).logits[0, :-1].float() / temperature
    return torch.log_softmax(logits, -1).gather(-1, torch.tensor(ids)[1:, None])[:, 0]


def tokens(trajectories):
    """What was sampled and shown: the ids of all rows."""
    return [[row.ids for row in trajectory.rows] for trajectory in trajectories]


def make_config(folder, **settings):
    from metarlgym.training.config import MetaGRPOConfig

    defaults = {
        "episodes": 3,
        "trials_per_task": 4,
        "per_device_train_batch_size": 8,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "max_action_tokens": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }
    return MetaGRPOConfig(output_dir=str(folder), **{**defaults, **settings})


def make_trainer(folder, group=None, parts=None, trainer_args=None, **settings):
    """A MetaGRPOTrainer on terse Doors, unless told otherwise."""
    from transformers import PrinterCallback

    from metarlgym.training.trainer import MetaGRPOTrainer

    group = group or terse("Doors-v0")
    model, tokenizer, renderer = parts or word_parts(group)
    trainer = MetaGRPOTrainer(
        model=model,
        args=make_config(folder, **settings),
        group=group,
        processing_class=tokenizer,
        renderer=renderer,
        **(trainer_args or {}),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def logged(trainer, name):
    """All logged values of a metric, in order."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]


class Speaker(Policy):
    """Says what `say(trial)` returns, in tokens: with an end token, or without where actions have a fixed length.

    An exception that `say` returns is handed on as the policy's failure.
    """

    def __init__(self, renderer, say):
        self.renderer, self.say = renderer, say
        self.forgotten = []

    def submit(self, request, done):
        self.loop.call_soon(self.reply, request, done)

    def reply(self, request, done):
        text = self.say(request.trial)
        if isinstance(text, BaseException):
            done(text)
            return
        ids = list(self.renderer.encode(text))
        ended = self.renderer.fixed_action_tokens is None and len(ids) < request.max_tokens
        ids = [*ids, self.renderer.end_id] if ended else ids[: request.max_tokens]
        fixed = len(ids) == self.renderer.fixed_action_tokens
        done(ActReply(ids, [-1.0] * len(ids), "end" if ended or fixed else "length"))

    def forget(self, context):
        self.forgotten.append(context)
