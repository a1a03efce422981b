"""Checks of a vLLM server before use: that it is up, suitable for training, and has the model's tokenizer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests

from metarlgym.datatypes import ConfigError, MetaRLGymError

FIELD = "vllm_server_base_url"
HTTP = requests.Session()
HTTP.trust_env = False  # no proxies, like aiohttp, which sends the rollout requests
HTTP.headers["Connection"] = "close"
ANSWER_SECONDS = 30.0
"""Timeout of requests for server information, which a running server answers well within it."""


@dataclass(frozen=True)
class ServerInfo:
    """A server's description of itself."""

    url: str
    model: str
    """Name under which it serves the model."""
    max_model_len: int
    logprobs_mode: str
    transfer_backend: str | None
    """Its weight-transfer engine: `nccl`, `gloo`, ...; None without one."""


def parse_urls(text: str) -> list[str]:
    """Parse one or more server URLs, separated by commas.

    Raises:
        ConfigError: if one is malformed, with the correct form.
    """
    urls = [part.strip().rstrip("/") for part in text.split(",") if part.strip()]
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            guess = url if "//" not in url else url.split("//", 1)[1]
            raise ConfigError(f"{FIELD}={url!r} has no scheme: write it as http://{guess or 'HOST:8000'}.")
        if parts.path or parts.query:
            raise ConfigError(
                f"{FIELD}={url!r} has a path: give scheme, host and port only, as in {parts.scheme}://{parts.netloc}."
            )
    if not urls:
        raise ConfigError(f"{FIELD}={text!r} names no server: write it as http://HOST:8000.")
    if len(set(urls)) < len(urls):
        raise ConfigError(f"{FIELD}={text!r} names a server twice.")
    return urls


def wait_for_server(url: str, timeout: float, waiting: Callable[[str], None] | None = None) -> None:
    """Wait until `/health` answers.

    Args:
        url: the server.
        timeout: seconds to wait; 0: try once.
        waiting: called once with a message if the server is not up yet.

    Raises:
        ConfigError: if nothing answers, or something that is not a vLLM server.
    """
    start = time.monotonic()
    announced = False
    while True:
        try:
            status = HTTP.get(f"{url}/health", timeout=min(ANSWER_SECONDS, max(timeout, 5.0))).status_code
            problem = f"HTTP {status}"
            if status == 200:
                return
            if status in (404, 405):
                raise ConfigError(
                    f"{FIELD}={url!r}: what answers there is not a vLLM server (no /health). Check the port."
                )
        except requests.RequestException as error:
            problem = type(error).__name__
        elapsed = time.monotonic() - start
        if elapsed >= timeout:
            raise ConfigError(
                f"{FIELD}={url!r}: no vLLM server answered in {elapsed:.0f} s (vllm_server_timeout={timeout:.3g}; "
                f"last: {problem}). Start one with `metarlgym serve --model ...`, or correct the address."
            )
        if waiting is not None and not announced:
            waiting(f"waiting for a vLLM server at {url} ({timeout:g} s at most)")
            announced = True
        time.sleep(min(1.0, timeout - elapsed))


def inspect(url: str) -> ServerInfo:
    """Query a running server for its configuration.

    Raises:
        ConfigError: if it does not expose what training needs.
    """
    model = _ask(url, "/v1/models")["data"][0]
    answer = HTTP.get(f"{url}/server_info", params={"config_format": "json"}, timeout=ANSWER_SECONDS)
    if answer.status_code == 404:
        raise ConfigError(
            f"{FIELD}={url!r}: the server hides its development endpoints, through which weights are sent. Start it "
            "with `metarlgym serve`, or with VLLM_SERVER_DEV_MODE=1 in its environment."
        )
    config = _json(url, "/server_info", answer)["vllm_config"]
    transfer = config.get("weight_transfer_config")
    return ServerInfo(
        url=url,
        model=model["id"],
        max_model_len=int(model["max_model_len"]),
        logprobs_mode=str(config["model_config"]["logprobs_mode"]),
        transfer_backend=transfer["backend"] if transfer else None,
    )


def check_for_training(info: ServerInfo, backend: str) -> None:
    """Refuse servers whose settings make training wrong or impossible.

    Args:
        info: the server.
        backend: the weight-transfer engine that the trainer needs.
    """
    if info.logprobs_mode != "processed_logprobs":
        raise ConfigError(
            f"{FIELD}={info.url!r} runs with --logprobs-mode {info.logprobs_mode}: its log-probabilities are not those "
            "of the distribution it samples from. Start it with `metarlgym serve`, or with --logprobs-mode "
            "processed_logprobs."
        )
    if info.transfer_backend != backend:
        raise ConfigError(
            f"{FIELD}={info.url!r} has weight-transfer engine {info.transfer_backend}, this trainer needs {backend}. "
            f"""Start it with `metarlgym serve`, or with --weight-transfer-config '{{"backend": "{backend}"}}'."""
        )


def check_tokenizer(info: ServerInfo, tokenizer: Any, texts: Sequence[str]) -> None:
    """Refuse a server whose tokenizer encodes `texts` to different ids than `tokenizer` does."""
    for text in texts:
        body = {"model": info.model, "prompt": text, "add_special_tokens": False}
        found = _json(info.url, "/tokenize", HTTP.post(f"{info.url}/tokenize", json=body, timeout=ANSWER_SECONDS))
        expected = tokenizer.encode(text, add_special_tokens=False)
        if found["tokens"] != expected:
            place = next(
                (i for i, (a, b) in enumerate(zip(found["tokens"], expected)) if a != b), min(len(expected), 10**9)
            )
            raise ConfigError(
                f"{FIELD}={info.url!r} serves {info.model!r}, whose tokenizer differs from that of "
                f"model_name_or_path={tokenizer.name_or_path!r} (on {text[:40]!r}, token {place}: "
                f"{found['tokens'][place : place + 3]} against {expected[place : place + 3]}). Serve the same model."
            )


def _ask(url: str, path: str) -> Any:
    return _json(url, path, HTTP.get(url + path, timeout=ANSWER_SECONDS))


def _json(url: str, path: str, answer: requests.Response) -> Any:
    if answer.status_code != 200:
        raise MetaRLGymError(f"{url}{path} answered HTTP {answer.status_code}: {answer.text[:200]}")
    return answer.json()
