"""Claim: PretrainTrainer reaches at least 0.9 of the throughput (tokens per second) of a plain PyTorch loop, and spends
a small fraction of its time on generating fresh sequences.

Both train the same network from the same weights on the same sequences: AdamW, cosine, gradient clipping at 1, mean
cross-entropy over all next symbols, float32, one thread. The plain loop is a dozen lines of PyTorch. The timing covers
the steps after the first three, without checkpoints and evaluations; the variants run in turn. The fraction of time
spent on sequences is the trainer's own figure, `data_share`.
"""

from __future__ import annotations

import copy
import tempfile
import time
from typing import Any

import torch
from common import Report, interleave, ratios, run
from torch.nn import functional
from transformers import PrinterCallback, TrainerCallback

from metarlgym.models.networks import NetworkArguments, make_network
from metarlgym.pretraining.config import PretrainConfig
from metarlgym.pretraining.trainer import PretrainTrainer, SpacedCheckpoints
from metarlgym.runtime.launch import quiet
from metarlgym.sequences.data.torch_dataset import SequenceStream
from metarlgym.sequences.sources import Source

SKIPPED = 3
SHAPES: dict[str, tuple[NetworkArguments, dict[str, Any], int]] = {
    "LSTM, piecewise, 64 x 256": (
        NetworkArguments(network="lstm", hidden_size=128, num_layers=1, mlp_after=1),
        {"source": "piecewise", "source_args": {"law": "lin", "T": 256}},
        64,
    ),
    "transformer, piecewise, 64 x 256": (
        NetworkArguments(),
        {"source": "piecewise", "source_args": {"law": "lin", "T": 256}},
        64,
    ),
    "transformer, RLM L=3, V=32, 256 x 8": (
        NetworkArguments(),
        {"source": "rlm", "source_args": {"v": 32, "L": 3}},
        256,
    ),
}


class Stopwatch(TrainerCallback):
    """Times the steps after the first few, in seconds."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == SKIPPED:
            self.start = time.perf_counter()
        self.seconds = time.perf_counter() - getattr(self, "start", time.perf_counter())


def ours(model: Any, config: dict[str, Any], batch: int, steps: int) -> tuple[float, float]:
    """Time in seconds, and the fraction spent on sequences."""
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        args = PretrainConfig(
            **config,
            output_dir=folder,
            per_device_train_batch_size=batch,
            max_steps=steps,
            logging_steps=10**6,
            max_grad_norm=1.0,
            weight_decay=0.0,
            use_cpu=True,
            disable_tqdm=True,
            eval_sequences=2,
        )
        trainer = PretrainTrainer(copy.deepcopy(model), args, callbacks=[watch])
        trainer.remove_callback(SpacedCheckpoints)
        trainer.remove_callback(PrinterCallback)
        trainer.source.tokens(0, batch)  # compile before timing
        trainer.train()
        return watch.seconds, trainer.fetch_seconds / trainer.train_seconds


def plain(model: Any, source: Source, batch: int, steps: int) -> float:
    """Time in seconds of a straightforward loop."""
    model = copy.deepcopy(model).train()
    stream = SequenceStream(source, rank=0, world_size=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    start = 0.0
    for step in range(steps):
        inputs, labels = stream.make(step * batch, batch)
        logits = model(input_ids=inputs).logits
        loss = functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        loss.item()
        if step + 1 == SKIPPED:
            start = time.perf_counter()
    return time.perf_counter() - start


def main(quick: bool) -> int:
    claim, _, method = (__doc__ or "").strip().partition("\n\n")
    report = Report("pretrain_step", " ".join(claim.split()), " ".join(method.split()), quick)
    torch.set_num_threads(1)
    quiet()
    for name, (network, config, batch) in SHAPES.items():
        steps = SKIPPED + (3 if quick else 200 if "RLM" in name else 25)
        source = PretrainConfig(**config, output_dir="unused", use_cpu=True).make_source()
        model = make_network(network, source.vocab_size, source.length)
        shares: list[float] = []

        def trainer(model: Any = model, config: Any = config, batch: int = batch, steps: int = steps) -> float:
            seconds, share = ours(model, config, batch, steps)
            shares.append(share)  # noqa: B023 (the list of this turn)
            return seconds

        def loop(model: Any = model, source: Any = source, batch: int = batch, steps: int = steps) -> float:
            return plain(model, source, batch, steps)

        found = interleave({"ours": trainer, "plain": loop}, 1 if quick else 5)
        tokens = (steps - SKIPPED) * batch * source.length
        report.add(f"{name}: ours", [tokens / s / 1e3 for s in found["ours"]], "k tokens/s")
        report.add(f"{name}: over the plain loop", ratios(found["plain"], found["ours"]), "x", at_least=0.9)
        report.add(f"{name}: share of making sequences", shares, at_most=0.15)
    return report.finish()


if __name__ == "__main__":
    run(main, __doc__)
