"""The batch scripts, played through with stand-ins for Slurm, accelerate and the servers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "scripts" / "slurm"
SCRIPTS = ["one_node", "many_nodes"]

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Slurm scripts")

STAND_IN = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

name, args = Path(sys.argv[0]).name, sys.argv[1:]


def record(**more):
    call = {"name": name, "args": args, "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "address": os.environ.get("VLLM_HOST_IP"), "pid": os.getpid(), **more}
    with open(os.environ["CALLS"], "a") as file:
        file.write(json.dumps(call) + "\\n")


def end(*_):
    record(event="ended")
    sys.exit(0)


Path(os.environ["CALLS"]).touch()
if name == "getent":
    print("127.0.1.1" if args[1] == os.environ.get("LOOPBACK") else f"10.0.0.{args[1][1:]}", "STREAM", args[1])
elif name == "hostname":
    print("10.9.9.9 172.17.0.1")
elif name == "scontrol":
    record()
    if args[:2] == ["show", "job"]:
        print("JobId=42 JobName=test\\n   JobState=" + os.environ.get("STATE", "RUNNING") + " Reason=None")
    elif args[0] == "show":
        print("\\n".join(["n1", "n2", "n3", "n4"]))
elif name == "metarlgym":
    signal.signal(signal.SIGTERM, end)
    record()
    time.sleep(60)
elif name == "accelerate":
    servers = len(args[args.index("--vllm_server_base_url") + 1].split(","))
    while Path(os.environ["CALLS"]).read_text().count('"name": "metarlgym"') < servers:
        time.sleep(0.02)
    record()
    if "--machine_rank" in args and args[args.index("--machine_rank") + 1] != "0":
        sys.exit(0)
    folder = Path(args[args.index("--output_dir") + 1])
    if os.environ.get("WAIT"):
        while not (folder / "STOP").exists():
            time.sleep(0.02)
        time.sleep(0.3)  # the rest of the step
        (folder / "STOP").unlink()
    if os.environ.get("MARK"):
        (folder / "STOPPED").write_text("7\\n")
    record(event="ended")
    sys.exit(int(os.environ.get("STATUS", 0)))
elif name == "srun":
    command = next(i for i, a in enumerate(args) if not a.startswith("--"))
    tasks = next(int(a.split("=")[1]) for a in args if a.startswith("--ntasks="))
    running = [subprocess.Popen(args[command:], env=os.environ | {"SLURM_PROCID": str(i)}) for i in range(tasks)]
    signal.signal(signal.SIGTERM, lambda *_: [p.terminate() for p in running])
    if "sleep infinity" in " ".join(args):  # its trap is set once it has a child
        while not Path(f"/proc/{running[0].pid}/task/{running[0].pid}/children").read_text():
            time.sleep(0.02)
    record()
    sys.exit(max(abs(p.wait()) for p in running))
"""


class Job:
    """One run of a batch script in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "out"
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        for name in ("srun", "scontrol", "getent", "hostname", "metarlgym", "accelerate"):
            stand_in = bin_folder / name
            stand_in.write_text(f"#!{sys.executable} -SE\n{STAND_IN}")
            stand_in.chmod(0o755)
        dropped = ("CUDA_VISIBLE_DEVICES", "VLLM_HOST_IP", "VENV")
        self.environment = {k: v for k, v in os.environ.items() if k not in dropped} | {
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "CALLS": str(folder / "calls.jsonl"),
            "OUTPUT_DIR": str(self.output),
            "MODEL": "the/model",
            "CONFIG": "my.yaml",
            "SLURM_JOB_ID": "42",
            "SLURM_JOB_NAME": "test",
            "SLURM_JOB_NODELIST": "n[1-4]",
            "SLURM_PROCID": "0",
            "SLURMD_NODENAME": "n1",
        }
        self.process: subprocess.Popen[str] | None = None

    def start(self, script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            ["bash", str(FOLDER / f"{script}.sbatch"), *arguments],
            cwd=self.folder,
            env=self.environment | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return self.process

    def run(self, script: str, *arguments: str, **environment: str) -> int:
        return self.start(script, *arguments, **environment).wait(30)

    def calls(self, name: str) -> list[dict[str, Any]]:
        return [call for call in self._recorded() if call["name"] == name and "event" not in call]

    def _recorded(self) -> list[dict[str, Any]]:
        """All whole lines; the programs may be writing another."""
        path = self.folder / "calls.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def ended(self, name: str) -> int:
        return sum(call["name"] == name and call.get("event") == "ended" for call in self._recorded())

    def requeued(self) -> bool:
        return any(call["args"] == ["requeue", "42"] for call in self.calls("scontrol"))

    def log(self) -> str:
        return (self.folder / "logs" / "test-42" / "train.log").read_text()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    job = Job(tmp_path)
    yield job
    if job.process is not None:
        try:
            os.killpg(job.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        job.process.wait(10)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def listeners(job: Job) -> list[dict[str, Any]]:
    """The steps that wait for a signal."""
    return [call for call in job.calls("srun") if "sleep infinity" in " ".join(call["args"])]


def option(call: dict[str, Any], name: str) -> str:
    return str(call["args"][call["args"].index(name) + 1])


@pytest.mark.parametrize("script", SCRIPTS)
def test_syntax(script: str) -> None:
    path = FOLDER / f"{script}.sbatch"
    subprocess.run(["bash", "-n", str(path)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--shell=bash", "--severity=warning", "--exclude=SC1091", str(path)], check=True)


def test_both_scripts_stop_alike() -> None:
    parts = [(FOLDER / f"{script}.sbatch").read_text() for script in SCRIPTS]
    bodies = [part.split("--- stopping\n")[1].split("--- servers\n")[0] for part in parts]
    assert bodies[0] == bodies[1]


def test_one_node(job: Job) -> None:
    status = job.run("one_node", "--max_steps", "5", SERVE_OPTIONS="--max-model-len 4096")
    assert status == 0
    servers = sorted(job.calls("metarlgym"), key=lambda call: option(call, "--port"))
    assert [call["gpus"] for call in servers] == ["0", "1"]
    assert [option(call, "--port") for call in servers] == ["8000", "8001"]
    for call in servers:
        assert call["args"][0] == "serve"
        assert (option(call, "--host"), option(call, "--model")) == ("127.0.0.1", "the/model")
        assert option(call, "--max-model-len") == "4096"
    (trainer,) = job.calls("accelerate")
    assert (trainer["gpus"], trainer["address"]) == ("2,3,4,5,6,7", "127.0.0.1")
    assert (option(trainer, "--num_processes"), option(trainer, "--config_file")) == (
        "6",
        "configs/accelerate/zero3.yaml",
    )
    assert option(trainer, "--vllm_server_base_url") == "http://127.0.0.1:8000,http://127.0.0.1:8001"
    assert (option(trainer, "--config"), option(trainer, "--output_dir")) == ("my.yaml", str(job.output))
    assert "--resume" in trainer["args"]
    assert trainer["args"][-2:] == ["--max_steps", "5"]
    assert job.ended("metarlgym") == 2
    assert not job.requeued()
    names = {path.name for path in (job.folder / "logs" / "test-42").iterdir()}
    assert names == {"train.log", "server-8000.log", "server-8001.log", "listener.log"}


def test_one_node_shares_gpus_by_what_slurm_gave(job: Job) -> None:
    assert job.run("one_node", SERVER_GPUS="4", TP="2", CUDA_VISIBLE_DEVICES="7,6,5,4,3,2") == 0
    servers = sorted(job.calls("metarlgym"), key=lambda call: option(call, "--port"))
    assert [call["gpus"] for call in servers] == ["7,6", "5,4"]
    assert [option(call, "--tensor-parallel-size") for call in servers] == ["2", "2"]
    (trainer,) = job.calls("accelerate")
    assert (trainer["gpus"], option(trainer, "--num_processes")) == ("3,2", "2")


@pytest.mark.parametrize(
    ("script", "wrong"),
    [
        ("one_node", {"SERVER_GPUS": "8"}),
        ("one_node", {"SERVER_GPUS": "3", "TP": "2"}),
        ("many_nodes", {"TRAINER_NODES": "4"}),
        ("many_nodes", {"TP": "3"}),
    ],
)
def test_a_wrong_split_starts_nothing(job: Job, script: str, wrong: dict[str, str]) -> None:
    assert job.run(script, **wrong) == 2
    assert not job.calls("metarlgym") and not job.calls("accelerate")


def test_many_nodes(job: Job) -> None:
    assert job.run("many_nodes", "--seed", "1", TP="4", PORT="9000") == 0
    servers = sorted(job.calls("metarlgym"), key=lambda call: (option(call, "--host"), option(call, "--port")))
    places = [(option(call, "--host"), option(call, "--port"), call["gpus"]) for call in servers]
    assert places == [
        ("10.0.0.3", "9000", "0,1,2,3"),
        ("10.0.0.3", "9001", "4,5,6,7"),
        ("10.0.0.4", "9000", "0,1,2,3"),
        ("10.0.0.4", "9001", "4,5,6,7"),
    ]
    assert all(call["address"] is None for call in servers), "VLLM_HOST_IP is the trainer's"
    steps = [" ".join(call["args"]) for call in job.calls("srun") if call not in listeners(job)]
    assert all("--overlap" in step and "--cpu-bind=none" in step for step in steps)
    assert sorted(step.split("--nodelist=")[1].split()[0] for step in steps) == ["n1,n2", "n3", "n3", "n4", "n4"]
    trainers = sorted(job.calls("accelerate"), key=lambda call: option(call, "--machine_rank"))
    assert [option(call, "--machine_rank") for call in trainers] == ["0", "1"]
    for call in trainers:
        assert (option(call, "--num_machines"), option(call, "--num_processes")) == ("2", "16")
        assert (option(call, "--main_process_ip"), option(call, "--main_process_port")) == ("10.0.0.1", "29500")
        assert option(call, "--deepspeed_multinode_launcher") == "standard"
        assert option(call, "--vllm_group_port") == "51216"
        urls = ",".join(f"http://{host}:{port}" for host, port, _ in places)
        assert option(call, "--vllm_server_base_url") == urls
        assert call["address"] == "10.0.0.1"
        assert call["args"][-2:] == ["--seed", "1"]
    assert job.ended("metarlgym") == 4


def test_a_node_whose_own_name_is_loopback(job: Job) -> None:
    assert job.run("many_nodes", TP="8", LOOPBACK="n1") == 0
    assert {option(call, "--main_process_ip") for call in job.calls("accelerate")} == {"10.9.9.9"}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("by_launcher", [True, False])
def test_usr1_stops_the_run_and_puts_the_job_back(job: Job, script: str, by_launcher: bool) -> None:
    """A launcher makes every failure 1, so the file STOPPED tells; without a launcher the status 75 does."""
    outcome = {"STATUS": "1", "MARK": "1"} if by_launcher else {"STATUS": "75"}
    process = job.start(script, TP="2", WAIT="1", **outcome)
    wait_until(lambda: len(job.calls("accelerate")) == (2 if script == "many_nodes" else 1))
    assert not (job.output / "STOP").exists()
    process.send_signal(signal.SIGUSR1)
    wait_until(lambda: (job.output / "STOP").exists())
    assert not job.ended("accelerate"), "it is waited for"
    process.send_signal(signal.SIGUSR1)  # a second one changes nothing
    assert process.wait(30) == int(outcome["STATUS"])
    assert job.ended("accelerate") == 1
    assert job.requeued()
    assert job.ended("metarlgym") == len(job.calls("metarlgym")) > 0
    assert not (job.output / "STOP").exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_failure_after_usr1_is_not_put_back(job: Job, script: str) -> None:
    process = job.start(script, TP="2", WAIT="1", STATUS="1")
    wait_until(lambda: bool(job.calls("accelerate")))
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == 1
    assert not job.requeued()


@pytest.mark.parametrize(
    "outcome",
    [
        {"STATUS": "0"},
        {"STATUS": "1"},
        {"STATUS": "1", "MARK": "1"},  # someone put the file STOP there by hand: they want it to end
        {"STATUS": "75"},
    ],
)
def test_without_usr1_nothing_is_put_back(job: Job, outcome: dict[str, str]) -> None:
    assert job.run("one_node", **outcome) == int(outcome["STATUS"])
    assert not job.requeued()
    assert job.ended("metarlgym") == 2


def test_marks_of_an_earlier_job_are_removed(job: Job) -> None:
    job.output.mkdir()
    (job.output / "STOP").touch()
    (job.output / "STOPPED").touch()
    assert job.run("one_node") == 0
    assert not list(job.output.iterdir())


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("status", "state", "requeued"), [("1", "RUNNING", True), ("1", "SIGNALING", True), ("0", "RUNNING", False)]
)
def test_sigterm_to_the_steps_puts_the_job_back(job: Job, script: str, status: str, state: str, requeued: bool) -> None:
    """The start of a preemption's grace time: only steps get it, and one of them passes it on to the script."""
    process = job.start(script, TP="2", WAIT="1", STATUS=status, STATE=state)
    wait_until(lambda: bool(job.calls("accelerate")) and bool(listeners(job)))
    (listener,) = listeners(job)
    assert "--nodelist=n1" in listener["args"]
    os.kill(listener["pid"], signal.SIGTERM)
    wait_until(lambda: (job.output / "STOP").exists())
    assert process.wait(30) == int(status)
    assert job.requeued() == requeued
    assert job.ended("metarlgym") == len(job.calls("metarlgym")) > 0


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_job_that_slurm_ends_waits_for_its_run(job: Job, script: str) -> None:
    """After `scancel`, or a preemption without grace time, all gets SIGTERM, and Slurm decides what comes back."""
    process = job.start(script, TP="2", WAIT="1", STATUS="1", MARK="1", STATE="COMPLETING")
    wait_until(lambda: bool(job.calls("accelerate")))
    process.terminate()  # the shell alone: the stand-in for the run is still writing its checkpoint
    time.sleep(0.5)
    assert process.poll() is None and not (job.output / "STOP").exists()
    (job.output / "STOP").touch()
    assert process.wait(30) == 1
    assert job.ended("accelerate") == 1
    assert job.ended("metarlgym") == len(job.calls("metarlgym")) > 0
    assert not job.requeued()


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_real_programs_know_these_options(job: Job, script: str) -> None:
    from accelerate.commands.launch import launch_command_parser
    from typer.main import get_command

    from metarlgym.cli.main import app
    from metarlgym.settings.flat import known_fields
    from metarlgym.training.arguments import GROUPS
    from metarlgym.training.config import MetaGRPOConfig

    assert job.run(script, TP="2") == 0
    trainer = job.calls("accelerate")[0]["args"]
    assert trainer[0] == "launch"
    parsed = launch_command_parser().parse_args(trainer[1:])
    assert parsed.module and parsed.training_script == "metarlgym.train"
    names = {word[2:] for word in parsed.training_script_args if word.startswith("--")}
    assert names - {"config"} <= set(known_fields(GROUPS))
    timeout = int(option(job.calls("accelerate")[0], "--vllm_server_timeout"))
    assert timeout + 60 <= MetaGRPOConfig.ddp_timeout, "a run with its default settings would be refused"
    serve = get_command(app).commands["serve"]  # type: ignore[attr-defined]
    known = {name for parameter in serve.params for name in parameter.opts}
    assert {word for word in job.calls("metarlgym")[0]["args"] if word.startswith("--")} <= known
