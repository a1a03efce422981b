"""A proxy in front of a real server that answers some requests with HTTP 500 instead of passing them on."""

import asyncio
import random
import threading

import aiohttp
from aiohttp import web


class FaultyProxy:
    """Fails `share` of the calls to /v1/completions, at random but seeded; all else is passed on."""

    def __init__(self, target: str, port: int, share: float) -> None:
        self.target, self.port, self.share = target, port, share
        self.url = f"http://127.0.0.1:{port}"
        self.failed = self.passed = 0
        self._random = random.Random(0)
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()
        assert self._up.wait(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._up.set()
        self._loop.run_forever()

    async def _start(self) -> None:
        self._session = aiohttp.ClientSession()
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()

    async def _handle(self, request: web.Request) -> web.Response:
        if request.path == "/v1/completions":
            if self._random.random() < self.share:
                self.failed += 1
                return web.Response(status=500, text="injected")
            self.passed += 1
        async with self._session.request(
            request.method, self.target + request.path_qs, data=await request.read(), headers=request.headers
        ) as answer:
            body = await answer.read()
            return web.Response(status=answer.status, body=body, content_type=answer.content_type)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._session.close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
