"""The tree of a micro-batch's rows, attention along its paths, and how rows are dealt to micro-batches."""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace

import pytest
import torch
from uneven_rows import uneven_batch

from metarlgym.training.prefixes import attention, deal, tree
from metarlgym.training.prefixes.attention import TreeAttention
from metarlgym.training.prefixes.deal import partition_trees, scored_tokens, together
from metarlgym.training.prefixes.tree import IGNORED, PrefixTree, path_of


def family(seed, rows=9, length=24, symbols=2):
    """Rows that begin alike in many ways, some equal, some with nothing scored; padded on both sides."""
    rng = random.Random(seed)
    texts: list[list[int]] = []
    for _ in range(rows):
        start = rng.choice(texts)[: rng.randint(0, length)] if texts else []
        count = rng.choice([0, rng.randint(0, length)])
        texts.append((start + [rng.randrange(1, symbols + 1) for _ in range(count)])[:length] or [1])
    left = [rng.randint(0, 3) for _ in texts]
    width = max(a + len(text) for a, text in zip(left, texts)) + 1
    ids = torch.zeros(rows, width, dtype=torch.long)
    mask, scored = torch.zeros_like(ids), torch.zeros(rows, width, dtype=torch.bool)
    for i, (a, text) in enumerate(zip(left, texts)):
        ids[i, a : a + len(text)] = torch.tensor(text)
        mask[i, a : a + len(text)] = 1
        share = rng.choice([0.0, 0.3, 1.0])
        scored[i, a : a + len(text)] = torch.tensor([rng.random() < share for _ in text])
    return ids, mask, scored


@pytest.fixture(params=[1, 4, 1000])
def worth(request, monkeypatch):
    monkeypatch.setattr(tree, "WORTH", request.param)
    return request.param


@pytest.mark.parametrize("seed", range(40))
def test_each_scored_token_is_predicted_after_all_tokens_before_it(seed, worth):
    ids, mask, scored = family(seed)
    made = PrefixTree.of(ids, mask, scored)
    for node in made.nodes:
        path = path_of(made.nodes, made.nodes.index(node))
        assert made.positions[path].tolist() == list(range(len(path)))
    ends = {int(path_of(made.nodes, k)[-1]): path_of(made.nodes, k) for k in range(len(made.nodes))}
    for row in range(len(ids)):
        columns = mask[row].nonzero()[:, 0].tolist()
        for place, column in enumerate(columns):
            found = int(made.predictors[row, column])
            if not (scored[row, column] and place):
                assert found == -1
                continue
            assert made.labels[found] == ids[row, column]
            (path,) = [path for end, path in ends.items() if found in path][:1]
            before = path[: path.tolist().index(found) + 1]
            assert made.ids[before].tolist() == ids[row, columns[:place]].tolist()
    wanted = {int(at) for at in made.predictors.flatten() if at >= 0}
    assert set((made.labels != IGNORED).nonzero()[:, 0].tolist()) == wanted
    assert made.scored == len(wanted)


@pytest.mark.parametrize("seed", range(10))
def test_no_token_is_there_twice_where_all_sharing_is_worth_it(seed, monkeypatch):
    monkeypatch.setattr(tree, "WORTH", 1)
    ids, mask, scored = family(seed)
    made = PrefixTree.of(ids, mask, scored)
    seen = set()
    for row in range(len(ids)):
        tokens = ids[row, mask[row].bool()].tolist()
        there = scored[row, mask[row].bool()].nonzero()[:, 0].tolist()
        last = there[-1] if there else 0
        # A token is one with another's if the token after it is the same, too.
        seen |= {tuple(tokens[: k + 2]) for k in range(last)}
    assert len(made.ids) == max(1, len(seen))


def test_rows_of_which_nothing_is_scored_are_left_out():
    ids = torch.arange(1, 41).view(2, 20)
    scored = torch.zeros_like(ids, dtype=torch.bool)
    scored[0, 9] = True
    made = PrefixTree.of(ids, torch.ones_like(ids), scored)
    assert made.ids.tolist() == list(range(1, 10)) and made.labels.tolist() == [IGNORED] * 8 + [10]
    nothing = PrefixTree.of(ids, torch.ones_like(ids), torch.zeros_like(scored))
    assert nothing.ids.tolist() == [1] and nothing.labels.tolist() == [IGNORED] and nothing.scored == 0
    empty = PrefixTree.of(ids, torch.zeros_like(ids), scored)
    assert len(empty.ids) == 1 and empty.scored == 0


def test_a_chain_of_rows_as_deep_as_it_is_long(monkeypatch):
    """Deeper than Python's recursion."""
    monkeypatch.setattr(tree, "WORTH", 1)
    count = 1500
    ids = torch.ones(count, count + 1, dtype=torch.long).tril(-1) + 1
    made = PrefixTree.of(ids, torch.ones_like(ids), torch.ones_like(ids, dtype=torch.bool))
    assert len(made.nodes) > count


# ---------------------------------------------------------------------- attention


def layer(groups):
    return SimpleNamespace(num_key_value_groups=groups, is_causal=True)


@pytest.mark.parametrize("heads", [(4, 4), (6, 2)], ids=str)
@pytest.mark.parametrize("seed", range(6))
def test_attention_along_the_paths_is_that_of_whole_rows(seed, heads, worth):
    ids, mask, scored = family(seed, rows=12)
    made = PrefixTree.of(ids, mask, scored)
    many, few = heads
    draw = torch.Generator().manual_seed(seed)
    states = [torch.randn(1, count, len(made.ids), 8, generator=draw, requires_grad=True) for count in (many, few, few)]
    along_paths = TreeAttention(made.nodes, torch.device("cpu"))
    out, _ = along_paths(layer(many // few), *states, scaling=0.3)
    assert out.shape == (1, len(made.ids), many, 8)
    weight = torch.randn(out.shape, generator=draw)
    ours = torch.autograd.grad((out * weight).sum(), states)
    total = torch.zeros(())
    for k, node in enumerate(made.nodes):
        path = torch.from_numpy(path_of(made.nodes, k))
        q, key, value = (x[:, :, path] for x in states)
        key, value = (x.repeat_interleave(many // few, 1) for x in (key, value))
        whole = torch.nn.functional.scaled_dot_product_attention(q, key, value, is_causal=True, scale=0.3)
        own = path[-node.length :]
        torch.testing.assert_close(out[0, own], whole[0, :, -node.length :].transpose(0, 1))
        total = total + (whole[0, :, -node.length :].transpose(0, 1) * weight[0, own]).sum()
    for one, other in zip(ours, torch.autograd.grad(total, states)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_batches_compute_little_that_is_not_needed(monkeypatch):
    rng = random.Random(0)
    prompt = [rng.randrange(50) for _ in range(300)]
    rows = [prompt + [rng.randrange(50) for _ in range(rng.randint(10, 400))] for _ in range(64)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    made = PrefixTree.of(ids, mask, mask.bool())
    batches = TreeAttention(made.nodes, torch.device("cpu")).batches
    needed = sum(node.length * (node.start + node.length) for node in made.nodes)
    computed = sum(b.queries.numel() * (b.queries if b.keys is None else b.keys).shape[1] for b in batches)
    assert needed <= computed <= 1.25 * needed
    assert len(batches) < 12


# ---------------------------------------------------------------------- dealing


def batch_of(rows, seed, prompts=3):
    """Rows of a few prompts of 40 tokens, in random order."""
    batch = uneven_batch(rows, 50, seed, prompts=prompts)
    del batch["noise"]
    batch["num_items_in_batch"] = torch.tensor(7)
    batch["advantages"] = torch.arange(rows)[:, None].expand(batch["completion_ids"].shape).float()
    return batch


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("limit", [1, 200, 1000])
def test_each_row_is_in_one_tree_within_the_limit(seed, limit):
    batch = batch_of(24, seed)
    parts = partition_trees(batch, limit)
    assert sorted(row for part in parts for row in part) == list(range(24))
    scored = batch["completion_mask"] * batch["tool_mask"]
    for part in parts:
        rows = torch.tensor([row for row in part if scored[row].any()])
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)[rows]
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)[rows]
        wide = torch.cat([torch.zeros_like(batch["prompt_mask"]), scored], 1)[rows]
        assert len(rows) == 1 or len(PrefixTree.of(ids, mask, wide).ids) <= limit
    assert limit > 1 or len(parts) == int(scored.any(1).sum())


def test_rows_that_the_exploration_bonus_alone_reads_count():
    batch = batch_of(24, 0)
    batch["tool_mask"] = torch.zeros_like(batch["tool_mask"])
    batch["choice_positions"] = torch.tensor([[4, -1], [9, 12]] * 12)
    assert scored_tokens(batch).sum(1).tolist() == [1, 2] * 12
    parts = partition_trees(batch, 100)
    assert len(parts) > 3 and sorted(row for part in parts for row in part) == list(range(24))


def test_masks_stay_small(monkeypatch):
    """Nodes that begin at many positions get batches of their own where one mask for all would be large."""
    monkeypatch.setattr(attention, "MASK", 3000)
    rng = random.Random(0)
    rows = []
    for task in range(4):
        prompt = [rng.randrange(50) for _ in range(30 + 3 * task)]
        rows += [prompt + [rng.randrange(50) for _ in range(20)] for _ in range(6)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    made = PrefixTree.of(ids, mask, mask.bool())
    batches = TreeAttention(made.nodes, torch.device("cpu")).batches
    assert len(batches) > 2
    assert all(batch.mask is None or len(batch.mask) == 1 or batch.mask.numel() <= 3000 for batch in batches)


def test_rows_without_scored_tokens_get_a_micro_batch_if_there_are_no_others():
    batch = batch_of(3, 0)
    batch["tool_mask"] = torch.zeros_like(batch["tool_mask"])
    assert partition_trees(batch, 100) == [[0, 1, 2]]


def test_rows_that_begin_alike_are_put_together():
    batch = batch_of(24, 0)
    parts = [{name: value if value.dim() == 0 else value[i::4] for name, value in batch.items()} for i in range(4)]
    dealt = together(parts)
    assert [len(part["prompt_ids"]) for part in dealt] == [6] * 4
    prompts = [tuple(row) for part in dealt for row in part["prompt_ids"].tolist()]
    assert len([1 for one, other in itertools.pairwise(prompts) if one != other]) == 2
    rows = torch.cat([part["advantages"][:, 0] for part in dealt]).long()
    assert sorted(rows.tolist()) == list(range(24))
    for name, value in batch.items():
        if value.dim():
            assert torch.equal(torch.cat([part[name] for part in dealt]), value[rows]), name
    assert all(part["num_items_in_batch"] == 7 for part in dealt)


def test_rows_with_parts_that_cannot_be_divided_stay_as_they_are():
    parts = [{**batch_of(4, seed), "pixel_values": torch.zeros(3)} for seed in range(2)]
    assert together(parts) == parts
    assert deal.together(parts[:1]) == parts[:1]
