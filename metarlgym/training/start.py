"""The model a run starts from: a pretrained model, or one made from scratch, warmed up once and kept in `start/`.

Both provide their config, tokenizer and renderer before any weights are loaded.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from metarlgym.datatypes import ConfigError, MetaRLGymError
from metarlgym.files import expand
from metarlgym.models.chat_templates import use_chat_template
from metarlgym.models.end_tokens import end_tokens, load_end_tokens
from metarlgym.models.loading import check_vocabulary, load_config, load_model, load_tokenizer, loading_alone
from metarlgym.models.saveable import check_saveable, saveable
from metarlgym.models.scratch import byte_tokenizer, scratch_model, word_tokenizer
from metarlgym.policies.supported import check_config, slow_path
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.make_renderer import make_renderer
from metarlgym.rollout.prompt_room import check_room
from metarlgym.rollout.render import Renderer
from metarlgym.runtime.agreement import agree
from metarlgym.runtime.integrity import COMPLETE, damage, marked
from metarlgym.runtime.layout import LAYOUTS
from metarlgym.tasks import TaskGroup
from metarlgym.training.arguments import Settings
from metarlgym.training.context_limits import context_rooms
from metarlgym.training.run_date import pin_date
from metarlgym.training.warmup import random_play, sample_text, warm_up
from metarlgym.trial import Trial

START_ONLY = "--start-only"
"""Flag of `metarlgym.train`: create `start/` and exit."""

Loaded = tuple[Any, Any, Renderer]
"""Model, tokenizer and renderer."""


def model_source(settings: Settings) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained` that locate the config, tokenizer and weights of `model_name_or_path`."""
    return {"revision": settings.model.model_revision, "trust_remote_code": settings.grpo.trust_remote_code}


def model_form(settings: Settings) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained` for the model's dtype and attention implementation."""
    dtype = settings.model.dtype
    return {
        "dtype": getattr(torch, dtype) if dtype not in (None, "auto") else "auto",
        "attn_implementation": settings.model.attn_implementation,
    }


class NamedModel:
    """The model given by `model_name_or_path`.

    Args:
        settings: the run's settings; gets `date` if the chat template prints one.
        group: the task group.
        date: see `date_of_run`.

    Raises:
        ConfigError: if it cannot be loaded or is incompatible with the settings.
    """

    def __init__(self, settings: Settings, group: TaskGroup, date: str | None = None) -> None:
        self.settings = settings
        self.name = name = str(settings.model.model_name_or_path)
        revision = settings.model.model_revision
        if revision != "main" and Path(expand(name)).is_dir():
            raise ConfigError(
                f"model_revision={revision!r} with model_name_or_path={name!r}: a folder has no revisions; leave "
                "model_revision out, or give a hub id."
            )
        self.config = load_config(name, **model_source(settings))
        self.tokenizer = load_tokenizer(name, **model_source(settings))
        check_vocabulary(name, self.tokenizer, self.config)
        use_chat_template(self.tokenizer, settings.run.chat_template)
        pin_date(settings, self.tokenizer, date)
        self.renderer = settings.play.make_renderer(name, self.tokenizer, group)
        self.renderer.end_also_with(load_end_tokens(name, self.config, revision=revision))
        self._check_attention()

    def _check_attention(self) -> None:
        if not (attention := self.settings.model.attn_implementation):
            return
        remote = self.settings.grpo.trust_remote_code
        try:
            with torch.device("meta"), loading_alone():
                AutoModelForCausalLM.from_config(self.config, trust_remote_code=remote, **model_form(self.settings))
        except (ValueError, ImportError, OSError, KeyError) as error:
            text = " ".join(str(error).split())
            raise ConfigError(
                f"attn_implementation={attention!r} cannot be used with {self.name!r}: {text.rstrip('.')}. Use sdpa "
                "or eager, or leave it out."
            ) from error

    def check(self, group: TaskGroup, make_trial: Callable[[], Trial]) -> None:
        """Refuse a model that is unsupported in rollouts, has no room for an action in its context, or cannot be saved.

        Raises:
            ConfigError: if any of these applies; states which.
        """
        args = self.settings.grpo
        if not args.use_vllm:
            check_config(self.config)
        check_room(group, make_trial, self.renderer, context_rooms(args, self.config))
        check_saveable(self.name, self.config, self.tokenizer)

    def load(self, folder: Path, console: Console) -> Loaded:
        """Load the model with its weights; writes nothing to the run's folder."""
        args, source = self.settings.grpo, model_source(self.settings)
        if not args.use_vllm and (line := slow_path(self.config)):
            console.print(line, highlight=False, soft_wrap=True)
        if args.beta and source["revision"] != "main":
            args.model_init_kwargs = {"revision": source["revision"]}  # TRL passes them to the reference model
        model = load_model(self.name, **source, **model_form(self.settings))
        self.renderer.end_also_with(end_tokens(model.generation_config, model.config))
        if not self.renderer.end_ids <= end_tokens(model.generation_config):
            # TRL counts a row as truncated unless its last token is one of these. Servers of final/ stop at them too.
            model.generation_config.eos_token_id = sorted(self.renderer.end_ids)
        return saveable(model, self.name), self.tokenizer, self.renderer


class ScratchModel:
    """A small model for the task group, used when `model_name_or_path` is not set. Its parts are built lazily."""

    def __init__(self, settings: Settings, group: TaskGroup, make_trial: Callable[[], Trial]) -> None:
        self.settings, self.group, self.make_trial = settings, group, make_trial

    @cached_property
    def tokenizer(self) -> Any:
        word = self.settings.scratch.scratch_tokenizer == "word"
        return word_tokenizer(sample_text(self.group, self.make_trial)) if word else byte_tokenizer()

    @cached_property
    def renderer(self) -> Renderer:
        return make_renderer("plain", self.tokenizer, self.group)

    @cached_property
    def context(self) -> int:
        """Context length of the model, in tokens."""
        limits = self.settings.play.limits
        return limits.context_tokens or context_needed(self.renderer, self.group, self.make_trial, limits)

    @property
    def config(self) -> Any:
        return scratch_model(self.settings.scratch, self.tokenizer, self.context, 0).config

    def check(self, group: TaskGroup, make_trial: Callable[[], Trial]) -> None:
        """Refuse a context without room for an action, and vLLM, which cannot serve a model that does not exist yet.

        Raises:
            ConfigError: if either applies.
        """
        if limit := self.settings.play.limits.context_tokens:  # otherwise the context is sized to fit
            check_room(group, make_trial, self.renderer, {"max_context_tokens": limit})
        if self.settings.grpo.use_vllm:
            raise ConfigError(
                "use_vllm=true needs model_name_or_path, the model that is served too: "
                "`metarlgym new-model --out runs/tiny` makes a small one."
            )

    def load(self, folder: Path, console: Console) -> Loaded:
        """Load the model from the run's `start/`, creating it first unless it is complete."""
        start = folder / "start"
        if self.settings.grpo.world_size > 1:
            self._make_apart(start, console)
        elif _missing(start, console):
            self.make(start, console)
        tokenizer = load_tokenizer(str(start))
        return load_model(str(start)), tokenizer, make_renderer("plain", tokenizer, self.group)

    def make(self, start: Path, console: Console) -> None:
        """Create the model and tokenizer, warm up the model, and write both to `start`."""
        scratch, args = self.settings.scratch, self.settings.grpo
        model = scratch_model(scratch, self.tokenizer, self.context, args.seed)
        console.print(
            f"model from scratch: {model.num_parameters():,} parameters, {len(self.tokenizer)} tokens, "
            f"context {self.context}",
            highlight=False,
        )
        if scratch.imitation_trials:
            self._warm_up(model, start, console)
        start.mkdir(parents=True, exist_ok=True)
        with marked(start, LAYOUTS["train"].folders["start"]):
            model.save_pretrained(start)
            self.tokenizer.save_pretrained(start)

    def _warm_up(self, model: Any, start: Path, console: Console) -> None:
        scratch = self.settings.scratch
        with console.status("warm-up: playing random trials") as status:

            def report(step: int, loss: float) -> None:
                line = f"warm-up step {step}/{scratch.imitation_max_steps}: loss on late outcomes {loss:.3f}"
                status.update(line)
                if not console.is_terminal and step % 200 == 0:
                    console.print(line, highlight=False)

            result = warm_up(
                model,
                self.tokenizer,
                self.group,
                self.make_trial,
                self.renderer,
                scratch,
                self.settings.grpo.seed,
                str(start / "warmup"),
                report,
            )
        console.print(
            f"warm-up: {result['steps']:.0f} steps; loss on late outcomes {result['late_loss']:.3f} "
            f"(without memory at best {result['memoryless_loss']:.3f})",
            highlight=False,
        )

    def _make_apart(self, start: Path, console: Console) -> None:
        """Create `start/`, if missing, in a separate process while the other processes of the launch wait.

        Otherwise the warm-up's trainer would join this launch's process group, and its result would depend on the
        group's size.
        """
        problem: MetaRLGymError | None = None
        if self.settings.grpo.distributed_state.is_main_process and _missing(start, console):
            launcher = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
            prefixes = ("GROUP_RANK", "TORCHELASTIC_", "ACCELERATE_", "FSDP_")
            clean = {k: v for k, v in os.environ.items() if k not in launcher and not k.startswith(prefixes)}
            command = [sys.executable, "-m", "metarlgym.train", *self.settings.arguments, START_ONLY]
            done = subprocess.run(command, env=clean, check=False)
            if done.returncode:
                problem = MetaRLGymError(
                    f"making the starting model failed (exit status {done.returncode}); see above."
                )
        agree(problem)  # the other processes wait here
        if not (start / COMPLETE).exists():
            raise MetaRLGymError(f"{start} is not there: output_dir must be a folder that all processes share.")


def _missing(start: Path, console: Console) -> bool:
    """Whether `start/` is missing or damaged and must be created; the seed reproduces it exactly."""
    if not (start / COMPLETE).exists():
        return True
    wrong = damage(start)
    if wrong:
        console.print(f"{start} is damaged ({wrong}): it is made again", highlight=False, soft_wrap=True)
    return wrong is not None


def context_needed(renderer: Renderer, group: TaskGroup, make_trial: Callable[[], Trial], limits: Limits) -> int:
    """Context length for a trial: twice the longest of 64 random ones, at least 64, rounded up to a multiple of 64."""
    longest = max(len(row.ids) for row in random_play(group, make_trial, renderer, 64, 0))
    action = renderer.fixed_action_tokens or limits.action_tokens
    return -(-max(2 * longest, longest + 2 * action, 64) // 64) * 64
