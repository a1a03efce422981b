"""GlooGroup: bytes arrive as they were sent."""

import threading

import pytest
import torch

from metarlgym.serving.gloo import GlooGroup
from tests.e2e.servers.conftest import free_port


def test_broadcast_of_any_type():
    port, sent, got = free_port(), [], []
    sent = [torch.randn(4, 3), torch.tensor(3.5), torch.randn(5).to(torch.bfloat16), torch.arange(7)]

    def receive():
        group = GlooGroup("127.0.0.1", port, 1, 2, 10)
        for tensor in sent:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype)
            group.broadcast(empty)
            got.append(empty)
        group.close()

    thread = threading.Thread(target=receive)
    thread.start()
    group = GlooGroup("127.0.0.1", port, 0, 2, 10)
    for tensor in sent:
        group.broadcast(tensor)
    thread.join(10)
    assert all(a.equal(b) for a, b in zip(sent, got, strict=True))
    with pytest.raises(RuntimeError):  # the other side has gone
        for _ in range(100):
            group.broadcast(torch.zeros(1_000_000))


def test_nobody_joins():
    with pytest.raises(RuntimeError):
        GlooGroup("127.0.0.1", free_port(), 0, 2, 1)
