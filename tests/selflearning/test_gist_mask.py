"""The gist mask against its words, and against the gradient: what cannot be seen has no part in the loss."""

from __future__ import annotations

import pytest
import torch

from metarlgym.datatypes import ConfigError
from metarlgym.selflearning.gist_tokens.config import Config
from metarlgym.selflearning.gist_tokens.leak import chunk_1_gradient
from metarlgym.selflearning.gist_tokens.mask import VIEWS, gist_mask
from metarlgym.selflearning.gist_tokens.model import GistModel
from metarlgym.selflearning.gist_tokens.sampling import sample

CONFIG = Config(alphabet=6, n1=5, n2=4, hidden_size=16, layers=3, heads=4)
FIRST = torch.randint(6, (8, 5), generator=torch.Generator().manual_seed(0))
SECOND = torch.randint(6, (8, 4), generator=torch.Generator().manual_seed(1))


def seen(gists: str, view: str) -> list[str]:
    """For each token of a row such as `..GG.`, what it sees: `#` or `-` by token."""
    mask = gist_mask(torch.tensor([[mark == "G" for mark in gists]]), view)
    assert mask.shape == (1, 1, len(gists), len(gists)) and mask.dtype == torch.float32
    assert ((mask == 0) | (mask == torch.finfo(torch.float32).min)).all()
    return ["".join("#" if x == 0 else "-" for x in row) for row in mask[0, 0]]


def test_masks_by_hand():
    causal = ["#-----", "##----", "###---", "####--", "#####-", "######"]
    assert seen("..GG..", "no_bottleneck") == causal
    assert seen("..GG..", "gist") == ["#-----", "##----", "###---", "####--", "--###-", "--####"]
    assert seen("..GG..", "no_gist") == ["#-----", "##----", "--#---", "--##--", "----#-", "----##"]
    assert seen("GG..", "gist") == ["#---", "##--", "###-", "####"]  # nothing before
    assert seen("..GG", "gist") == ["#---", "##--", "###-", "####"]  # nothing after


@pytest.mark.parametrize("view", VIEWS)
def test_rows_without_gists_are_causal(view):
    gists = torch.zeros(3, 6, dtype=torch.bool)
    gists[1, 2:4] = True
    mask = gist_mask(gists, view)
    causal = torch.full((6, 6), torch.finfo(torch.float32).min).triu(1)
    assert torch.equal(mask[0, 0], causal) and torch.equal(mask[2, 0], causal)
    assert torch.equal(mask[1, 0], causal) == (view == "no_bottleneck")


def test_unknown_view():
    with pytest.raises(ConfigError, match="view='both' is not known: use one of gist, no_bottleneck, no_gist"):
        gist_mask(torch.zeros(1, 3, dtype=torch.bool), "both")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("gists", [1, 3])
def test_nothing_passes_but_gists(gists, attention):
    model = GistModel(CONFIG, gists, "gist", 0)
    model.network.set_attn_implementation(attention)
    assert chunk_1_gradient(model, FIRST, SECOND, cut=False) > 1e-4
    assert chunk_1_gradient(model, FIRST, SECOND, cut=True) == 0.0
    assert chunk_1_gradient(model, FIRST, SECOND, cut=False) > 1e-4  # the hooks are gone


def test_controls():
    none, free = GistModel(CONFIG, 2, "no_gist", 0), GistModel(CONFIG, 2, "no_bottleneck", 0)
    assert chunk_1_gradient(none, FIRST, SECOND, cut=False) == 0.0
    assert chunk_1_gradient(free, FIRST, SECOND, cut=True) > 1e-4  # so the check can see a hole


@torch.no_grad()
def test_chunk_2_does_not_depend_on_chunk_1_without_gists():
    other = FIRST.flip(1)
    for view in VIEWS:
        model = GistModel(CONFIG, 2, view, 0)
        change = (model.logits(FIRST, SECOND)[1] - model.logits(other, SECOND)[1]).abs().max()
        assert (change == 0) == (view == "no_gist"), view


@torch.no_grad()
def test_gist_states_are_what_later_tokens_read():
    """Chunks with the same gist states have the same predictions: here, by putting one's states into the other."""
    model = GistModel(CONFIG, 2, "gist", 0)
    states = model.states(FIRST)
    assert states.shape == (8, 2, 2 * 16)
    index = iter(range(2))

    def replaced(_module, _inputs, output):
        own = states.view(8, 2, 2, 16)[:, :, next(index)]
        return torch.cat([output[:, :5], own, output[:, 7:]], 1)

    hooks = [layer.register_forward_hook(replaced) for layer in list(model.network.model.layers)[:-1]]
    found = model.logits(FIRST.flip(1), SECOND)[1]
    for hook in hooks:
        hook.remove()
    # The first symbol is said by the last gist itself, whose last layer still sees the chunk.
    expected = model.logits(FIRST, SECOND)[1]
    assert torch.allclose(found[:, 1:], expected[:, 1:], atol=1e-5)
    assert not torch.allclose(found[:, :1], expected[:, :1], atol=1e-3)


@torch.no_grad()
def test_samples_from_gists_alone_follow_the_model():
    model = GistModel(CONFIG, 2, "gist", 0)
    own = sample(model, FIRST[:1], 4, 4000, torch.Generator().manual_seed(0))
    assert own.shape == (4000, 4) and own.max() < 6
    probs = model.logits(FIRST[:1].expand(4000, -1), own)[1].softmax(-1)
    for place in range(4):  # counts of each symbol against the mean of what the model says along the samples
        counts = torch.bincount(own[:, place], minlength=6) / 4000
        assert (counts - probs[:, place].mean(0)).abs().max() < 0.035, place
    with pytest.raises(ConfigError, match="view='no_gist'"):
        sample(GistModel(CONFIG, 2, "no_gist", 0), FIRST, 4, 2, torch.Generator())
