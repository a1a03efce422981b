"""Networks with memory: causal, saved and loaded whole, generating as their logits say."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from metarlgym import ConfigError
from metarlgym.models.networks import NETWORKS, POSITIONS, NetworkArguments, make_network
from metarlgym.models.recurrent import CELLS
from metarlgym.models.stack_rnn import StackRNN

KINDS = {
    **{positions: {"positions": positions} for positions in POSITIONS},
    "rotary-window": {"positions": "rotary", "sliding_window": 4},
    "relative-window": {"positions": "relative", "sliding_window": 4},
    **{cell: {"network": cell, "mlp_before": 1, "mlp_after": 1} for cell in CELLS},
}


@pytest.fixture(params=KINDS, ids=str)
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def network(kind):
    return make_network(NetworkArguments(hidden_size=16, **kind), 5, 32).eval()


IDS = torch.randint(5, (3, 10), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_is_causal_and_remembers(network, kind):
    before = network(input_ids=IDS).logits
    changed = IDS.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 5
    apart = (network(input_ids=changed).logits - before).abs().amax((0, 2))
    assert (apart[:5] == 0).all() and (apart[5:7] > 1e-5).all()
    # Two layers with a window of 4 see 6 symbols back and no further.
    far = IDS.clone()
    far[:, 0] = (far[:, 0] + 1) % 5
    seen = (network(input_ids=far).logits - before).abs().amax((0, 2))[9]
    assert (seen < 1e-6) == ("sliding_window" in kind)


@torch.no_grad()
def test_saves_loads_and_generates(network, tmp_path):
    network.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(input_ids=IDS).logits, network(input_ids=IDS).logits)
    expected = IDS
    for _ in range(6):
        expected = torch.cat([expected, network(input_ids=expected).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(loaded.generate(IDS, max_new_tokens=6, do_sample=False), expected)


def test_labels_shifted_inside(network):
    """As with all of Hugging Face's causal models."""
    out = network(input_ids=IDS, labels=IDS)
    by_hand = torch.nn.functional.cross_entropy(out.logits[:, :-1].reshape(-1, 5).float(), IDS[:, 1:].reshape(-1))
    assert out.loss.item() == pytest.approx(by_hand.item(), abs=1e-5)


def test_seed_draws_the_weights():
    one, same, other = (make_network(NetworkArguments(network="lstm"), 5, 32, seed) for seed in (0, 0, 1))
    assert torch.equal(one.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


@pytest.mark.parametrize("cell", CELLS)
@torch.no_grad()
def test_recurrent_state_goes_on(cell):
    network = make_network(NetworkArguments(network=cell, num_layers=2), 5, 32).eval()
    whole = network(input_ids=IDS).logits
    first = network(input_ids=IDS[:, :4])
    rest = network(input_ids=IDS[:, 4:], state=first.state)
    assert torch.allclose(torch.cat([first.logits, rest.logits], 1), whole, atol=1e-6)


@torch.no_grad()
def test_relative_positions_are_relative():
    """With a window, what lies before it does not matter, so the same symbols later in a sequence look the same."""
    args = NetworkArguments(positions="relative", num_layers=1, hidden_size=16, num_heads=2, sliding_window=3)
    network = make_network(args, 5, 32).eval()
    early = network(input_ids=torch.tensor([[4, 1, 2, 3]])).logits[0, -1]
    late = network(input_ids=torch.tensor([[0, 0, 4, 0, 2, 1, 2, 3]])).logits[0, -1]
    assert torch.allclose(early, late, atol=1e-6)


class TestStack:
    def test_pushes_and_pops(self):
        """With the choice of action forced, the stack is a stack."""
        layer = StackRNN(1, 3, stacks=1, cells=4)
        values = [0.9, 0.2, 0.6]
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.zero_()
            stack = torch.zeros(1, 1, 4)
            for value in values:
                layer.act.bias.copy_(torch.tensor([50.0, 0, 0]))
                layer.value.bias.fill_(float(torch.logit(torch.tensor(value))))
                _, (_, stack) = layer(torch.zeros(1, 1, 1), (torch.zeros(1, 3), stack))
            assert stack[0, 0].tolist() == pytest.approx([0.6, 0.2, 0.9, 0.0], abs=1e-5)
            layer.act.bias.copy_(torch.tensor([0, 50.0, 0]))
            _, (_, stack) = layer(torch.zeros(1, 1, 1), (torch.zeros(1, 3), stack))
            assert stack[0, 0].tolist() == pytest.approx([0.2, 0.9, 0.0, 0.0], abs=1e-5)
            layer.act.bias.copy_(torch.tensor([0, 0, 50.0]))
            _, (_, stack) = layer(torch.zeros(1, 1, 1), (torch.zeros(1, 3), stack))
            assert stack[0, 0].tolist() == pytest.approx([0.2, 0.9, 0.0, 0.0], abs=1e-5)

    def test_what_was_pushed_is_seen_later(self):
        layer = StackRNN(2, 4)
        inputs = torch.randn(1, 6, 2, requires_grad=True)
        layer(inputs)[0][0, -1].sum().backward()
        assert (inputs.grad[0].abs().sum(1) > 0).all()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"network": "cnn"}, "network='cnn'"),
        ({"positions": "absent"}, "positions='absent'"),
        ({"hidden_size": 0}, "hidden_size=0"),
        ({"num_heads": 3}, "num_heads=3"),
        ({"num_heads": 64}, "num_heads=64"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"dropout": 0.1}, "dropout=0.1"),
        ({"positions": "alibi", "sliding_window": 4}, "sliding_window=4"),
        ({"network": "lstm", "sliding_window": 4}, "sliding_window=4"),
        ({"sliding_window": 0}, "sliding_window=0"),
        ({"network": "rnn", "dropout": 0.1}, "dropout=0.1 is for network=transformer, not rnn"),
        ({"network": "rnn", "stacks": 2}, "stacks=2 is for network=stack_rnn, not rnn"),
        ({"network": "rnn", "timescale": 100}, "timescale=100 is for network=lstm, not rnn"),
        ({"network": "lstm", "timescale": 1}, "timescale=1 must be at least 2"),
        ({"mlp_after": 1}, "mlp_after=1 is for network=rnn or lstm or stack_rnn, not transformer"),
    ],
)
def test_bad_settings(settings, told):
    with pytest.raises(ConfigError) as error:
        NetworkArguments(**settings)
    assert told in str(error.value) and "\n" not in str(error.value)


OURS = [{"network": cell, "num_layers": 2} for cell in NETWORKS[1:]]
OURS += [{"positions": "relative"}, {"positions": "relative", "sliding_window": 4}]


@pytest.fixture(params=OURS, ids=str)
def ours(request):
    return make_network(NetworkArguments(hidden_size=16, **request.param), 5, 32)


@pytest.fixture
def padded():
    """Rows of 10, 7 and 1 tokens, padded on the left; the middle one on the right too."""
    mask = torch.ones_like(IDS)
    mask[1, :3] = mask[1, 9:] = mask[2, :9] = 0
    return mask


def test_padding_at_the_beginning_is_skipped(ours, padded):
    out = ours(input_ids=IDS, attention_mask=padded)
    for row, mask in enumerate(padded.bool()):
        alone = ours(input_ids=IDS[row : row + 1, mask])
        torch.testing.assert_close(out.logits[row, mask], alone.logits[0], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(out.last_hidden_state[row, mask], alone.last_hidden_state[0], atol=1e-6, rtol=1e-5)
    out.logits[padded.bool()].sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in ours.parameters())


@torch.no_grad()
def test_generates_from_a_padded_batch_what_it_generates_from_each_row(ours, padded):
    padded[1] = padded[1, 0]  # generation goes on from the last column
    padded[1, 3:] = 1
    many = ours.eval().generate(IDS, attention_mask=padded, max_new_tokens=6, do_sample=False)[:, 10:]
    for row, mask in enumerate(padded.bool()):
        alone = ours.generate(IDS[row : row + 1, mask], max_new_tokens=6, do_sample=False)[0, int(mask.sum()) :]
        assert many[row].tolist() == alone.tolist()


@torch.no_grad()
@pytest.mark.parametrize("cell", NETWORKS[1:])
def test_state_after_padding_is_that_of_the_row_alone(cell, padded):
    network = make_network(NetworkArguments(network=cell, hidden_size=16, num_layers=2), 5, 32).eval()
    padded[1, 3:] = 1
    state = network(input_ids=IDS, attention_mask=padded).state
    more = network(input_ids=IDS[:, :2], state=state).logits
    for row, mask in enumerate(padded.bool()):
        ids = torch.cat([IDS[row, mask], IDS[row, :2]])[None]
        torch.testing.assert_close(more[row], network(input_ids=ids).logits[0, -2:], atol=1e-6, rtol=1e-5)


def test_timescale_spreads_what_lstm_units_forget():
    made = make_network(NetworkArguments(network="lstm", hidden_size=64, timescale=100), 2, 16)
    gates = made.core.bias_ih_l0.view(4, 64) + made.core.bias_hh_l0.view(4, 64)
    # Mean memory of a unit, 1 / (1 - forget), is spread over 2..100; the other bias adds little.
    memory = 1 / (1 - torch.sigmoid(made.core.bias_ih_l0.view(4, 64)[1]))
    assert 2 <= memory.min() < 15 and 80 < memory.max() <= 100
    assert torch.equal(made.core.bias_ih_l0.view(4, 64)[0], -made.core.bias_ih_l0.view(4, 64)[1])
    assert gates[3].abs().max() < 0.5
    again = make_network(NetworkArguments(network="lstm", hidden_size=64), 2, 16)
    assert torch.equal(again.core.bias_ih_l0.view(4, 64)[1], torch.ones(64))
