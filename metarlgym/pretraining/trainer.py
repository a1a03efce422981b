"""PretrainTrainer: `transformers.Trainer` on fresh sequences, with next-symbol log-loss.

It adds: online training (no sequence is repeated), unshifted labels (MetaLM's differ from its inputs), the last-symbol
loss, truncated backpropagation, logarithmically spaced checkpoints that are evaluated against exact predictors, and an
abort with a clear message on a NaN or infinite loss.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from metarlgym.datatypes import ConfigError, MetaRLGymError
from metarlgym.pretraining.config import PretrainConfig
from metarlgym.runtime.checkpoint import CheckpointMixin, latest_complete
from metarlgym.runtime.integrity import marked
from metarlgym.runtime.layout import MODEL
from metarlgym.seeding import derive
from metarlgym.sequences.data.torch_dataset import IGNORED, BatchStream, SequenceStream
from metarlgym.sequences.scoring.expected_loss import HeldOutLoss, summarize
from metarlgym.sequences.sources import Source


def spaced_steps(last: int, count: int) -> list[int]:
    """At most `count` steps from 1 to `last`, spaced logarithmically, `last` included."""
    return sorted({round(step) for step in np.geomspace(1, last, max(1, count))} | {last})


class SpacedCheckpoints(TrainerCallback):
    """Checkpoints and evaluations at the steps of `spaced_steps`; the model with the lowest loss is kept in `best/`."""

    def __init__(self, steps: list[int]) -> None:
        self.steps = frozenset(steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step in self.steps:
            control.should_evaluate = control.should_save = control.should_log = True


class PretrainTrainer(CheckpointMixin, Trainer):
    """Trains a causal model to predict the next symbols of a source.

    Args:
        model: causal model whose token ids are the source's symbols.
        args: settings.
        source: generates the sequences; None for `args.make_source()`.
        start_step: step to resume from, which also positions the stream.
        callbacks: additional callbacks.
    """

    args: PretrainConfig
    train_dataset: SequenceStream
    optimizer: Any
    lr_scheduler: Any
    control: Any

    def __init__(
        self,
        model: Any,
        args: PretrainConfig,
        source: Source | None = None,
        start_step: int = 0,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        self.source = args.make_source() if source is None else source
        self.words = args.make_words(self.source)
        known = model.config.get_text_config()
        room = getattr(known, "max_position_embeddings", None)
        needed = self.source.vocab_size if self.words is None else self.words.size
        if known.vocab_size < needed:
            raise ConfigError(f"model: it knows token ids 0..{known.vocab_size - 1}, needed are {needed}.")
        if room is not None and room < self.source.length + len(self.prefix):
            raise ConfigError(
                f"model: its context of {room} is shorter than a sequence of {self.source.length} symbols."
            )
        per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        stream = SequenceStream(
            self.source,
            start=start_step * per_step,
            last_only=args.loss_on == "last",
            rank=0,
            world_size=1,
        )
        self.fetch_seconds = 0.0
        """Time spent generating sequences since the start of training, in seconds."""
        self.train_seconds = 0.0
        self._train_start = time.perf_counter()
        self.held_out = HeldOutLoss(self.source, args.eval_sequences, last_only=args.loss_on == "last")
        spaced = SpacedCheckpoints(spaced_steps(args.max_steps, args.checkpoints))
        super().__init__(
            model=model,
            args=args,
            train_dataset=stream,
            callbacks=[spaced, *(callbacks or [])],
        )
        if args.gradient_chunk and self.is_deepspeed_enabled:
            raise ConfigError(
                f"gradient_chunk={args.gradient_chunk} cannot go with DeepSpeed, which takes a step at every backward "
                "pass: launch without it, or leave gradient_chunk out."
            )
        # The loss is a mean, and all micro-batches of a step have equally many targets.
        self.model_accepts_loss_kwargs = False

    @property
    def prefix(self) -> list[int]:
        """Token ids prepended to each sequence."""
        return [] if self.words is None else self.words.prefix

    # ------------------------------------------------------------------ loss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean loss over the targets in nats; `labels[t]` is the target after `input_ids[t]`."""
        outputs = model(input_ids=inputs["input_ids"])
        loss = _mean_loss(outputs.logits, inputs["labels"])
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        if self.args.variable_length:
            length = self._length()
            inputs = {name: value[:, :length] for name, value in inputs.items()}
        if self.words is not None:
            inputs = self.words.before(inputs, IGNORED)
        if self.args.gradient_chunk:
            loss = self._chunked_step(model, inputs, self.args.gradient_chunk)
        else:
            loss = super().training_step(model, inputs, num_items_in_batch)
        self._check_finite("loss", loss.item(), self.state.global_step + 1)
        return loss

    def _check_finite(self, name: str, value: float, step: int) -> None:
        if math.isfinite(value):
            return
        last, _ = latest_complete(str(self.args.output_dir))
        kept = f"The last good checkpoint is {last}: resume from there with --resume" if last else "Begin again"
        raise MetaRLGymError(
            f"the {name} is {value} at step {step}. {kept} with a lower learning_rate (it is "
            f"{self.args.learning_rate:g}) or a lower max_grad_norm."
        )

    def _length(self) -> int:
        """Length of this step's sequences: 2^U with U uniform; the same on all processes."""
        most = int(math.log2(self.source.length))
        power = 1 + derive(self.args.seed, "length", self.state.global_step) % most
        return self.source.length if power == most else 2**power

    def _chunked_step(self, model: Any, inputs: dict[str, Any], chunk: int) -> torch.Tensor:
        """Truncated backpropagation: forward and backward pass by chunk; the state carries over without gradient."""
        model.train()
        inputs = self._prepare_inputs(inputs)
        ids, labels = inputs["input_ids"], inputs["labels"]
        targets = (labels != IGNORED).sum()
        total = torch.zeros((), device=ids.device)
        memory: dict[str, Any] = {}
        for first in range(0, ids.shape[1], chunk):
            part = slice(first, first + chunk)
            outputs = model(input_ids=ids[:, part], use_cache=True, **memory)
            summed = _mean_loss(outputs.logits, labels[:, part], "sum")
            loss = summed / targets / self.current_gradient_accumulation_steps
            self.accelerator.backward(loss)
            total = total + loss.detach()
            memory = _carried(outputs)
        return total

    # ------------------------------------------------------------------ optimizer and data

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        if self.args.optim == "sgd" and self.optimizer is None:
            parameters = [p for p in self.model.parameters() if p.requires_grad]
            self.optimizer = torch.optim.SGD(
                parameters,
                lr=self.args.learning_rate,
                momentum=self.args.momentum,
                weight_decay=self.args.weight_decay,
            )
        return super().create_optimizer(*args, **kwargs)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None and self.args.lr_scheduler_type == "cosine":
            warm, low = self.args.get_warmup_steps(num_training_steps), self.args.min_lr_rate
            end = self.args.decay_steps or num_training_steps

            def rate(step: int) -> float:
                if step < warm:
                    return (step + 1) / warm
                share = min(1.0, (step - warm) / max(1, end - warm))
                return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share))

            self.lr_scheduler = LambdaLR(self.optimizer if optimizer is None else optimizer, rate)
        return super().create_scheduler(num_training_steps, optimizer)

    def get_train_dataloader(self) -> DataLoader:
        """A loader of whole batches for this process; accelerate does not need to shard it."""
        batches = BatchStream(
            self.train_dataset, self.args.train_batch_size, self.args.process_index, self.args.world_size
        )
        return DataLoader(batches, batch_size=None)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        found = super().get_batch_samples(*args, **kwargs)
        self.fetch_seconds += time.perf_counter() - start
        return found

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            logs["data_share"] = round(self.fetch_seconds / (time.perf_counter() - self._train_start), 4)
        super().log(logs, *args, **kwargs)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True  # otherwise transformers takes one more step
            return
        super()._run_epoch(*args, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self._train_start, self.fetch_seconds = time.perf_counter(), 0.0
        result = super().train(*args, **kwargs)
        self.train_seconds = time.perf_counter() - self._train_start
        return result

    # ------------------------------------------------------------------ evaluation

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Expected loss, floor and gap on held-out sequences; the best model so far is saved to `best/`."""
        line = self.held_out.model(self.model, prefix=self.prefix)
        found = summarize(line, self.held_out.exact)
        # Before this step's checkpoint is written, so that saved checkpoints are always finite.
        self._check_finite("held-out loss", found["final_loss"], self.state.global_step)
        metrics = {
            "eval_loss": found["final_loss"],
            "eval_floor": found["floor"],
            "eval_gap": found["gap"],
            "eval_accuracy": found["accuracy"],
            "eval_cumulative_regret": found["cumulative_regret"],
        }
        self.log({name: value for name, value in metrics.items() if value is not None})
        if self.state.best_metric is None or metrics["eval_loss"] < self.state.best_metric:
            self.state.best_metric = metrics["eval_loss"]
            best = Path(str(self.args.output_dir)) / "best"
            with marked(best, MODEL, self.state.global_step) if self.args.should_save else nullcontext():
                self.save_model(str(best))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def _mean_loss(logits: torch.Tensor, labels: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    flat = logits.float().reshape(-1, logits.shape[-1])
    return functional.cross_entropy(flat, labels.reshape(-1), ignore_index=IGNORED, reduction=reduction)


def _carried(outputs: Any) -> dict[str, Any]:
    """A network's state, detached, as arguments of the next call.

    Raises:
        ConfigError: the network has no state.
    """
    state, cache = outputs.get("state"), outputs.get("past_key_values")
    if state is not None:
        return {"state": _detached(state)}
    if cache is None:
        raise ConfigError("gradient_chunk: this network keeps no state from chunk to chunk; leave gradient_chunk out.")
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
    return {"past_key_values": cache}


def _detached(state: Any) -> Any:
    return state.detach() if isinstance(state, torch.Tensor) else tuple(_detached(part) for part in state)
