"""`metarlgym serve`: starts a vLLM server for training and reports when it is ready."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated, Any

import typer

from metarlgym.cli.common import check_writable, output, used
from metarlgym.datatypes import ConfigError, MetaRLGymError
from metarlgym.files import expand
from metarlgym.models.folder_check import check_files
from metarlgym.runtime.interrupt import Terminated
from metarlgym.serving.command import LOOPBACK, ServerOptions, cpu_build, server_command
from metarlgym.whole_numbers import check_whole

PASS_THROUGH: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}


def command(
    context: typer.Context,
    model: Annotated[str, typer.Option("--model", help="Model folder or hub id: the one training starts from.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16; auto is float32 on a CPU.")] = "auto",
    max_model_len: Annotated[
        int | None, typer.Option(help="Maximum context length in tokens; default: the model's.")
    ] = None,
    tensor_parallel_size: Annotated[
        int | None, typer.Option(min=1, help="Number of GPUs that share one model.", show_default="1")
    ] = None,
    gpu_memory_utilization: Annotated[
        float | None, typer.Option(help="Fraction of GPU memory to use.", show_default="0.9")
    ] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with the model.")] = False,
    ready_timeout: Annotated[float, typer.Option(help="Seconds to wait for the server to be ready.")] = 1800.0,
    log: Annotated[Path | None, typer.Option(help="Write vLLM's output to this file instead of the terminal.")] = None,
) -> None:
    """Serve a model with vLLM as training requires; further options are passed on to vLLM.

    With a GPU this runs `vllm serve`, otherwise vLLM's API-server module.
    Stop it with Ctrl-C.

    \b
    Examples:
      metarlgym serve --model Qwen/Qwen2.5-1.5B-Instruct --tensor-parallel-size 2
      metarlgym serve --model runs/tiny --port 8001
    """
    console = output()
    check_whole("port", port, 1, 65_535)
    model = expand(model)
    if not Path(model).exists() and model.startswith((".", "/", "~", "runs")):
        raise ConfigError(f"model={model!r}: no such folder. Give a model folder or a hub id.")
    if Path(model).is_dir():
        check_files(Path(model), tokenizer=True)
    check_writable(log, "log")
    cpu = cpu_build()
    for_gpus = used(tensor_parallel_size=tensor_parallel_size, gpu_memory_utilization=gpu_memory_utilization)
    if cpu:
        if tensor_parallel_size == 1:
            del for_gpus["tensor_parallel_size"]  # already the case on a CPU
        for option, value in for_gpus.items():
            raise ConfigError(f"{option}={value} is for GPUs, and the vLLM installed here is for CPUs: leave it out.")
    options = ServerOptions(
        model=model,
        host=host,
        port=port,
        dtype=dtype,
        max_model_len=max_model_len,
        **for_gpus,
        trust_remote_code=trust_remote_code,
        extra=context.args,
    )
    words, variables = server_command(options, cpu)
    if host not in LOOPBACK:
        console.print(
            f"warning: --host {host} lets other machines in. vLLM's development endpoints, which training needs, let "
            "anyone who reaches this port replace the weights: keep it inside a trusted network.",
            style="yellow",
        )
    console.print(" ".join([*(f"{k}={v}" for k, v in variables.items()), shlex.join(words)]), style="dim")
    _check_free(host, port)
    sink = log.open("a") if log else None
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _interrupt)
    # A separate process group: Ctrl-C reaches only this process, which shuts the server and its workers down cleanly.
    server = subprocess.Popen(words, env={**os.environ, **variables}, stdout=sink, stderr=sink, start_new_session=True)
    try:
        _wait_until_ready(server, _url("127.0.0.1" if host == "0.0.0.0" else host, port), ready_timeout, log)
        address = _url(socket.gethostname() if host == "0.0.0.0" else host, port)
        console.print(f"ready: {model} at {address}", style="bold green", soft_wrap=True)
        console.print(
            f"train with it: --use_vllm true --vllm_server_base_url {address} --model_name_or_path {model}",
            soft_wrap=True,
        )
        status = server.wait()
        raise MetaRLGymError(f"the server ended with exit status {status}; see {log or 'its output above'}.")
    finally:
        _stop(server)


def _interrupt(number: int, frame: Any) -> None:
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _check_free(host: str, port: int) -> None:
    """Fail if something already listens there: it would be mistaken for our server."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise ConfigError(f"port={port} cannot be opened at host={host!r} ({error.strerror}): give another.") from None


def _wait_until_ready(server: subprocess.Popen[bytes], address: str, timeout: float, log: Path | None) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise MetaRLGymError(
                f"the server ended with exit status {server.returncode} before it was ready; "
                f"see {log or 'its output above'}."
            )
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)  # not up yet
    raise MetaRLGymError(f"the server did not answer at {address}/health within ready_timeout={timeout:g} seconds.")


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Stop the server and any remaining worker processes; a second Ctrl-C skips the wait."""
    try:
        if server.poll() is None:
            server.terminate()
            server.wait(30)
    except subprocess.TimeoutExpired:
        pass  # killed below
    finally:
        with contextlib.suppress(ProcessLookupError):  # the whole group has already ended
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
