"""Client that sends the trainer's weights to the vLLM servers.

TRL iterates over the parameters (gathering shards, merging adapters) and passes them to its `VLLMClient`. Ours differs
in three ways: it treats several servers as one group of workers, every call has a timeout, and on CPUs it sends tensors
over gloo instead of NCCL. A failure is recorded instead of raised during the iteration: gathering is collective, so
this process must keep iterating with the others to the end, where adapters are unmerged again.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterator
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

from metarlgym.serving import gloo
from metarlgym.serving.command import LOOPBACK
from metarlgym.serving.gloo import GlooGroup
from metarlgym.serving.handshake import parse_urls, wait_for_server
from metarlgym.serving.timeouts import WeightSyncError, in_background, last_resort, wait_for_all

RESET_SECONDS = 20.0


class ServerGroupClient(VLLMClient):
    """TRL's client, extended to one or more servers that receive the same weights.

    Args:
        base_url: server URLs, separated by commas.
        group_port: port of the trainer's rendezvous.
        connection_timeout: seconds to wait for each server.
        sync_timeout: timeout in seconds for joining the group and for each update of all weights.
    """

    def __init__(
        self, base_url: str, group_port: int = 51216, connection_timeout: float = 0.0, sync_timeout: float = 300.0
    ) -> None:
        self.urls = parse_urls(base_url)
        self.sync_timeout = sync_timeout
        self.failure: str | None = None
        """Why the last sync failed; None if it succeeded."""
        self.seconds = 0.0
        """Duration of the last sync."""
        self.version: str | None = None
        """Id of the weights that the servers have held since the last sync."""
        self._refusal: str | None = None
        """The last error from a server, reported if a broadcast hangs because of it."""
        self._workers: list[int] = []
        self._group: GlooGroup | None = None
        super().__init__(base_url=self.urls[0], group_port=group_port, connection_timeout=connection_timeout)
        # No retries: an aborted update must not be restarted in the middle. No connection reuse: uvicorn closes a
        # connection after answering 500, which the next call would mistake for a lost server.
        self.session.headers["Connection"] = "close"
        self.session.trust_env = False  # no proxies, like aiohttp
        self.session.mount("http://", HTTPAdapter(pool_maxsize=16))
        self.session.mount("https://", HTTPAdapter(pool_maxsize=16))

    # ------------------------------------------------------------------ TRL's calls, for several servers

    def check_server(self, total_timeout: float = 0.0, retry_interval: float = 2.0) -> None:
        for url in self.urls:
            wait_for_server(url, total_timeout)

    def get_world_size(self) -> int:
        """Total number of workers over all servers."""
        if not self._workers:
            self._workers = [int(self._get(f"{url}/get_world_size")["world_size"]) for url in self.urls]
        return sum(self._workers)

    def _get(self, url: str, **kwargs: Any) -> Any:
        return super()._get(url, timeout=self.sync_timeout, **kwargs)

    def _post(self, url: str, **kwargs: Any) -> Any:
        """Post to all servers concurrently; when joining the group, each gets its own rank offset."""
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
        refused = next((answer for answer in answers if answer.get("success") is False), None)
        return refused or answers[0]

    def _post_one(self, server: str, path: str, kwargs: dict[str, Any]) -> Any:
        try:
            return self._answer(server, path, kwargs)
        except WeightSyncError as error:
            self._refusal = str(error)
            raise

    def _answer(self, server: str, path: str, kwargs: dict[str, Any]) -> Any:
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

    def pause(self) -> None:
        """Pause the servers: running requests are answered with what they have sampled, new ones wait.

        vLLM's mode `keep` would go on with them after an update, and nobody could tell which tokens are by which
        weights.

        Raises:
            WeightSyncError: a server does not answer.
        """
        self._post(f"{self.base_url}/pause", params={"mode": "abort"})

    def _start_weight_update(self) -> None:
        """Pause the servers and start an update.

        A request that is still running (abandoned at its deadline, or from another client) would compute with partly
        updated weights, which crashes a server's worker.
        """
        self.pause()
        try:
            super()._start_weight_update()
        except WeightSyncError as error:
            if "HTTP 5" not in str(error):
                raise
            # An earlier trainer may have died during an update: finish that update and start again.
            self._post(f"{self.base_url}/finish_weight_update", json={})
            super()._start_weight_update()

    def _finish_weight_update(self) -> None:
        """Finish as TRL does, but with an id for the weights, which a restarted server does not have.

        Only then do the servers resume: a server whose update was aborted stays paused until the next one.
        """
        self.version = uuid.uuid4().hex
        self._post(f"{self.base_url}/finish_weight_update", json={"weight_version": self.version})
        self._post(f"{self.base_url}/resume")

    # ------------------------------------------------------------------ joining

    def init_communicator(self, device: torch.device | str | int = 0) -> None:
        """Join the servers' workers in one group: as TRL does on CUDA, over gloo otherwise."""
        device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        world_size = self.get_world_size() + 1
        address = own_address(self.urls)
        if device.type == "cuda":
            # TRL asks vLLM for the trainer's address; set it in case vLLM cannot determine it.
            os.environ.setdefault("VLLM_HOST_IP", address)
            self._check_port(address)
            with last_resort(
                self.sync_timeout, f"joining the vLLM servers {', '.join(self.urls)}", self._known_refusal
            ):
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
            except (OSError, RuntimeError) as error:
                raise WeightSyncError(
                    f"could not open the group for weights at {address}: {_first_line(error)}"
                ) from error

        self._check_port(address)

        group = in_background(join)
        posted = in_background(
            lambda: self._post(f"{self.base_url}/init_weight_transfer_engine", json={"init_info": info})
        )
        wait_for_all([group, posted], self.sync_timeout + 5, f"joining the vLLM servers {', '.join(self.urls)}")
        self._group = group.result()

    def _check_port(self, address: str) -> None:
        try:
            socket.create_server((address, self.group_port)).close()
        except OSError as error:
            raise WeightSyncError(
                f"vllm_group_port={self.group_port} cannot be opened at {address} ({error.strerror}): give another"
            ) from None

    def _known_refusal(self) -> str | None:
        return self._refusal

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
        """Send all weights; records an error in `failure` instead of raising it.

        Raises:
            RuntimeError: if gathering the weights fails, for which the servers are not to blame.
        """
        start = time.monotonic()
        self.failure = self._refusal = None
        unsent: list[RuntimeError] = []
        named_params = _noting_errors(named_params, unsent)
        try:
            if self._group is None:
                # Copy: TRL packs tensors with a delay, and the iteration ends by unmerging the LoRA adapter from the
                # same memory in place.
                copies = ((name, tensor.detach().clone()) for name, tensor in named_params)
                with last_resort(self.sync_timeout, "sending weights to the vLLM servers", self._known_refusal):
                    super().update_named_params(metadata, copies)
            else:
                self._send(metadata, named_params)
        except Exception as error:
            self.failure = f"{type(error).__name__}: {_first_line(error)}"
            if unsent:
                raise unsent[0] from None
        for _ in named_params:  # keep iterating with the other processes
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
                if posted.done():  # finished before receiving everything, so it failed
                    posted.result()
                    raise WeightSyncError(f"a server stopped receiving before {name}")
                self._group.broadcast(tensor.detach().contiguous())
        except RuntimeError as error:
            # The server's own error, if there is one, is more informative than a lost connection.
            wait_for_all([posted], 10, "hearing from the servers what went wrong", quiet=True)
            reason = posted.exception() if posted.done() else None
            raise WeightSyncError(
                str(reason or f"the connection to a server was lost: {_first_line(error)}")
            ) from error
        wait_for_all([posted], self.sync_timeout, "the servers' loading of the weights")
        self._finish_weight_update()

    def reset_prefix_cache(self) -> None:
        """Clear the servers' prefix caches, which were computed with the old weights."""
        if self.failure is not None:
            return
        deadline = time.monotonic() + RESET_SECONDS
        try:
            while self._post(f"{self.base_url}/reset_prefix_cache").get("success") is False:
                # Abandoned requests may still be running.
                if time.monotonic() > deadline:
                    self.failure = (
                        f"a server could not drop its prefix cache in {RESET_SECONDS:g} s, so it would mix old weights "
                        "with new: does someone else use it?"
                    )
                    return
                time.sleep(0.2)
        except WeightSyncError as error:
            self.failure = str(error)


@contextmanager
def our_client(sync_timeout: float) -> Iterator[None]:
    """Context in which TRL creates a `ServerGroupClient` instead of its own client."""

    def make(**kwargs: Any) -> ServerGroupClient:
        return ServerGroupClient(**kwargs, sync_timeout=sync_timeout)

    with mock.patch.object(vllm_generation, "VLLMClient", make):
        yield


def own_address(urls: list[str]) -> str:
    """The address of this machine that all servers can reach."""
    elsewhere = [parts for parts in map(urlsplit, urls) if parts.hostname not in LOOPBACK]
    if not elsewhere:
        return "127.0.0.1"
    return gloo.own_address(str(elsewhere[0].hostname), elsewhere[0].port or 80)


def _noting_errors(
    named_params: Iterator[tuple[str, torch.Tensor]], errors: list[RuntimeError]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The same items; an error in making one, which is to say in gathering it, is also appended to `errors`."""
    try:
        yield from named_params
    except RuntimeError as error:
        errors.append(error)
        raise


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
