"""Every address and interface name of a cluster, derived from its name.

A cluster owns one /16, `10.<100..227>.0.0/16`: pods, Services and machines. Pure: asks the system nothing.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network

from localkube.errors import LocalClusterError

CONTROL = "control"
NODES = ("node1", "node2", "node3")
API_PORT = 6443

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?")
_FIRST_BLOCK = 100
_BLOCKS = 128


@dataclass(frozen=True)
class Addresses:
    """The addresses of the cluster `name`.

    Raises:
        LocalClusterError: the name does not fit into interface and namespace names.
    """

    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise LocalClusterError(
                f"--name {self.name!r}: use 1 to 10 small letters, digits or '-', beginning with a letter"
            )

    @cached_property
    def network(self) -> IPv4Network:
        """All that belongs to the cluster; the host routes it to the control machine."""
        block = _FIRST_BLOCK + hashlib.sha256(self.name.encode()).digest()[0] % _BLOCKS
        return IPv4Network(f"10.{block}.0.0/16")

    @property
    def services(self) -> IPv4Network:
        """The ClusterIPs."""
        return IPv4Network((int(self.network.network_address) + (128 << 8), 18))

    @property
    def machines(self) -> IPv4Network:
        """The bridge between the control machine and the nodes."""
        return IPv4Network((int(self.network.network_address) + (192 << 8), 24))

    @property
    def host_link(self) -> IPv4Network:
        """The link between the host and the control machine.

        A network of its own: so answers to the host pass the control machine, whose kube-proxy translated.
        """
        return IPv4Network((int(self.network.network_address) + (193 << 8), 30))

    @property
    def host(self) -> IPv4Address:
        """The host's own address on its link; clients on the host come from here."""
        return self.host_link[1]

    @property
    def gateway(self) -> IPv4Address:
        """The control machine's address on the host's link."""
        return self.host_link[2]

    @property
    def api_service(self) -> IPv4Address:
        """ClusterIP of `kubernetes.default`."""
        return self.services[1]

    @property
    def dns(self) -> IPv4Address:
        """ClusterIP of CoreDNS."""
        return self.services[10]

    @property
    def api_url(self) -> str:
        """The API server, as seen from the host and from the nodes."""
        return f"https://{self.machine(CONTROL)}:{API_PORT}"

    @property
    def host_interface(self) -> str:
        """The host's end of its link."""
        return f"k8s-{self.name}"

    def machine(self, machine: str) -> IPv4Address:
        """A node's or the control machine's own address."""
        if machine == CONTROL:
            return self.machines[2]
        return self.machines[10 + number_of(machine)]

    def pods(self, node: str) -> IPv4Network:
        """The pods on `node`."""
        return IPv4Network((int(self.network.network_address) + (number_of(node) << 8), 24))

    def namespace(self, machine: str) -> str:
        """Name of the machine's network namespace, below /run/netns."""
        return f"{self.name}-{machine}"


def number_of(node: str) -> int:
    """1 for node1.

    Raises:
        LocalClusterError: there is no such node.
    """
    if node not in NODES:
        raise LocalClusterError(f"no node {node!r}; there are {', '.join(NODES)}")
    return NODES.index(node) + 1
