"""ServerPool: HTTP requests to one or several identical servers, with balancing, retries and deadlines.

Faults are distinguished by their effect on a trial. A server that does not answer in time is slow: the trial ends
there. One that is gone, overloaded or answers 5xx may come back: the request is retried, on another server if possible,
for `retry_seconds`; only then is the rollout lost. Any other refusal is an error that no retry can fix.
"""

from __future__ import annotations

import asyncio
import random
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp

from metarlgym.datatypes import StopReason
from metarlgym.policies.watched_socket import watched_socket
from metarlgym.policies.weight_gate import WeightGate
from metarlgym.rollout.protocol import PolicyLost, PolicyStop

FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
"""Seconds between attempts: doubled each time, with jitter so that a thousand requests do not return simultaneously."""
CONNECT_SECONDS = 10.0
LAST_SECONDS = 10.0
"""Time limit of a request after `hurry`: launchers kill their processes 30 s after a SIGTERM."""
OTHER_FILES = 200
"""Number of files a process has open besides its connections."""


@dataclass
class Server:
    """One server and its current load."""

    url: str
    """Such as `http://127.0.0.1:8000`, without a trailing slash."""
    model: str
    """The name under which it serves the policy."""
    in_flight: int = 0
    down_until: float = 0.0
    """Monotonic time until which it is avoided if another is available."""
    suspect: bool = False
    """Its connection was lost: it may have restarted, with its initial weights."""


@dataclass
class PoolStats:
    """Counts since the pool was created."""

    requests: int = 0
    retries: int = 0
    deadlines: int = 0
    overflows: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered."""

    server: Server
    body: bytes
    version: int | None
    """Version of the weights it was answered with; None if unknown."""


class ServerPool:
    """Posts to servers that all serve the same policy.

    Args:
        servers: at least one.
        concurrency: maximum number of requests in flight over all servers; waiting requests do not use up their
            timeout.
        request_timeout: maximum seconds for one request.
        retry_seconds: how long a request is retried after lost connections or 5xx.
        gate: holds requests back while the servers' weights change.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        concurrency: int = 1024,
        request_timeout: float = 600.0,
        retry_seconds: float = 60.0,
        gate: WeightGate | None = None,
    ) -> None:
        self.servers = list(servers)
        self.concurrency = concurrency
        self.request_timeout = request_timeout
        self.retry_seconds = retry_seconds
        self.stats = PoolStats()
        self.gate = gate or WeightGate()
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._limits: set[asyncio.Timeout] = set()
        """Of the requests in flight."""
        self._hurried = False

    def hurry(self) -> None:
        """From now on a server that does not answer is lost: at once, or after `LAST_SECONDS` if it is connected.

        A vLLM server that got SIGTERM keeps its connections open and answers nothing. Safe in a signal handler.
        """
        self._hurried = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._shorten)

    def _shorten(self) -> None:
        latest = asyncio.get_running_loop().time() + LAST_SECONDS
        for limit in self._limits:
            limit.reschedule(min(limit.when() or latest, latest))

    async def open(self) -> None:
        """Open the HTTP session; its connections belong to the running event loop."""
        self._room_for_connections()
        # Keep-alive has to end before the server's own (5 s in uvicorn), or a request may hit a connection that is
        # closing.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=3.0, socket_factory=watched_socket)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers={"Accept-Encoding": "identity"}
        )
        self._slots = asyncio.Semaphore(self.concurrency)
        self._loop = asyncio.get_running_loop()
        self._jitter = random.Random(0)
        for server in self.servers:
            server.in_flight, server.down_until, server.suspect = 0, 0.0, False

    def _room_for_connections(self) -> None:
        """Raise the limit on open files, usually 1,024: each request in flight takes one."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = self.concurrency + OTHER_FILES
        if soft != resource.RLIM_INFINITY and soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            self.concurrency = max(1, min(self.concurrency, soft - OTHER_FILES))

    async def close(self) -> None:
        self._loop = None
        if self._session is not None:
            await self._session.close()
            self._session = None

    def choose(self, home: Server | None) -> Server:
        """`home` while it is up (it has the context's prefix cached), else the least busy server that is up."""
        now = time.monotonic()
        if home is not None and home.down_until <= now:
            return home
        up = [server for server in self.servers if server.down_until <= now]
        if up:
            return min(up, key=lambda server: server.in_flight)
        return min(self.servers, key=lambda server: server.down_until)

    async def post(self, path: str, body: Callable[[Server], bytes], home: Server | None = None) -> Answer:
        """Post until a server answers 200.

        Raises:
            PolicyStop: no answer within `request_timeout`, or a context longer than the server supports.
            PolicyLost: servers were unreachable for `retry_seconds`, or refused the request.
        """
        async with self._slots:
            self.stats.requests += 1
            wait, first_failure = FIRST_WAIT, None
            while True:
                await self.gate.opened()
                server = self.choose(home)
                server.in_flight += 1
                seconds = min(self.request_timeout, LAST_SECONDS) if self._hurried else self.request_timeout
                deadline, recalled = asyncio.timeout(seconds), False
                try:
                    async with deadline:
                        if not self.gate.enter(deadline):
                            continue
                        self._limits.add(deadline)
                        version = self.gate.version
                        try:
                            status, answer = await self._once(server, path, body(server))
                        finally:
                            self._limits.discard(deadline)
                            recalled = self.gate.leave(deadline)
                except TimeoutError:
                    if recalled:
                        continue
                    if self._hurried:
                        raise PolicyLost(f"{server.url} took longer than {LAST_SECONDS:g} s after SIGTERM") from None
                    self.stats.deadlines += 1
                    raise PolicyStop(
                        StopReason.TIME_LIMIT, f"{server.url} took longer than {self.request_timeout:g} s for a request"
                    ) from None
                except (aiohttp.ClientError, OSError) as error:
                    problem = f"{type(error).__name__}: {error}"
                    server.suspect = True
                else:
                    if status == 200:
                        return Answer(server, answer, version)
                    self._refused(server, status, answer)
                    problem = f"HTTP {status}: {_text(answer)}"
                finally:
                    server.in_flight -= 1
                now = time.monotonic()
                server.down_until = now + wait
                first_failure = first_failure or now
                give_up = first_failure + (0.0 if self._hurried else self.retry_seconds)
                if now >= give_up:
                    raise PolicyLost(
                        f"{server.url} did not answer for {self.retry_seconds:g} s of retries (last: {problem}). Start "
                        "the server again, or name it right in vllm_server_base_url"
                    )
                self.stats.retries += 1
                await asyncio.sleep(min(wait * self._jitter.uniform(0.5, 1.0), give_up - now))
                wait = min(2 * wait, LONGEST_WAIT)

    async def _once(self, server: Server, path: str, body: bytes) -> tuple[int, bytes]:
        assert self._session is not None
        try:
            if server.suspect and self.gate.weights is not None:
                await self._check_weights(server)
            headers = {"Content-Type": "application/json"}
            async with self._session.post(server.url + path, data=body, headers=headers) as response:
                return response.status, await response.read()
        except aiohttp.ServerTimeoutError as error:  # also a TimeoutError, but here the connection failed
            raise ConnectionError(str(error)) from error

    async def _check_weights(self, server: Server) -> None:
        """Check that a server whose connection was lost still holds the weights of this rollout."""
        assert self._session is not None
        async with self._session.get(f"{server.url}/weight_info") as response:
            if response.status == 200 and (await response.json())["weight_version"] != self.gate.weights:
                raise PolicyLost(
                    f"{server.url} was started again in the middle of a rollout, so it no longer holds the weights "
                    "that are being trained"
                )
        server.suspect = False

    def _refused(self, server: Server, status: int, answer: bytes) -> None:
        """Return if a retry may help; raise for any other refusal."""
        if status >= 500 or status in (408, 429):
            return
        text = _text(answer)
        if status == 400 and "context length" in text:
            self.stats.overflows += 1
            raise PolicyStop(StopReason.CONTEXT_LIMIT, text)
        raise PolicyLost(f"{server.url} refused a request with HTTP {status}: {text}")


def _text(answer: bytes) -> str:
    return answer[:500].decode(errors="replace").strip()
