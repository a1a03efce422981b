"""Fresh sequences of a source as a PyTorch data set: shared out without gaps or repeats, and resumable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.sources import Source
from metarlgym.sequences.sources.base import SPLITS, check_whole

IGNORED = -100
"""Label of a place that has no target."""
BLOCK_TOKENS = 2**16


class SequenceStream(IterableDataset):
    """Sequences `start`, `start + 1`, ... of a source, as `{"input_ids": (T,), "labels": (T,)}`, both int64.

    All processes and all workers of a `DataLoader` together give each sequence exactly once. They take turns in blocks
    of `block_size`; where that is the loader's batch size, the batches come in the same order for any number of
    workers. The shares of a finite stream differ by at most one sequence from process to process. Every process must
    make the source with the same settings and the same seed, so give it a seed.

    What `labels` are:

    - `labels="next"`: `labels[t]` is what follows `input_ids[t]`; the loss compares `logits[t]` with `labels[t]`, with
      no shift. For MetaLM it is the clean next token y (inputs are noisy), else the next token, and -100 at the last
      place, whose next token is not part of the sequence.
    - `labels="shifted"`: Hugging Face's way, for models that shift inside and compare `logits[t]` with `labels[t + 1]`.
      For MetaLM `labels[t] = y[t - 1]` and `labels[0] = -100`, so that such a model too gets the clean targets (all
      but the last, which it has no place for); else `labels` equals `input_ids`.

    Iterating again starts from the beginning, as with every data set. After `set_epoch(e)` a finite stream gives
    sequences `start + e * count` and on: fresh ones in every epoch. `state_dict` and `load_state_dict` are about the
    sequences that were handed out, so they are exact in a loader without workers; with workers, use torchdata's
    `StatefulDataLoader`, which keeps one state for each. It cannot be loaded for another number of workers or
    processes. A new stream with another `start` needs no state.

    Accelerate and Hugging Face's `Trainer` share out the batches themselves: for them, give `rank=0, world_size=1`.

    Args:
        source: draws the sequences.
        split: `train` or `eval`.
        start: index of the first sequence.
        count: sequences of all processes together; None for no end.
        labels: `next` or `shifted`.
        last_only: RLM: the last token of a sequence is the only target.
        block_size: sequences made at one go; None for as many as make about 65,000 tokens.
        rank: this process; None for that of `torch.distributed` where it is in use, else 0.
        world_size: processes; None likewise, else 1.

    Raises:
        ConfigError: a value that does not fit.
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
            raise ConfigError(f"last_only=True is for RLM, not {type(source).__name__}: leave it out.")
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
        # Shared memory: workers that outlive an epoch see a new one too.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._done = 0
        """Sequences handed out here in the present or last iteration."""
        self._loaded: dict[str, Any] | None = None
        """Where the next iteration begins, if not at the beginning."""

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration is; without effect on an endless stream."""
        self._epoch[0] = check_whole("epoch", epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """Where this share of the stream is, as plain numbers and strings."""
        done = self._done if self._loaded is None else self._loaded["done"]
        return {"done": done, "epoch": int(self._epoch), **self._share(), **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration begin with the sequence after the last one handed out when `state` was taken.

        Raises:
            ConfigError: the state of another stream.
        """
        missing = ({"done", "epoch"} | self._share().keys() | self._identity().keys()) - state.keys()
        if missing:
            raise ConfigError(f"state lacks {', '.join(sorted(missing))}: give what state_dict() of a stream returned.")
        _check_same(state, self._identity(), "make the stream as it was")
        check_whole("state: done", state["done"], 0)
        self.set_epoch(state["epoch"])
        self._loaded = dict(state)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        # Not a generator itself: loaders ask for the state before they ask for the first sequence.
        share = self._share()
        state, self._loaded = self._loaded, None
        if state is not None:
            _check_same(state, share, "resume with as many workers and processes")
        self._done = 0 if state is None else state["done"]
        return self._run(share, self._done, int(self._epoch))

    def __getstate__(self) -> dict[str, Any]:
        # A worker that is a new process has no torch.distributed to ask.
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
                # Copies: what keeps one sequence should not keep its whole block.
                yield {"input_ids": inputs[i].clone(), "labels": labels[i].clone()}

    def _next_block(self, share: dict[str, int], done: int, epoch: int) -> tuple[int, int]:
        """First index and number of the sequences that come after this share's first `done`, up to a block's end."""
        ranks, workers = share["world_size"], share["workers"]
        shares = ranks * workers
        turn, inside = divmod(done, self.block_size)
        start = self.start
        if self.count is not None:
            start += epoch * self.count
            turns, rest = divmod(self.count, shares * self.block_size)
            if turn >= turns:  # the last turn is shorter: parts as equal as can be, and equal between processes
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
        """Which share of the stream this process or worker has."""
        rank, world_size = self._rank_and_world()
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return {"rank": rank, "world_size": world_size, "worker": number, "workers": workers}

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a state to be this stream's."""
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
    """Whole batches of a stream without end, for a loader with `batch_size=None`: nothing is cut up and put together.

    Args:
        stream: what to give, from its `start` on.
        batch_size: sequences of one batch, on each process.
        rank: this process.
        world_size: processes; together they give each sequence once.
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
