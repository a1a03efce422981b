"""Sending the trainer's weights to the vLLM servers.

TRL walks the parameters (gathering shards, merging adapters) and hands them to its `VLLMClient`. Ours differs in three
things: it serves several servers as one group of workers, every call has a timeout, and on a CPU the tensors travel by
gloo instead of NCCL. A failure is remembered instead of raised in the middle of the walk: gathering is collective, so
the other processes have to be walked along with to the end, where an adapter is unmerged again.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import requests
import torch
from requests.adapters import HTTPAdapter
from trl.generation import vllm_generation
from trl.generation.vllm_client import VLLMClient

from metarlgym.datatypes import MetaRLGymError
from metarlgym.serving.command import LOOPBACK
from metarlgym.serving.gloo import GlooGroup
from metarlgym.serving.handshake import parse_urls, wait_for_server


class WeightSyncError(MetaRLGymError):
    """The servers could not be given the weights."""


class ServerGroupClient(VLLMClient):
    """TRL's client for one or several servers that receive the same weights.

    Args:
        base_url: addresses, separated by commas.
        group_port: port of the trainer's rendezvous.
        connection_timeout: seconds to wait for each server.
        sync_timeout: seconds that joining, and one update of all weights, may take.
    """

    def __init__(
        self, base_url: str, group_port: int = 51216, connection_timeout: float = 0.0, sync_timeout: float = 300.0
    ) -> None:
        self.urls = parse_urls(base_url)
        self.sync_timeout = sync_timeout
        self.failure: str | None = None
        """Why the last sync failed; None while all is well."""
        self.seconds = 0.0
        """What the last sync took."""
        self._workers: list[int] = []
        self._group: GlooGroup | None = None
        super().__init__(base_url=self.urls[0], group_port=group_port, connection_timeout=connection_timeout)
        # No retries: an update that was broken off must not be begun again in its middle. And no connection is used
        # twice: uvicorn closes one on which it answered 500, which the next call would take for a lost server.
        self.session.headers["Connection"] = "close"
        self.session.mount("http://", HTTPAdapter(pool_maxsize=16))
        self.session.mount("https://", HTTPAdapter(pool_maxsize=16))

    # ------------------------------------------------------------------ TRL's calls, for several servers

    def check_server(self, total_timeout: float = 0.0, retry_interval: float = 2.0) -> None:
        for url in self.urls:
            wait_for_server(url, total_timeout)

    def get_world_size(self) -> int:
        """Workers of all servers together."""
        if not self._workers:
            self._workers = [int(self._get(f"{url}/get_world_size")["world_size"]) for url in self.urls]
        return sum(self._workers)

    def _get(self, url: str, **kwargs: Any) -> Any:
        return super()._get(url, timeout=self.sync_timeout, **kwargs)

    def _post(self, url: str, **kwargs: Any) -> Any:
        """Post to all servers at once; each gets its own place in the group where ranks are given out."""
        path = url.removeprefix(self.base_url)
        futures, offset = [], 0
        for server, workers in zip(self.urls, self._workers or [0] * len(self.urls)):
            own = dict(kwargs)
            if "init_info" in (kwargs.get("json") or {}):
                first = kwargs["json"]["init_info"]["rank_offset"]
                own["json"] = {"init_info": kwargs["json"]["init_info"] | {"rank_offset": first + offset}}
                offset += workers
            futures.append(in_background(partial(self._post_one, server, path, own)))
        answers = [future.result() for future in futures]
        return answers[0]

    def _post_one(self, server: str, path: str, kwargs: dict[str, Any]) -> Any:
        try:
            answer = self.session.post(server + path, timeout=self.sync_timeout, **kwargs)
        except requests.Timeout:
            raise WeightSyncError(
                f"{server}{path} did not answer within weight_sync_timeout={self.sync_timeout:g} s"
            ) from None
        except requests.RequestException as error:
            raise WeightSyncError(f"{server}{path}: the connection was lost ({type(error).__name__})") from None
        if answer.status_code != 200:
            raise WeightSyncError(f"{server}{path} answered HTTP {answer.status_code}: {answer.text[:300].strip()}")
        return answer.json() if answer.content else {}

    def _start_weight_update(self) -> None:
        try:
            super()._start_weight_update()
        except WeightSyncError as error:
            if "HTTP 5" not in str(error):
                raise
            # An earlier trainer may have gone in the middle of an update: close it and begin anew.
            self._finish_weight_update()
            super()._start_weight_update()

    # ------------------------------------------------------------------ joining

    def init_communicator(self, device: torch.device | str | int = 0) -> None:
        """Join the servers' workers in one group: TRL's way on CUDA, through gloo elsewhere."""
        device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        world_size = self.get_world_size() + 1
        address = own_address(self.urls)
        if device.type == "cuda":
            # Where vLLM, which TRL asks for the trainer's address, cannot find it out by itself.
            os.environ.setdefault("VLLM_HOST_IP", address)
            with last_resort(self.sync_timeout, f"joining the vLLM servers {', '.join(self.urls)}"):
                super().init_communicator(device)
            return
        info = {
            "master_address": address,
            "master_port": self.group_port,
            "rank_offset": 1,
            "world_size": world_size,
            "timeout": self.sync_timeout,
        }

        def join() -> GlooGroup:
            try:
                return GlooGroup(address, self.group_port, 0, world_size, self.sync_timeout)
            except RuntimeError as error:
                taken = "EADDRINUSE" in str(error) or "address already in use" in str(error).lower()
                fix = f"vllm_group_port={self.group_port} is taken: give another" if taken else _first_line(error)
                raise WeightSyncError(f"could not open the group for weights at {address}: {fix}") from error

        group = in_background(join)
        posted = in_background(
            lambda: self._post(f"{self.base_url}/init_weight_transfer_engine", json={"init_info": info})
        )
        wait_for_all([group, posted], self.sync_timeout + 5, f"joining the vLLM servers {', '.join(self.urls)}")
        self._group = group.result()

    def close_communicator(self) -> None:
        if self._group is not None:
            self._group.close()
            self._group = None
        elif self.communicator is not None:
            super().close_communicator()

    # ------------------------------------------------------------------ one update

    def update_named_params(
        self, metadata: list[tuple[str, str, list[int]]], named_params: Iterator[tuple[str, torch.Tensor]]
    ) -> None:
        """Send all weights; what goes wrong is kept in `failure`."""
        start = time.monotonic()
        self.failure = None
        try:
            if self._group is None:
                with last_resort(self.sync_timeout, "sending weights to the vLLM servers"):
                    super().update_named_params(metadata, named_params)
            else:
                self._send(metadata, named_params)
        except Exception as error:
            self.failure = f"{type(error).__name__}: {_first_line(error)}"
        for _ in named_params:  # walk on with the other processes
            pass
        self.seconds = time.monotonic() - start

    def _send(
        self, metadata: list[tuple[str, str, list[int]]], named_params: Iterator[tuple[str, torch.Tensor]]
    ) -> None:
        assert self._group is not None
        names, dtypes, shapes = (list(part) for part in zip(*metadata, strict=True))
        info = {"names": names, "dtype_names": dtypes, "shapes": shapes}
        self._start_weight_update()
        posted = in_background(lambda: self._post(f"{self.base_url}/update_weights", json={"update_info": info}))
        try:
            for name, tensor in named_params:
                if posted.done():  # before it has everything, so it has failed
                    posted.result()
                    raise WeightSyncError(f"a server stopped receiving before {name}")
                self._group.broadcast(tensor.detach().contiguous())
        except RuntimeError as error:
            # The server's own word, if it has one, tells more than a lost connection.
            wait_for_all([posted], 10, "hearing from the servers what went wrong", quiet=True)
            reason = posted.exception() if posted.done() else None
            raise WeightSyncError(
                str(reason or f"the connection to a server was lost: {_first_line(error)}")
            ) from error
        wait_for_all([posted], self.sync_timeout, "the servers' loading of the weights")
        self._finish_weight_update()

    def reset_prefix_cache(self) -> None:
        if self.failure is None:
            try:
                self._post(f"{self.base_url}/reset_prefix_cache")
            except WeightSyncError as error:
                self.failure = str(error)


# ---------------------------------------------------------------------- helpers


@contextmanager
def our_client(sync_timeout: float) -> Iterator[None]:
    """Within this, TRL makes a `ServerGroupClient` where it would make its own client."""

    def make(**kwargs: Any) -> ServerGroupClient:
        return ServerGroupClient(**kwargs, sync_timeout=sync_timeout)

    with mock.patch.object(vllm_generation, "VLLMClient", make):
        yield


def in_background(work: Callable[[], Any]) -> Future[Any]:
    """Run in a daemon thread: one that hangs must not keep the process from ending, as an executor's would."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def wait_for_all(futures: list[Future[Any]], timeout: float, what: str, quiet: bool = False) -> None:
    """Wait for all; the first exception is raised as soon as it happens.

    Raises:
        WeightSyncError: not done in time.
    """
    deadline = time.monotonic() + timeout
    while not all(future.done() for future in futures):
        failed = next((f for f in futures if f.done() and f.exception() is not None), None)
        if failed is not None or time.monotonic() > deadline:
            break
        time.sleep(0.002)
    if quiet:
        return
    for future in futures:
        if future.done():
            future.result()
    if not all(future.done() for future in futures):
        raise WeightSyncError(f"{what} took longer than weight_sync_timeout={timeout:g} s")


@contextmanager
def last_resort(seconds: float, what: str) -> Iterator[None]:
    """End this process when the work inside hangs: a broadcast that NCCL waits in cannot be interrupted otherwise."""

    def end() -> None:
        print(
            f"error: {what} took longer than weight_sync_timeout={seconds:g} s; a server may have died. This process "
            "ends now: go on from the last checkpoint with --resume.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(75)

    timer = threading.Timer(seconds + 10, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def own_address(urls: list[str]) -> str:
    """The address under which all of the servers reach this machine."""
    elsewhere = [parts for parts in map(urlsplit, urls) if parts.hostname not in LOOPBACK]
    if not elsewhere:
        return "127.0.0.1"
    host, parts = elsewhere[0].hostname, elsewhere[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # nothing is sent: it only looks up the route
        probe.connect((host, parts.port or 80))
        return str(probe.getsockname()[0])


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
