"""GlooGroup: a minimal process group over TCP through which a trainer sends tensors to the workers of vLLM servers.

It is built directly from a store and a gloo backend instead of with `torch.distributed.init_process_group`, because
trainer and server each already have a default group. Also, under torchrun a rendezvous by URL would join the launcher's
store instead of opening this one, and both sides would wait forever.
"""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import Any

import torch
from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore
from torch.distributed.distributed_c10d import BroadcastOptions


def own_address(host: str, port: int) -> str:
    """The IPv4 address of this machine from which `host` is reached.

    Raises:
        OSError: if the name is unknown or there is no route.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing: only looks up the route
        probe.connect((host, port))
        return str(probe.getsockname()[0])


class GlooGroup:
    """Rank 0 opens the store and broadcasts; the others receive.

    Args:
        host: address of rank 0.
        port: port of rank 0's store.
        rank: 0 for the trainer.
        world_size: number of workers plus the trainer.
        timeout: timeout in seconds for joining and for each broadcast.

    Raises:
        OSError: if the port is in use (rank 0).
        RuntimeError: if not all ranks joined in time.
    """

    def __init__(self, host: str, port: int, rank: int, world_size: int, timeout: float) -> None:
        limit = timedelta(seconds=timeout)
        settings: dict[str, Any] = {"timeout": limit, "wait_for_workers": False}
        if rank == 0:
            # By default the store would listen on all addresses of the machine.
            listening = socket.create_server((host, port)).detach()
            settings |= {"master_listen_fd": listening, "use_libuv": False}
        self._store = TCPStore(host, port, world_size, rank == 0, **settings)
        options = ProcessGroupGloo._Options()
        options._timeout = limit
        # By default gloo listens on the address that the host name resolves to, on some systems 127.0.1.1.
        options._devices = [ProcessGroupGloo.create_device(hostname=own_address(host, port))]
        self._group = ProcessGroupGloo(PrefixStore("weights", self._store), rank, world_size, options)

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Send (rank 0) or fill (others) a contiguous CPU tensor, transferred as raw bytes whatever the dtype."""
        options = BroadcastOptions()
        options.rootRank = 0
        options.rootTensor = 0
        self._group.broadcast([tensor.reshape(-1).view(torch.uint8)], options).wait()

    def close(self) -> None:
        """Close the connections; a peer waiting in a broadcast fails immediately."""
        self._group.shutdown()
        del self._group, self._store
