"""The policy a run starts from: loaded, or made from scratch and warmed up once, then kept in `start/`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from metarlgym.datatypes import ConfigError, MetaRLGymError
from metarlgym.files import expand
from metarlgym.rollout.render import ChatRenderer, Renderer
from metarlgym.runtime.layout import LAYOUTS
from metarlgym.runtime.sound import COMPLETE, damage, marked
from metarlgym.tasks import TaskGroup
from metarlgym.training.agreement import agree
from metarlgym.training.arguments import Settings
from metarlgym.training.loading import check_vocabulary, load_config, load_model, load_tokenizer, make_renderer
from metarlgym.training.saveable import saveable
from metarlgym.training.scratch import byte_tokenizer, sample_text, scratch_model, word_tokenizer
from metarlgym.training.warmup import random_play, warm_up
from metarlgym.trial import Trial

START_ONLY = "--start-only"
"""Flag of `metarlgym.train`: make `start/` and stop."""


def model_source(settings: Settings) -> dict[str, Any]:
    """Where configuration, tokenizer and weights of `model_name_or_path` come from, as `from_pretrained` takes it."""
    return {"revision": settings.model.model_revision, "trust_remote_code": settings.grpo.trust_remote_code}


def model_form(settings: Settings) -> dict[str, Any]:
    """Number type and attention of the model, as `from_pretrained` takes them."""
    dtype = settings.model.dtype
    return {
        "dtype": getattr(torch, dtype) if dtype not in (None, "auto") else "auto",
        "attn_implementation": settings.model.attn_implementation,
    }


def inspect_model(settings: Settings, group: TaskGroup) -> tuple[Any, Any, Renderer]:
    """Configuration, tokenizer and renderer of `model_name_or_path`, without its weights.

    Raises:
        ConfigError: it does not load, or does not go with the settings.
    """
    name, args = str(settings.model.model_name_or_path), settings.grpo
    revision = settings.model.model_revision
    if revision != "main" and Path(expand(name)).is_dir():
        raise ConfigError(
            f"model_revision={revision!r} with model_name_or_path={name!r}: a folder has no revisions; leave "
            "model_revision out, or give a hub id."
        )
    source = model_source(settings)
    config = load_config(name, **source)
    tokenizer = load_tokenizer(name, **source)
    check_vocabulary(name, tokenizer, config)
    renderer = make_renderer(settings.run.renderer, tokenizer, group, args.chat_template_kwargs)
    if args.chat_template_kwargs and not isinstance(renderer, ChatRenderer):
        raise ConfigError(
            f"chat_template_kwargs={args.chat_template_kwargs!r} would have no effect: the tokenizer of {name!r} has "
            "no chat template; leave it out."
        )
    if attention := settings.model.attn_implementation:
        try:
            with torch.device("meta"):
                AutoModelForCausalLM.from_config(
                    config, trust_remote_code=args.trust_remote_code, **model_form(settings)
                )
        except (ValueError, ImportError, OSError, KeyError) as error:
            text = " ".join(str(error).split())
            raise ConfigError(
                f"attn_implementation={attention!r} cannot be used with {name!r}: {text.rstrip('.')}. Use sdpa or "
                "eager, or leave it out."
            ) from error
    return config, tokenizer, renderer


def starting_policy(
    settings: Settings, group: TaskGroup, make_trial: Callable[[], Trial], folder: Path, console: Console
) -> tuple[Any, Any, Renderer]:
    """The policy's model, its tokenizer and the renderer."""
    name = settings.model.model_name_or_path
    run, args = settings.run, settings.grpo
    if name:
        source = model_source(settings)
        tokenizer = load_tokenizer(name, **source)
        renderer = make_renderer(run.renderer, tokenizer, group, args.chat_template_kwargs)
        if args.beta and source["revision"] != "main":
            args.model_init_kwargs = {"revision": source["revision"]}  # TRL loads the reference model with them
        return saveable(load_model(name, **source, **model_form(settings)), name), tokenizer, renderer
    start = folder / "start"
    if args.world_size > 1:
        _make_start_apart(settings, start, console)
    elif _missing(start, console):
        make_start(settings, group, make_trial, start, console)
    tokenizer = load_tokenizer(str(start))
    return load_model(str(start)), tokenizer, make_renderer("plain", tokenizer, group)


def _missing(start: Path, console: Console) -> bool:
    """Whether `start/` has to be made: it is not there whole. Its seed makes the same one again."""
    if not (start / COMPLETE).exists():
        return True
    wrong = damage(start)
    if wrong:
        console.print(f"{start} is damaged ({wrong}): it is made again", highlight=False, soft_wrap=True)
    return wrong is not None


def _make_start_apart(settings: Settings, start: Path, console: Console) -> None:
    """Make `start/`, if it is missing, in a process of its own, while the other processes of the launch wait.

    The warm-up's trainer would otherwise join this launch's process group, and its result depend on the group's size.
    """
    state = settings.grpo.distributed_state
    problem: MetaRLGymError | None = None
    if state.is_main_process and _missing(start, console):
        launcher = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")
        prefixes = ("TORCHELASTIC_", "ACCELERATE_", "FSDP_")
        clean = {k: v for k, v in os.environ.items() if k not in launcher and not k.startswith(prefixes)}
        command = [sys.executable, "-m", "metarlgym.train", *settings.arguments, START_ONLY]
        done = subprocess.run(command, env=clean, check=False)
        if done.returncode:
            problem = MetaRLGymError(f"making the starting model failed (exit status {done.returncode}); see above.")
    agree(problem)  # the other processes wait in here
    if not (start / COMPLETE).exists():
        raise MetaRLGymError(f"{start} is not there: output_dir must be a folder that all processes share.")


def make_start(
    settings: Settings, group: TaskGroup, make_trial: Callable[[], Trial], start: Path, console: Console
) -> None:
    """Make model and tokenizer from scratch, warm the model up, and write both to `start`."""
    scratch, args = settings.scratch, settings.grpo
    texts = sample_text(group, make_trial)
    tokenizer = word_tokenizer(texts) if scratch.scratch_tokenizer == "word" else byte_tokenizer()
    renderer = make_renderer("plain", tokenizer, group)
    context = args.max_context_tokens or context_needed(renderer, group, make_trial, args.max_action_tokens)
    model = scratch_model(scratch, tokenizer, context, args.seed)
    console.print(
        f"model from scratch: {model.num_parameters():,} parameters, {len(tokenizer)} tokens, context {context}",
        highlight=False,
    )
    if scratch.warmup_trials:
        with console.status("warm-up: playing random trials") as status:

            def report(step: int, loss: float) -> None:
                line = f"warm-up step {step}/{scratch.warmup_max_steps}: loss on late outcomes {loss:.3f}"
                status.update(line)
                if not console.is_terminal and step % 200 == 0:
                    console.print(line, highlight=False)

            result = warm_up(
                model, tokenizer, group, make_trial, renderer, scratch, args.seed, str(start / "warmup"), report
            )
        console.print(
            f"warm-up: {result['steps']:.0f} steps; loss on late outcomes {result['late_loss']:.3f} "
            f"(without memory at best {result['memoryless_loss']:.3f})",
            highlight=False,
        )
    start.mkdir(parents=True, exist_ok=True)
    with marked(start, LAYOUTS["train"].folders["start"]):
        model.save_pretrained(start)
        tokenizer.save_pretrained(start)


def context_needed(renderer: Renderer, group: TaskGroup, make_trial: Callable[[], Trial], action_tokens: int) -> int:
    """Tokens a trial can need: twice the longest of a few random ones, at least 64, rounded up to a multiple of 64."""
    longest = max(len(row.ids) for row in random_play(group, make_trial, renderer, 64, 0))
    return -(-max(2 * longest, longest + 2 * (renderer.fixed_action_tokens or action_tokens), 64) // 64) * 64
