"""Network: machines made of Linux network namespaces, each with a name and an address of its own, on one switch.

Processes in them share the files and processors of this machine, but reach each other only over TCP between the
addresses, as the nodes of a cluster do. Needs root. Nothing is left behind: the switch is a namespace too, and all
interfaces are made inside namespaces and disappear with them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

SWITCH = "switch"
ENTER = 'hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'


class Unavailable(Exception):
    """This machine or user may not make network namespaces."""


class Network:
    """Nodes on one switch. Use `network()`, which also removes them.

    Args:
        folder: where the nodes' hosts file is written.
        nodes: their names.
        prefix: of the namespaces' names; unique on this machine.
    """

    def __init__(self, folder: Path, nodes: Sequence[str], prefix: str) -> None:
        self.addresses = {node: f"10.77.0.{i}" for i, node in enumerate(nodes, 1)}
        self._prefix = prefix
        self._hosts = folder / "hosts"
        lines = ["127.0.0.1 localhost", *(f"{address} {node}" for node, address in self.addresses.items())]
        self._hosts.write_text("\n".join(lines) + "\n")

    def namespace(self, node: str) -> str:
        return f"{self._prefix}-{node}"

    def inside(self, node: str, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` on a node. The process keeps its id."""
        own = ["ip", "netns", "exec", self.namespace(node), "unshare", "--mount", "--uts", "sh", "-c", ENTER, "sh"]
        return [*own, node, str(self._hosts), *command]

    def cut(self, node: str) -> None:
        """Pull a node's cable at the switch: neither side is told, packets are lost."""
        ip("-n", self.namespace(SWITCH), "link", "set", node, "down")

    def mend(self, node: str) -> None:
        ip("-n", self.namespace(SWITCH), "link", "set", node, "up")

    def _plug_in(self, node: str, address: str) -> None:
        switch, own = self.namespace(SWITCH), self.namespace(node)
        ip("-n", switch, "link", "add", node, "type", "veth", "peer", "name", "eth0", "netns", own)
        ip("-n", switch, "link", "set", node, "master", "bridge", "up")
        ip("-n", own, "address", "add", f"{address}/24", "dev", "eth0")
        for interface in ("lo", "eth0"):
            ip("-n", own, "link", "set", interface, "up")


@contextmanager
def network(folder: Path, nodes: Sequence[str]) -> Iterator[Network]:
    """Make a network, and remove it again, also after an error in the making.

    Raises:
        Unavailable: it cannot be made here.
    """
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "mount", "hostname"))):
        raise Unavailable("network namespaces need root, ip (iproute2), unshare, mount and hostname")
    made = Network(folder, nodes, f"metarlgym-{os.getpid()}")
    with ExitStack() as undo:
        for node in (SWITCH, *nodes):
            name = made.namespace(node)
            try:
                ip("netns", "add", name)
            except RuntimeError as error:
                raise Unavailable(str(error)) from error
            undo.callback(ip, "netns", "delete", name)
        ip("-n", made.namespace(SWITCH), "link", "add", "bridge", "type", "bridge")
        ip("-n", made.namespace(SWITCH), "link", "set", "bridge", "up")
        for node, address in made.addresses.items():
            made._plug_in(node, address)
        yield made


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
