"""Streams of sequences for training: every sequence once, wherever it is made, and going on where it stopped."""

import itertools
import json
import multiprocessing
import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.data.torch_dataset import SequenceStream
from metarlgym.sequences.sources import RLM, MetaLM, Piecewise, PseudoLanguage

SOURCE = Piecewise("ptw", T=32, alphabet=64, concentration=5, seed=4)
"""Sequences long enough to be all different."""


def rows(batches):
    return [tuple(row.tolist()) for batch in batches for row in torch.atleast_2d(batch["input_ids"])]


def truth(first, count, split="train"):
    return [tuple(row) for row in SOURCE.tokens(first, count, split).tolist()]


def take(stream, count):
    return rows(itertools.islice(stream, count))


def test_sequences_in_order():
    assert len(set(truth(0, 300))) == 300
    stream = SequenceStream(SOURCE, start=17, block_size=5)
    first = next(iter(stream))
    assert first["input_ids"].shape == first["labels"].shape == (32,)
    assert first["input_ids"].dtype == first["labels"].dtype == torch.int64
    assert take(stream, 23) == truth(17, 23)
    assert take(stream, 23) == truth(17, 23)  # again from the beginning
    assert take(SequenceStream(SOURCE, split="eval", count=9), 99) == truth(0, 9, "eval")


SEEDED = {
    "metalm": MetaLM(V=16, n=3, l=5, e=0.3, L=24, seed=1),
    "rlm": RLM(v=8, L=3, seed_samples=1),
    "piecewise": Piecewise(T=24, alphabet=3, seed=1),
    "pseudo": PseudoLanguage(V=12, n_hidden=8, L=24, seed=1),
}


@pytest.mark.parametrize("name", SEEDED)
def test_labels(name):
    """What a model learns from them is the same either way, when the loss is computed as each way says."""
    source = SEEDED[name]
    plain = next(iter(DataLoader(SequenceStream(source, count=6), batch_size=6)))
    shifted = next(iter(DataLoader(SequenceStream(source, count=6, labels="shifted"), batch_size=6)))
    assert (plain["input_ids"] == shifted["input_ids"]).all()
    if name == "metalm":
        x, y = map(torch.from_numpy, source.batch(0, 6))
        assert (plain["input_ids"] == x).all() and (plain["labels"] == y).all()
        assert (shifted["labels"][:, 0] == -100).all() and (y[:, :-1] != x[:, 1:]).any()
    else:
        tokens = torch.from_numpy(source.tokens(0, 6))
        assert (plain["labels"][:, :-1] == tokens[:, 1:]).all() and (plain["labels"][:, -1] == -100).all()
        assert (shifted["labels"] == tokens).all()
    # A model that shifts inside compares its output at t with labels[t + 1].
    assert (shifted["labels"][:, 1:] == plain["labels"][:, :-1]).all()


def test_hugging_face_loss_sees_the_clean_targets():
    from transformers.loss.loss_utils import ForCausalLMLoss

    source = SEEDED["metalm"]
    plain, shifted = (
        next(iter(DataLoader(SequenceStream(source, labels=labels), batch_size=4))) for labels in ("next", "shifted")
    )
    logits = torch.randn(4, 24, source.vocab_size, generator=torch.Generator().manual_seed(0))
    own = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), plain["labels"][:, :-1].flatten())
    theirs = ForCausalLMLoss(logits, shifted["labels"], source.vocab_size)
    assert theirs.item() == pytest.approx(own.item(), rel=1e-6)


@pytest.mark.parametrize(("labels", "place"), [("next", -2), ("shifted", -1)])
def test_last_token_only(labels, place):
    batch = next(iter(DataLoader(SequenceStream(SEEDED["rlm"], labels=labels, last_only=True), batch_size=5)))
    assert (batch["labels"] != -100).sum() == 5
    assert (batch["labels"][:, place] == batch["input_ids"][:, -1]).all()


@pytest.mark.parametrize("count", [1, 2, 30, 97, 120])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("block_size", [5, 64])
def test_processes_share_a_finite_stream(world_size, block_size, count):
    shares = [
        rows(SequenceStream(SOURCE, start=3, count=count, block_size=block_size, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert sorted(itertools.chain(*shares)) == sorted(truth(3, count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_workers_and_processes_share_a_stream():
    for workers, world_size in ((0, 1), (2, 1), (2, 2)):
        shares = []
        for rank in range(world_size):
            stream = SequenceStream(SOURCE, count=97, block_size=5, rank=rank, world_size=world_size)
            shares.append(rows(DataLoader(stream, batch_size=4, num_workers=workers)))
        assert sorted(itertools.chain(*shares)) == sorted(truth(0, 97))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_blocks_of_the_batch_size_keep_the_order():
    loader = DataLoader(SequenceStream(SOURCE, block_size=8), batch_size=8, num_workers=2)
    assert take(iter(loader), 6) == truth(0, 48)
    ranks = [SequenceStream(SOURCE, block_size=8, rank=rank, world_size=2) for rank in range(2)]
    batches = zip(*(DataLoader(stream, batch_size=8) for stream in ranks))
    assert rows(itertools.chain(*itertools.islice(batches, 3))) == truth(0, 48)


def _one_of_two(rank, path, queue):
    stream = SequenceStream(SOURCE, count=40, block_size=3)  # made before the processes know each other
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    copy = pickle.loads(pickle.dumps(stream))
    torch.distributed.destroy_process_group()
    queue.put((rank, rows(copy), copy.state_dict()["world_size"]))


def test_processes_of_torch_distributed(tmp_path):
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    processes = [fork.Process(target=_one_of_two, args=(rank, tmp_path / "meet", queue)) for rank in range(2)]
    for process in processes:
        process.start()
    found = sorted(queue.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    assert [world for _, _, world in found] == [2, 2]
    assert len(found[0][1]) == len(found[1][1]) == 20
    assert sorted(found[0][1] + found[1][1]) == sorted(truth(0, 40))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("count", [None, 41])
def test_resume_is_exact(rank, count):
    def make():
        return SequenceStream(SOURCE, start=2, count=count, block_size=4, rank=rank, world_size=2)

    everything = take(make(), 20 + rank if count else 40)
    for stop in range(len(everything) + 1):
        stream = make()
        assert take(stream, stop) == everything[:stop]
        state = json.loads(json.dumps(stream.state_dict()))
        again = make()
        again.load_state_dict(state)
        assert again.state_dict() == state
        assert take(pickle.loads(pickle.dumps(again)), 99)[: len(everything) - stop] == everything[stop:]
        assert take(again, 99)[: len(everything) - stop] == everything[stop:]
        assert take(again, 5) == everything[:5]  # a state is for one iteration


def test_resume_through_a_loader():
    loader = DataLoader(SequenceStream(SOURCE, block_size=5), batch_size=7)
    iterator = iter(loader)
    rows(itertools.islice(iterator, 3))
    state = loader.dataset.state_dict()
    loader = DataLoader(SequenceStream(SOURCE, block_size=5), batch_size=7)
    loader.dataset.load_state_dict(state)
    assert take(loader, 2) == truth(21, 14)


def test_epochs_reach_workers_that_stay():
    stream = SequenceStream(SOURCE, count=20, block_size=5)
    loader = DataLoader(stream, batch_size=5, num_workers=2, persistent_workers=True)
    for epoch in (0, 1, 1, 4):
        stream.set_epoch(epoch)
        assert sorted(rows(loader)) == sorted(truth(20 * epoch, 20))
    state = stream.state_dict()
    again = SequenceStream(SOURCE, count=20, block_size=5)
    again.load_state_dict(state)
    assert take(again, 99) == truth(80, 20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "metalm"}, "source='metalm' is not a source"),
        ({"source": Piecewise(T=1, seed=0)}, "leave nothing to predict"),
        ({"source": MetaLM(L=1, seed=0), "labels": "shifted"}, "leave nothing to predict"),
        ({"split": "test"}, "split='test' is not known"),
        ({"start": -1}, "start=-1 must be at least 0"),
        ({"count": 0}, "count=0 must be at least 1"),
        ({"count": 2.5}, "count=2.5 must be a whole number"),
        ({"labels": "raw"}, "labels='raw' is not known"),
        ({"last_only": True}, "such as RLM, not Piecewise: leave it out"),
        ({"block_size": 0}, "block_size=0 must be at least 1"),
        ({"rank": 0}, "belong together"),
        ({"rank": 2, "world_size": 2}, "rank=2 must be at most 1"),
        ({"rank": 0, "world_size": 0}, "world_size=0 must be at least 1"),
    ],
)
def test_bad_values_are_one_line(changes, message):
    with pytest.raises(ConfigError) as caught:
        SequenceStream(**{"source": SOURCE} | changes)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_states_of_other_streams_are_refused():
    state = SequenceStream(SOURCE).state_dict()
    with pytest.raises(ConfigError, match="seed was 4 and is 5"):
        SequenceStream(Piecewise("ptw", T=32, alphabet=64, concentration=5, seed=5)).load_state_dict(state)
    with pytest.raises(ConfigError, match="block_size was 2048 and is 7"):
        SequenceStream(SOURCE, block_size=7).load_state_dict(state)
    with pytest.raises(ConfigError, match="state lacks done"):
        SequenceStream(SOURCE).load_state_dict({k: v for k, v in state.items() if k != "done"})
    with pytest.raises(ConfigError, match="epoch=-1 must be at least 0"):
        SequenceStream(SOURCE).set_epoch(-1)
    other = SequenceStream(SOURCE, rank=0, world_size=2)
    other.load_state_dict(state)
    with pytest.raises(ConfigError, match="world_size was 1 and is 2"):
        iter(other)
    other = SequenceStream(SOURCE)
    other.load_state_dict(state)
    iterator = iter(DataLoader(other, num_workers=2))
    with pytest.raises(ConfigError, match="workers was 1 and is 2"):
        next(iterator)
    iterator._shutdown_workers()  # garbage collection would wait for them for 10 s
