"""A real HTTP server that answers as vLLM does, from a seeded random source instead of a model, and fails on demand."""

import asyncio
import json
import random
import threading
from collections.abc import Callable

from aiohttp import web


class FakeVLLM:
    """Serves from a thread of its own.

    Args:
        vocabulary: ids are drawn below this.
        fault: called with the number of each completion request; returns None to answer it, an HTTP status to refuse
            it with, "drop" to close the connection, or seconds to wait before the answer.
        tokenize: text to ids, for /tokenize.
        mode: `logprobs_mode` that the server reports.
        backend: weight-transfer engine that it reports.
        max_model_len: longest context.
    """

    def __init__(
        self,
        vocabulary: int = 50,
        fault: Callable[[int], object] = lambda number: None,
        tokenize: Callable[[str], list[int]] = lambda text: list(text.encode()),
        mode: str = "processed_logprobs",
        backend: str | None = "gloo",
        max_model_len: int = 4096,
    ) -> None:
        self.vocabulary, self.fault, self.tokenize = vocabulary, fault, tokenize
        self.mode, self.backend, self.max_model_len = mode, backend, max_model_len
        self.bodies: list[dict] = []
        self.control: list[tuple[str, dict]] = []
        """Calls to the weight-transfer endpoints."""
        self.on_control: Callable[[str, dict], int] = lambda path, body: 200
        """Answers them with a status; runs in a thread."""
        self.reply: Callable[[str], dict] = lambda path: {}
        """And with a body."""
        self.weights = "default"
        self.seconds_per_token = 0.0
        self._paused, self._resumed = asyncio.Event(), asyncio.Event()
        self._resumed.set()
        self.most_at_once = self.open_requests = 0
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._up.wait(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._up.set()
        self._loop.run_forever()

    async def _start(self) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/server_info", self._info)
        app.router.add_get("/get_world_size", self._world_size)
        app.router.add_get("/weight_info", self._weight_info)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/{name}", self._control)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    def stop(self) -> None:
        async def end() -> None:
            await self._runner.cleanup()
            self._loop.stop()

        asyncio.run_coroutine_threadsafe(end(), self._loop)
        self._thread.join(10)

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "fake", "max_model_len": self.max_model_len}]})

    async def _info(self, request: web.Request) -> web.Response:
        transfer = {"backend": self.backend} if self.backend else None
        config = {"model_config": {"logprobs_mode": self.mode}, "weight_transfer_config": transfer}
        return web.json_response({"vllm_config": config})

    async def _world_size(self, request: web.Request) -> web.Response:
        return web.json_response({"world_size": 1})

    async def _weight_info(self, request: web.Request) -> web.Response:
        return web.json_response({"weight_version": self.weights})

    async def _tokenize(self, request: web.Request) -> web.Response:
        return web.json_response({"tokens": self.tokenize((await request.json())["prompt"])})

    async def _control(self, request: web.Request) -> web.Response:
        text = await request.text()
        body = json.loads(text) if text else {}
        path = request.path
        self.control.append((path, body))
        if path == "/pause":
            self._resumed.clear()
            self._paused.set()
        elif path == "/resume":
            self._paused.clear()
            self._resumed.set()
        status = await asyncio.get_running_loop().run_in_executor(None, self.on_control, path, body)
        return web.json_response(self.reply(path), status=status)

    async def _completions(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        self.open_requests += 1
        self.most_at_once = max(self.most_at_once, self.open_requests)
        try:
            fault = self.fault(len(self.bodies) - 1)
            if fault == "drop":
                request.transport.close()
                return web.Response()
            if isinstance(fault, int) and fault >= 400:
                return web.json_response({"error": {"message": "injected"}}, status=fault)
            if isinstance(fault, int | float):
                await asyncio.sleep(fault)
            await self._resumed.wait()  # as vLLM queues what comes while it is paused
            answer = self._answer(body)
            if self.seconds_per_token:
                await self._take_time(answer["choices"][0])
            return web.json_response(answer)
        finally:
            self.open_requests -= 1

    async def _take_time(self, choice: dict) -> None:
        """Sample token by token; a pause ends it with those so far."""
        start, count = asyncio.get_running_loop().time(), len(choice["token_ids"])
        try:
            await asyncio.wait_for(self._paused.wait(), count * self.seconds_per_token)
        except TimeoutError:
            return
        count = int((asyncio.get_running_loop().time() - start) / self.seconds_per_token)
        choice["finish_reason"] = "abort"
        choice["token_ids"] = choice["token_ids"][:count]
        choice["logprobs"]["token_logprobs"] = choice["logprobs"]["token_logprobs"][:count]

    def _answer(self, body: dict) -> dict:
        rng = random.Random(body["seed"] * 1_000_003 + len(body["prompt"]))
        ids: list[int] = []
        while len(ids) < body["max_tokens"] and not (ids and ids[-1] in body["stop_token_ids"]):
            ids.append(rng.randrange(self.vocabulary))
        reason = "stop" if ids[-1] in body["stop_token_ids"] else "length"
        logprobs = {"token_logprobs": [-1.0 - token / 100 for token in ids]}
        choice = {"token_ids": ids, "logprobs": logprobs, "finish_reason": reason}
        return {"choices": [choice], "usage": {"prompt_tokens": len(body["prompt"])}}
