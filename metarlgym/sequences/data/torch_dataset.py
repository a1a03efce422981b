"""PyTorch data sets of fresh source sequences: sharded without gaps or duplicates, and resumable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.sources import Source
from metarlgym.sequences.sources.base import SPLITS, check_whole

IGNORED = -100
"""Label of a position without a target."""
BLOCK_TOKENS = 2**16


class SequenceStream(IterableDataset):
    """Sequences `start`, `start + 1`, ... of a source, as `{"input_ids": (T,), "labels": (T,)}`, both int64.

    All processes and all workers of a `DataLoader` together yield each sequence exactly once. They take turns in blocks
    of `block_size`; if that equals the loader's batch size, the order of the batches does not depend on the number of
    workers. On a finite stream, the processes' shares differ by at most one sequence. Every process must create the
    source with the same settings and the same seed, so set the seed explicitly.

    Meaning of `labels`:

    - `labels="next"`: `labels[t]` is the target after `input_ids[t]`; the loss compares `logits[t]` with `labels[t]`,
      unshifted. For MetaLM it is the clean next token y (inputs are noisy). For other sources it is the next token, and
      -100 at the last position, whose next token is not part of the sequence.
    - `labels="shifted"`: the Hugging Face convention, for models that shift internally and compare `logits[t]` with
      `labels[t + 1]`. For MetaLM, `labels[t] = y[t - 1]` and `labels[0] = -100`, so that such a model also gets the
      clean targets (except the last, for which there is no position). For other sources, `labels` equals `input_ids`.

    Iterating again starts from the beginning, as with any data set. After `set_epoch(e)`, a finite stream starts at
    sequence `start + e * count`, so every epoch has fresh sequences. `state_dict` and `load_state_dict` count the
    sequences yielded so far, so they are exact in a loader without workers; with workers, use torchdata's
    `StatefulDataLoader`, which keeps one state per worker. A state cannot be loaded with a different number of workers
    or processes. To continue from a known index without a state, create a new stream with that `start`.

    Accelerate and Hugging Face's `Trainer` distribute the batches themselves: for them, pass `rank=0, world_size=1`.

    Args:
        source: generates the sequences.
        split: `train` or `eval`.
        start: index of the first sequence.
        count: number of sequences over all processes; None for an endless stream.
        labels: `next` or `shifted`.
        last_only: make the last token of a sequence the only target; for sources with `ends_in_target`, such as RLM.
        block_size: sequences generated at a time; None for about 65,000 tokens per block.
        rank: rank of this process; None for the rank in `torch.distributed` if initialized, else 0.
        world_size: number of processes; None for that of `torch.distributed` if initialized, else 1.

    Raises:
        ConfigError: an invalid value.
    """

    def __init__(
        self,
        source: Source,
        split: str = "train",
        start: int = 0,
        count: int | None = None,
        labels: str = "next",
        last_only: bool = False,
        block_size: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        if not isinstance(source, Source):
            raise ConfigError(
                f"source={source!r} is not a source: give one of metarlgym.sequences.sources, such as MetaLM()."
            )
        if split not in SPLITS:
            raise ConfigError(f"split={split!r} is not known: use 'train' or 'eval'.")
        if labels not in ("next", "shifted"):
            raise ConfigError(f"labels={labels!r} is not known: use 'next' or 'shifted'.")
        if last_only and not source.ends_in_target:
            raise ConfigError(
                f"last_only=True is for sources whose sequences end in a target (ends_in_target), such as RLM, not "
                f"{type(source).__name__}: leave it out."
            )
        if source.length == 1 and not (source.labelled and labels == "next"):
            raise ConfigError(
                f"source: sequences of 1 token leave nothing to predict with labels={labels!r}: use longer."
            )
        if (rank is None) != (world_size is None):
            raise ConfigError(f"rank={rank} and world_size={world_size} belong together: give both or neither.")
        if rank is not None and world_size is not None:
            check_whole("world_size", world_size, 1)
            check_whole("rank", rank, 0, world_size - 1, ", as ranks go from 0 to world_size - 1")
        self.source = source
        self.split = split
        self.start = check_whole("start", start, 0)
        self.count = None if count is None else check_whole("count", count, 1)
        self.labels = labels
        self.last_only = bool(last_only)
        if block_size is None:
            block_size = max(1, BLOCK_TOKENS // source.length)
        self.block_size = check_whole("block_size", block_size, 1)
        self._process = None if rank is None or world_size is None else (rank, world_size)
        # In shared memory, so that persistent workers see a new epoch too.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._done = 0
        """Number of sequences yielded in this process or worker during the current or last iteration."""
        self._loaded: dict[str, Any] | None = None
        """State from which the next iteration starts; None to start at the beginning."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration; no effect on an endless stream."""
        self._epoch[0] = check_whole("epoch", epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """Position in this process's or worker's share of the stream, as plain numbers and strings."""
        done = self._done if self._loaded is None else self._loaded["done"]
        return {"done": done, "epoch": int(self._epoch), **self._share(), **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next iteration continue after the last sequence yielded when `state` was taken.

        Raises:
            ConfigError: the state belongs to a different stream.
        """
        missing = ({"done", "epoch"} | self._share().keys() | self._identity().keys()) - state.keys()
        if missing:
            raise ConfigError(f"state lacks {', '.join(sorted(missing))}: give what state_dict() of a stream returned.")
        _check_same(state, self._identity(), "make the stream as it was")
        check_whole("state: done", state["done"], 0)
        self.set_epoch(state["epoch"])
        self._loaded = dict(state)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        # Not a generator function: loaders ask for the state before they ask for the first sequence.
        share = self._share()
        state, self._loaded = self._loaded, None
        if state is not None:
            _check_same(state, share, "resume with as many workers and processes")
        self._done = 0 if state is None else state["done"]
        return self._run(share, self._done, int(self._epoch))

    def __getstate__(self) -> dict[str, Any]:
        # torch.distributed is not initialized in a spawned worker process.
        return self.__dict__ | {"_process": self._rank_and_world()}

    def _run(self, share: dict[str, int], done: int, epoch: int) -> Iterator[dict[str, torch.Tensor]]:
        while True:
            first, size = self._next_block(share, done, epoch)
            if size == 0:
                return
            inputs, labels = self.make(first, size)
            for i in range(size):
                done += 1
                self._done = done
                # Clone, so that holding on to one sequence does not keep its whole block in memory.
                yield {"input_ids": inputs[i].clone(), "labels": labels[i].clone()}

    def _next_block(self, share: dict[str, int], done: int, epoch: int) -> tuple[int, int]:
        """First index and number of the sequences that follow this share's first `done`, up to the end of the block."""
        ranks, workers = share["world_size"], share["workers"]
        shares = ranks * workers
        turn, inside = divmod(done, self.block_size)
        start = self.start
        if self.count is not None:
            start += epoch * self.count
            turns, rest = divmod(self.count, shares * self.block_size)
            if turn >= turns:  # the last turn is shorter: split it as evenly as possible, equally between processes
                inside = done - turns * self.block_size
                place = share["rank"] * workers + share["worker"]
                low, high = rest * place // shares, rest * (place + 1) // shares
                return start + turns * shares * self.block_size + low + inside, high - low - inside
        block = turn * shares + share["worker"] * ranks + share["rank"]
        return start + block * self.block_size + inside, self.block_size - inside

    def make(self, first: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and labels of sequences `first` to `first + size - 1`, each `(size, T)`."""
        columns = self.source.columns(first, size, self.split)
        clean = torch.from_numpy(columns["labels"]) if self.source.labelled else None
        inputs = torch.from_numpy(columns["tokens"])
        if self.labels == "next":
            labels = torch.full_like(inputs, IGNORED) if clean is None else clean
            if clean is None:
                labels[:, :-1] = inputs[:, 1:]
            target = -2
        else:
            labels = inputs.clone()
            if clean is not None:
                labels[:, 0] = IGNORED
                labels[:, 1:] = clean[:, :-1]
            target = -1
        if self.last_only:
            only = labels[:, target].clone()
            labels[:] = IGNORED
            labels[:, target] = only
        return inputs, labels

    def _rank_and_world(self) -> tuple[int, int]:
        if self._process is not None:
            return self._process
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1

    def _share(self) -> dict[str, int]:
        """The share of the stream that this process or worker yields."""
        rank, world_size = self._rank_and_world()
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return {"rank": rank, "world_size": world_size, "worker": number, "workers": workers}

    def _identity(self) -> dict[str, Any]:
        """Settings that must match for a state to be loaded into this stream."""
        return {
            "source": type(self.source).__name__,
            "seed": self.source.seed,
            "length": self.source.length,
            "vocab_size": self.source.vocab_size,
            "split": self.split,
            "start": self.start,
            "count": self.count,
            "block_size": self.block_size,
        }


class BatchStream(IterableDataset):
    """Whole batches of an endless stream, for a loader with `batch_size=None`, which then does no collation.

    Args:
        stream: the sequences, from its `start` on.
        batch_size: sequences per batch, on each process.
        rank: rank of this process.
        world_size: number of processes; together they yield each sequence once.
    """

    def __init__(self, stream: SequenceStream, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.stream, self.batch_size, self.rank, self.world_size = stream, batch_size, rank, world_size

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        first = self.stream.start + self.rank * self.batch_size
        while True:
            inputs, labels = self.stream.make(first, self.batch_size)
            yield {"input_ids": inputs, "labels": labels}
            first += self.batch_size * self.world_size


def _check_same(state: dict[str, Any], here: dict[str, Any], fix: str) -> None:
    differences = [f"{name} was {state[name]} and is {value}" for name, value in here.items() if state[name] != value]
    if differences:
        raise ConfigError(f"state of another stream ({'; '.join(differences)}): {fix}.")
