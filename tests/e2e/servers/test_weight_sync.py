"""ServerGroupClient against servers that take weights as vLLM's workers do, and fail on demand."""

import socket
import threading
import time

import pytest
import torch
from trl.generation.vllm_client import VLLMClient

from metarlgym.serving.gloo import GlooGroup
from metarlgym.serving.timeouts import WeightSyncError
from metarlgym.serving.weight_sync import ServerGroupClient, own_address
from tests.e2e.servers.conftest import free_port
from tests.fake_vllm import FakeVLLM


class Receiver(FakeVLLM):
    """Holds what it was sent; `fail` is the path of the call it refuses."""

    def __init__(self, fail: str = "", stop_after: int | None = None) -> None:
        super().__init__()
        self.fail, self.stop_after = fail, stop_after
        self.weights: dict[str, torch.Tensor] = {}
        self.group: GlooGroup | None = None
        self.on_control = self.take

    def take(self, path: str, body: dict) -> int:
        if path == self.fail:
            return 500
        if path == "/init_weight_transfer_engine":
            info = body["init_info"]
            self.group = GlooGroup(
                info["master_address"], info["master_port"], info["rank_offset"], info["world_size"], info["timeout"]
            )
        if path == "/update_weights":
            info = body["update_info"]
            for i, (name, dtype, shape) in enumerate(zip(info["names"], info["dtype_names"], info["shapes"])):
                if i == self.stop_after:
                    self.group.close()
                    return 500
                tensor = torch.empty(shape, dtype=getattr(torch, dtype))
                self.group.broadcast(tensor)
                self.weights[name] = tensor
        return 200


WEIGHTS = {
    "a": torch.randn(3, 5),
    "b": torch.randn(4).to(torch.bfloat16),
    "scalar": torch.tensor(2.5),
    "turned": torch.randn(6, 2).T,
    "large": torch.randn(512, 513),
}
METADATA = [(name, str(t.dtype).removeprefix("torch."), list(t.shape)) for name, t in WEIGHTS.items()]


@pytest.fixture
def receivers():
    made = []

    def make(*arguments, **settings):
        made.append(Receiver(*arguments, **settings))
        return made[-1]

    yield make
    for server in made:
        server.stop()


def connect(*servers, timeout=5.0):
    client = ServerGroupClient(
        ",".join(s.url for s in servers), group_port=free_port(), connection_timeout=1.0, sync_timeout=timeout
    )
    client.init_communicator("cpu")
    return client


def test_all_servers_get_all_weights_bit_for_bit(receivers):
    servers = [receivers(), receivers()]
    client = connect(*servers)
    for _ in range(2):
        client.update_named_params(METADATA, iter(WEIGHTS.items()))
        client.reset_prefix_cache()
        assert client.failure is None
        for server in servers:
            assert server.weights.keys() == WEIGHTS.keys()
            assert all(server.weights[name].equal(WEIGHTS[name]) for name in WEIGHTS)
            server.weights.clear()
    ranks = [dict(server.control)["/init_weight_transfer_engine"]["init_info"]["rank_offset"] for server in servers]
    assert ranks == [1, 2]
    assert len({client.version, *(dict(s.control)["/finish_weight_update"]["weight_version"] for s in servers)}) == 1
    for server in servers:
        assert [path for path, _ in server.control][-6:] == [
            "/pause",
            "/start_weight_update",
            "/update_weights",
            "/finish_weight_update",
            "/resume",
            "/reset_prefix_cache",
        ]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fail": "/finish_weight_update"}, "/finish_weight_update answered HTTP 500"),
        ({"fail": "/update_weights"}, "/update_weights answered HTTP 500"),
        ({"stop_after": 4}, "/update_weights answered HTTP 500"),
    ],
    ids=["finish", "update", "in the middle"],
)
def test_a_failed_update_is_kept_and_the_walk_ends(settings, words, receivers):
    server = receivers(**settings)
    client = connect(server)
    walked = []

    def parameters():
        for name, tensor in WEIGHTS.items():
            walked.append(name)
            yield name, tensor

    begin = time.monotonic()
    client.update_named_params(METADATA, parameters())
    assert words in client.failure, client.failure
    assert walked == list(WEIGHTS)  # the other processes were walked along with
    assert time.monotonic() - begin < 20
    client.reset_prefix_cache()
    # A server whose weights are half old, half new stays paused.
    assert dict(server.control).keys().isdisjoint({"/resume", "/reset_prefix_cache"})


def test_weights_that_cannot_be_gathered_are_not_the_servers_fault(receivers):
    server = receivers()
    client = connect(server, timeout=2.0)

    def gather():
        yield from list(WEIGHTS.items())[:2]
        raise RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out")

    with pytest.raises(RuntimeError, match="Timed out"):
        client.update_named_params(METADATA, gather())
    assert client.seconds == 0.0  # it did not wait for the servers


def test_an_update_left_open_by_an_earlier_trainer_is_closed(receivers):
    server = receivers()
    client = connect(server)
    opened = []

    def take(path, body):
        if path == "/start_weight_update" and not opened:
            opened.append(path)
            return 500  # "already active"
        return server.take(path, body)

    server.on_control = take
    client.update_named_params(METADATA, iter(WEIGHTS.items()))
    assert client.failure is None
    assert [path for path, _ in server.control][1:] == [
        "/pause",
        "/start_weight_update",
        "/finish_weight_update",
        "/start_weight_update",
        "/update_weights",
        "/finish_weight_update",
        "/resume",
    ]


def test_a_server_that_refuses_to_join_is_told_at_once(receivers):
    begin = time.monotonic()
    with pytest.raises(WeightSyncError, match="init_weight_transfer_engine answered HTTP 500"):
        connect(receivers("/init_weight_transfer_engine"), timeout=30.0)
    assert time.monotonic() - begin < 5


def test_a_server_that_never_joins_ends_in_an_error(receivers):
    server = receivers()
    server.on_control = lambda path, body: threading.Event().wait(6) or 200
    begin = time.monotonic()
    with pytest.raises(WeightSyncError):
        connect(server, timeout=2.0)
    assert time.monotonic() - begin < 12


def test_a_taken_port_is_named(receivers):
    server = receivers()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        client = ServerGroupClient(server.url, taken.getsockname()[1], 1.0, 5.0)
        with pytest.raises(WeightSyncError, match=r"vllm_group_port=\d+ cannot be opened .*give another"):
            client.init_communicator("cpu")


def test_a_cache_that_is_not_dropped_is_a_failure(receivers, monkeypatch):
    from metarlgym.serving import weight_sync

    monkeypatch.setattr(weight_sync, "RESET_SECONDS", 0.5)
    first, second = receivers(), receivers()
    client = connect(first, second)
    answers = [{"success": False}, {"success": True}]
    second.reply = lambda path: answers.pop(0) if path == "/reset_prefix_cache" else {}
    client.reset_prefix_cache()
    assert client.failure is None and not answers
    second.reply = lambda path: {"success": path != "/reset_prefix_cache"}
    client.reset_prefix_cache()
    assert "could not drop its prefix cache" in client.failure


def test_on_cuda_an_adapter_taken_out_at_the_end_of_the_walk_changes_nothing(receivers, monkeypatch):
    """TRL's NCCL path keeps the tensors of a chunk until the walk has ended."""
    client = ServerGroupClient(receivers().url, free_port(), 1.0, 5.0)
    packed = []
    monkeypatch.setattr(VLLMClient, "update_named_params", lambda self, metadata, walk: packed.extend(walk))
    weight = torch.ones(3)

    def walk():
        weight.add_(1)  # merge
        yield "w", weight.data
        weight.sub_(1)  # unmerge

    client.update_named_params([("w", "float32", [3])], walk())
    assert client.failure is None
    assert packed[0][1].tolist() == [2, 2, 2] and weight.tolist() == [1, 1, 1]


def test_own_address():
    assert own_address(["http://127.0.0.1:8000", "http://localhost:8001"]) == "127.0.0.1"
