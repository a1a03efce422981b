"""Three machines made of network namespaces: two that train, and one on which two vLLM servers run."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.launchers import ACCELERATE, ROOT
from tests.e2e.nodes.network import Network, Unavailable, network
from tests.e2e.servers.conftest import Served, start_model

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]  # the other environment's tests

TRAINERS = ("node1", "node2")
ZERO3_CPU = ROOT / "configs" / "accelerate" / "zero3_cpu.yaml"


def pytest_collection_modifyitems(items):
    for item in items:
        # Slow tests are left out of the suite with that mark.
        if item.path.is_relative_to(Path(__file__).parent) and item.get_closest_marker("slow") is None:
            item.add_marker(pytest.mark.vllm)


@pytest.fixture(scope="session")
def nodes(tmp_path_factory) -> Iterator[Network]:
    try:
        with network(tmp_path_factory.mktemp("network"), [*TRAINERS, "server"]) as made:
            yield made
    except Unavailable as error:
        pytest.skip(f"no network namespaces here: {error}")


@pytest.fixture(scope="session")
def servers(nodes, tmp_path_factory) -> Iterator[list[Served]]:
    """Two servers of one model on the third machine. (Its many layers make an update long enough to be cut off.)"""
    folder = tmp_path_factory.mktemp("servers")
    model = start_model(folder / "model", "--layers", "8")
    place = {"host": nodes.addresses["server"], "inside": nodes.inside("server", [])}
    running = [Served(model, folder, port=port, **place) for port in (8000, 8001)]
    try:
        yield [server.wait() for server in running]
    finally:
        for server in running:
            server.stop()


def launchers(nodes: Network) -> dict[str, list[str]]:
    """The start of a training run's command on each node, as scripts/slurm/many_nodes.sbatch gives it.

    As that script does it, the environment tells the address of the first.
    """
    main = nodes.addresses[TRAINERS[0]]
    options = ["--num_machines", "2", "--num_processes", "2", "--main_process_ip", main, "--main_process_port", "29500"]
    options += ["--deepspeed_multinode_launcher", "standard", "-m", "metarlgym.train"]
    return {
        node: nodes.inside(
            node,
            [
                "env",
                f"VLLM_HOST_IP={main}",
                *ACCELERATE,
                "--machine_rank",
                str(rank),
                "--config_file",
                str(ZERO3_CPU),
                *options,
            ],
        )
        for rank, node in enumerate(TRAINERS)
    }
