"""MetaGRPOTrainer: TRL's GRPOTrainer with trials as completions.

It hooks into TRL in only two places. TRL's `rollout_func` plays the trials and returns their rows. One override calls
`super()._generate_and_score_completions` and replaces its `(B,)` advantages with `(B, T)` ones, which TRL's loss
accepts ("to support subclasses"). `tests/training/test_contract.py` fails when a TRL release changes either.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from peft import PeftModel
from transformers import set_seed
from trl import GRPOTrainer

from metarlgym.author_errors import error_line, error_text
from metarlgym.datatypes import ConfigError, MetaRLGymError, MetaTrajectory
from metarlgym.evaluation.evaluate import EvalSettings, evaluate
from metarlgym.evaluation.watch import Watch
from metarlgym.rollout.choices import Choices
from metarlgym.rollout.play_settings import PlaySettings
from metarlgym.rollout.prompt_room import no_room, stuck
from metarlgym.rollout.protocol import Policy
from metarlgym.rollout.render import Renderer
from metarlgym.rollout.reply import shortest_reply
from metarlgym.runtime.agreement import AgreedError
from metarlgym.runtime.checkpoint import COMPLETE, CheckpointMixin
from metarlgym.serving.handshake import ServerInfo
from metarlgym.tasks import TaskGroup
from metarlgym.training.backends import Backend, Colocate, GivenPolicy, InProcess, MakePolicy
from metarlgym.training.batch import TrialBatch
from metarlgym.training.collapse import CollapseWatch
from metarlgym.training.config import MetaGRPOConfig
from metarlgym.training.context_limits import context_rooms
from metarlgym.training.continuous import Continuous
from metarlgym.training.exploration import LegalEntropy, check_choices, choice_tensors
from metarlgym.training.format_steps import check_format, imitate, random_player
from metarlgym.training.micro_batch_trainer import MicroBatchTrainer
from metarlgym.training.off_policy import correction, off_policy_metrics
from metarlgym.training.padding import check_padding, precision
from metarlgym.training.phases import EVALUATION, WEIGHTS, PhaseClock, StepTimes
from metarlgym.training.reference import ReferenceMixin
from metarlgym.training.rollouts import Rollouts
from metarlgym.training.schedule import Schedule
from metarlgym.training.server_backend import Servers, connect
from metarlgym.training.thoughts import check_kept
from metarlgym.trial import Trial

os.environ.setdefault(
    "TRL_EXPERIMENTAL_SILENCE", "1"
)  # rollout_func is flagged experimental; the contract test watches it


def trial_return(prompts: list[Any], trial_return: list[float | None], **_: Any) -> list[float | None]:
    """Reward function: the raw return of a row's trial. Only TRL's logs use it; credit does not."""
    return trial_return


class MetaGRPOTrainer(ReferenceMixin, CheckpointMixin, MicroBatchTrainer):
    """
    Trainer for multi-episode trials.

    Args:
        model: a causal language model or its id, as for [`~trl.GRPOTrainer`].
        args ([`MetaGRPOConfig`]): the configuration.
        group ([`TaskGroup`]): source of tasks.
        processing_class: the tokenizer.
        renderer ([`Renderer`]): turns text into tokens.
        policy: factory that makes the policy from (model, renderer, temperature); default: the model itself, or vLLM.
        on_trials: called on the main process with (step, trajectories) after each rollout.
        **kwargs: passed to [`~trl.GRPOTrainer`] (`callbacks`, `optimizers`, `peft_config`, ...).
    """

    _tag_names = ["trl", "grpo", "metarlgym"]

    def __init__(
        self,
        model: Any,
        args: MetaGRPOConfig,
        group: TaskGroup,
        processing_class: Any,
        renderer: Renderer,
        policy: MakePolicy | None = None,
        on_trials: Callable[[int, list[MetaTrajectory]], None] | None = None,
        **kwargs: Any,
    ) -> None:
        self.group = group
        self.renderer = renderer
        self.on_trials = on_trials
        self._rows: list[dict[str, Any]] = []
        self._batch: TrialBatch | None = None
        self.clock = PhaseClock()
        play = PlaySettings.of({**vars(args), "env_id": group.env_id})
        check_kept(play, group)
        self._trial_settings = play.trial
        rows = _rows(args, group)
        servers = connect(args, processing_class, [group.env.rules()])
        set_seed(args.seed)  # makes the LoRA adapter's initialization independent of the number of processes
        with _our_client(args):
            super().__init__(
                model=model,
                reward_funcs=[trial_return],
                args=args,
                train_dataset=rows,
                eval_dataset=rows.select(range(1)) if args.eval_strategy != "no" else None,
                processing_class=processing_class,
                rollout_func=_rollout,
                **kwargs,
            )
        self.add_callback(
            StepTimes(self.clock, lambda name, value: self._metrics["train"][name].append(value), args.plays_ahead)
        )
        if isinstance(self.model, PeftModel):
            self.model.create_or_update_model_card = _no_card
        self._checked = self._proved = False
        self.rollouts = Continuous(self) if args.continuous else Rollouts(self, args.ahead)
        self.backend = self._make_backend(policy, servers)
        self.rooms = context_rooms(args, self.model.config, servers)
        room = min((room for room in self.rooms.values() if room), default=None)
        self.limits = replace(play.limits, context_tokens=room)
        self._entropy_schedule = (
            Schedule.parse("entropy_schedule", args.entropy_schedule) if args.entropy_schedule is not None else None
        )
        self.collapse = CollapseWatch(
            args.stop_on_collapse,
            lambda: optimum.total if (optimum := group.optimum(self._trial_settings)) else None,
        )
        self.add_callback(self.collapse)
        if args.format_steps:
            check_format(renderer)
        self.choices: Choices | None = None
        self._exploration: LegalEntropy | None = None
        if args.explores:
            check_choices(group, self.make_trial)
            self.choices = Choices(renderer)
            whole = self.accelerator.unwrap_model(self.model)
            whole = whole.get_base_model() if isinstance(whole, PeftModel) else whole
            self._exploration = LegalEntropy(whole, self.temperature)
        if group.content_split and args.eval_strategy != "no":
            group.tasks(args.eval_trials, "eval")  # fails now, not in an hour, if there are too few

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as TRL does, with less garbage collection.

        Existing objects (torch, transformers, the model) are frozen meanwhile and collections made less frequent:
        rollouts create many objects but no cycles, and scanning them took a tenth of each step.
        """
        thresholds = gc.get_threshold()
        gc.collect()
        gc.freeze()
        gc.set_threshold(200_000, 20, 100)
        try:
            output = super().train(*args, **kwargs)
            self.rollouts.give_up()  # a run that was stopped leaves one in flight
            if self.state.global_step >= self.state.max_steps or self.collapse.ends_run:
                self.backend.after_training()
            return output
        finally:
            self.rollouts.close()
            gc.set_threshold(*thresholds)
            gc.unfreeze()

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no model card: TRL's would show how to query a chat model, which this is not."""

    # ------------------------------------------------------------------ the policy

    def _make_backend(self, policy: MakePolicy | None, servers: list[ServerInfo]) -> Backend:
        if policy is not None and servers:
            raise ConfigError("policy=... plays without the servers of vllm_server_base_url: leave one of them out.")
        if policy is not None:
            return GivenPolicy(self, policy)
        if servers:
            return Servers(self, servers)
        return Colocate(self) if self.args.use_vllm else InProcess(self)

    @contextmanager
    def acting(self) -> Iterator[Policy]:
        """The policy with the current weights. All processes enter together; inside, no process waits for another."""
        self.rollouts.before_update()
        self._check_model()
        if not self._proved:
            self.backend.prove()
            self._proved = True
        with ExitStack() as stack:
            with self.clock.during(WEIGHTS):
                policy = stack.enter_context(self.backend.acting())
            yield policy

    def _check_model(self) -> None:
        """Before anything is played or learned: whether the model can be trained, and how. Collective."""
        if self._checked:
            return
        dtype = precision(self.args, self.model)
        check_padding(self, dtype)
        self.choose_path(dtype)
        self._checked = True

    def stop_run(self, problem: str, detail: str = "", cause: BaseException | None = None) -> NoReturn:
        """End the run with an error that all processes agree on, after writing a checkpoint of the progress so far.

        Raises:
            AgreedError: always.
        """
        step = self.state.global_step
        folder = Path(self.args.output_dir or ".")
        # The main process decides for all: saving is collective, and another node may not see a new file yet.
        missing = not (folder / f"checkpoint-{step}" / COMPLETE).exists()
        if step and gather_object([missing])[0]:
            self._save_checkpoint(self.model, trial=None)
        resume = f" Fix it and resume from step {step} with --resume." if step else ""
        raise AgreedError(f"{problem.rstrip('.')}.{resume}\n{detail}".rstrip()) from cause

    # ------------------------------------------------------------------ the rollout

    def make_trial(self) -> Trial:
        return self.group.make_trial(self._trial_settings)

    def rollout(self, rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
        """Play the trials of this process's rows; returns the dict that TRL expects from a `rollout_func`."""
        played = self.rollouts.take(rows)
        step = played.plan.step
        if step >= self.args.format_steps:  # random play samples no tokens
            self._metrics["train"]["rollout/tokens_per_second"].append(played.meter.tokens_per_second)
        self._agree(played.trajectories, played.failure)
        self.backend.after_rollout(played.counts)
        self._batch = TrialBatch(played.trajectories, self.args, self.renderer)
        if self.on_trials is not None and self.accelerator.is_main_process:
            self.on_trials(step, played.trajectories)
        self.rollouts.start_next()
        return self._batch.rollout_output()

    @contextmanager
    def player(self, step: int) -> Iterator[Policy]:
        """The policy that plays a rollout: the model, or random legal play in format steps."""
        if step < self.args.format_steps:
            yield random_player(self.renderer)
        else:
            with self.acting() as policy:
                yield policy

    def _agree(self, trajectories: list[MetaTrajectory], failure: Exception | None) -> None:
        """The only collective of a rollout: if any process failed, all save a checkpoint and stop with the same error.

        Individual trials that ended in an error are masked and counted; the run stops only if all of them did. The same
        holds for trials whose prompt left no room for an action.
        """
        errors = [t.error for t in trajectories]
        problem = None
        if failure is not None:
            cause = error_text(failure) if isinstance(failure, MetaRLGymError) else error_line(failure)
            problem = f"the rollout failed: {cause}"
        if errors and all(errors):
            problem = f"every trial of the rollout ended in an error, the first in {errors[0]}"
        gathered = gather_object(
            [(failure is not None, problem, any(t.turns for t in trajectories), stuck(trajectories))]
        )
        fatal = [text for broken, text, _, _ in gathered if broken] or [text for _, text, _, _ in gathered]
        prompt = max((longest for *_, longest in gathered if longest is not None), default=None)
        if not all(fatal) and prompt is not None and not any(acted for _, _, acted, _ in gathered):
            fatal = [no_room(prompt, shortest_reply(self.renderer), self.rooms)]
        if not all(fatal):
            return
        detail = next((t.error_detail for t in trajectories if t.error_detail), "")
        self.stop_run(fatal[0], detail, failure)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._rows = inputs
        self._check_model()
        if self._entropy_schedule is not None:
            self.entropy_coef = self._entropy_schedule(self.state.global_step)
        self.rollouts.before_update()
        with self.clock.during(WEIGHTS):
            self.backend.update()
        with correction(self):
            out = super()._generate_and_score_completions(inputs)
        assert self._batch is not None
        step = self.state.global_step
        credit = self._batch.credit(
            weights=[0.0] * (shots := self.args.free_shots_at(step)) + [1.0] * (self.args.episodes - shots),
            gamma=self.args.gamma_at(step),
            rank=self.accelerator.process_index,
            length=out["completion_ids"].shape[1],
        )
        out["advantages"] = credit.advantages.to(out["completion_ids"].device)
        if step < self.args.format_steps:
            imitate(out, self._batch, self._metrics["train"])
        elif self._exploration is not None:
            out |= choice_tensors(self._batch.rows, out["completion_ids"].device)
            sampled = self._batch.sampled(out["completion_ids"].shape[1]).sum().float()
            out["choice_items"] = self.accelerator.gather(sampled.to(self.accelerator.device)).sum()
        if self.args.plays_ahead and step >= self.args.format_steps:
            versions = [version for row in self._batch.rows for version in row.version]
            for name, value in off_policy_metrics(out, versions, step, self.args, self.accelerator).items():
                self._metrics["train"][name].append(value)
        if self.args.skip_zero_signal and step >= self.args.format_steps:
            keep = credit.has_signal.to(out["tool_mask"].device)
            out["tool_mask"] = out["tool_mask"] * keep[:, None].to(out["tool_mask"].dtype)
            loss_mask = out["completion_mask"] * out["tool_mask"]
            out["num_items_in_batch"] = self.accelerator.gather(loss_mask.sum()).sum()
        if self.args.micro_batch_tokens is None:  # else it is known when the rows are dealt
            self._log_padding(out)
        for name, value in credit.metrics.items():
            self._metrics["train"][name].append(value)
        if step >= self.args.format_steps and "trial_return" in credit.metrics:
            self.collapse.note(credit.metrics["zero_signal_groups"], credit.metrics["trial_return"])
        if shots:
            self._metrics["train"]["free_shots"].append(float(shots))
        return out

    def sampled_tokens(self, shape: torch.Size) -> torch.Tensor | None:
        batch = self._batch
        return batch.sampled(shape[1]) if batch is not None and len(batch.rows) == shape[0] else None

    # ------------------------------------------------------------------ the exploration bonus

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        if self._exploration is None or "choice_ids" not in inputs:
            with correction(self):
                return super()._compute_loss(model, inputs)
        self._exploration.arm()
        with correction(self):
            loss = super()._compute_loss(model, inputs)
        entropies = self._exploration.entropies(inputs["choice_positions"], inputs["choice_ids"], self.index)
        # As TRL normalizes the policy's loss with loss_type=dapo: by the batch's action tokens, over all processes.
        share = self.current_gradient_accumulation_steps / self.args.steps_per_generation
        items = inputs["choice_items"].clamp(min=1.0) / self.accelerator.num_processes * share
        count = entropies.new_tensor(float(len(entropies)))
        total = self.accelerator.reduce(torch.stack([entropies.detach().sum(), count]))
        if total[1]:
            self._metrics["train"]["legal_entropy"].append(float(total[0] / total[1]))
        return loss - self.args.exploration_at(self.state.global_step) * entropies.sum() / items

    # ------------------------------------------------------------------ evaluation during training

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Play `eval_trials` held-out trials and log the return, curve, slope and error rates under `eval_*`."""
        settings = EvalSettings(
            self._trial_settings,
            trials=self.args.eval_trials,
            seed=self.args.seed,
            limits=self.limits,
            controls=False,
            baselines=False,
        )
        watch = Watch()
        try:
            with self.acting() as policy, self.clock.during(EVALUATION):
                self.clock.meter = watch.meter
                report = evaluate(
                    self.group,
                    policy,
                    self.renderer,
                    settings,
                    shard=(self.accelerator.process_index, self.accelerator.num_processes),
                    gather=gather_object if self.accelerator.num_processes > 1 else None,
                    watch=watch,
                )
        except AgreedError:
            raise
        except MetaRLGymError as error:  # raised on all processes by now
            self.stop_run(str(error), cause=error)
        metrics = {f"{metric_key_prefix}_return": report.return_mean}
        metrics |= {f"{metric_key_prefix}_episode_{k + 1}": value for k, value in enumerate(report.curve)}
        metrics[f"{metric_key_prefix}_slope"] = report.slope
        metrics[f"{metric_key_prefix}_invalid_rate"] = report.invalid_rate
        metrics[f"{metric_key_prefix}_errors"] = float(report.errors)
        if report.thought_cut_rate is not None:
            metrics[f"{metric_key_prefix}_thought_cut_rate"] = report.thought_cut_rate
        # Bypass TRL's log: it would add the train metrics collected since the last line and clear them.
        super(GRPOTrainer, self).log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def _no_card(*_: Any) -> None:
    """Replaces PEFT's method, which writes an empty model card next to each adapter."""


def _our_client(args: MetaGRPOConfig) -> AbstractContextManager[None]:
    if not args.server_urls:
        return nullcontext()
    from metarlgym.serving.weight_sync import our_client

    return our_client(args.weight_sync_timeout)


def _rollout(prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
    """TRL's `rollout_func`. It receives only prompts, so the rows come from the override that called it."""
    assert isinstance(trainer, MetaGRPOTrainer)
    if len(trainer._rows) != len(prompts):
        raise MetaRLGymError(f"TRL handed {len(prompts)} prompts for {len(trainer._rows)} rows: its seam has moved.")
    return trainer.rollout(trainer._rows)


def _rows(args: MetaGRPOConfig, group: TaskGroup) -> Dataset:
    """Dataset with one row per group, holding its task's index. TRL repeats each row for the trials of the group."""
    groups = args.generation_batch_size // args.num_generations
    if args.max_steps > 0:
        cycle = args.steps_per_generation * args.num_iterations
        rollouts = -(-args.max_steps * args.gradient_accumulation_steps // cycle)
        count = groups * rollouts
    else:
        raise MetaRLGymError(f"max_steps={args.max_steps} must be positive: tasks are drawn, so there are no epochs.")
    return Dataset.from_dict({"prompt": [group.env_id] * count, "task_index": list(range(count))})
