"""The wires of a cluster: namespaces, bridge, links, routes, and their faults.

The bridge is inside the control machine's namespace and no namespace has a default gateway, so nothing of
the cluster can get outside, whatever address it asks for. The host has one link and one route, nothing else.
Service addresses are routed onto the bridge, not refused: a local process's packet needs a route before
kube-proxy's translation sees it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from localkube.addresses import CONTROL, NODES, Addresses
from localkube.commands import run, succeeds
from localkube.errors import LocalClusterError

_BRIDGE = "bridge"
_CUT_COMMENT = "link-cut-"
_ENDING_SECONDS = 10.0


def create(addresses: Addresses) -> None:
    """Make every namespace, link and route.

    Raises:
        LocalClusterError: the host's policy routing sends the cluster's addresses elsewhere.
    """
    for machine in (CONTROL, *NODES):
        run(["ip", "netns", "add", addresses.namespace(machine)])
    _sysctl(addresses, CONTROL, ["net.ipv4.ip_forward=1", *_bridge_settings()])
    run(["ip", "-batch", "-"], stdin="\n".join(_host_lines(addresses)))
    _refuse_detour(addresses)
    run(["ip", "-n", addresses.namespace(CONTROL), "-batch", "-"], stdin="\n".join(_control_lines(addresses)))
    for node in NODES:
        _sysctl(addresses, node, ["net.ipv4.ip_forward=1"])
        run(
            ["ip", "-n", addresses.namespace(node), "-batch", "-"],
            stdin="\n".join(_node_lines(addresses, node)),
        )


def remove(addresses: Addresses) -> None:
    """Remove every namespace and link, and what still runs in them; what is already gone is no error.

    Raises:
        LocalClusterError: a process in a namespace does not end.
    """
    succeeds(["ip", "link", "delete", addresses.host_interface])
    for namespace in existing_namespaces(addresses):
        # One process, a client that somebody started in it, would keep the nameless namespace alive.
        _end_processes(namespace)
        run(["ip", "netns", "delete", namespace])


def refuse_from_inside(addresses: Addresses) -> None:
    """Raise LocalClusterError when this very process is in one of the namespaces: it would kill its own shell."""
    own = Path("/proc/self/ns/net").stat()
    for namespace in existing_namespaces(addresses):
        if os.path.samestat(own, Path("/run/netns", namespace).stat()):
            raise LocalClusterError(f"this shell is inside the network {namespace}: leave it first (`exit`)")


def existing_namespaces(addresses: Addresses) -> list[str]:
    """Those of this cluster's namespaces that exist."""
    wanted = {addresses.namespace(machine) for machine in (CONTROL, *NODES)}
    found = (line.split()[0] for line in run(["ip", "netns", "list"]).splitlines() if line.strip())
    return [name for name in found if name in wanted]


def cut_node(addresses: Addresses, node: str) -> None:
    """Pull the node's cable: its other end goes down, so the node keeps its routes."""
    run(["ip", "-n", addresses.namespace(CONTROL), "link", "set", node, "down"])


def heal_node(addresses: Addresses, node: str) -> None:
    """Plug the node's cable in again."""
    run(["ip", "-n", addresses.namespace(CONTROL), "link", "set", node, "up"])


def is_cut(addresses: Addresses, node: str) -> bool:
    """Whether the node's cable is out."""
    shown = run(["ip", "-json", "-n", addresses.namespace(CONTROL), "link", "show", node])
    return "UP" not in json.loads(shown)[0]["flags"]


def cut_link(addresses: Addresses, left: str, right: str) -> None:
    """Drop what comes from the other machine and its pods, on both.

    The host is no part of the control machine: it reaches a node that was cut off from `control`.
    """
    heal_link(addresses, left, right)
    for here, there in ((left, right), (right, left)):
        for rule in drop_rules(addresses, here, there):
            _iptables(addresses, here, ["--insert", *rule])


def heal_link(addresses: Addresses, left: str, right: str) -> None:
    """Undo `cut_link`; no error when the link is whole."""
    for here, there in ((left, right), (right, left)):
        if there not in cut_links(addresses, here):
            continue
        for rule in drop_rules(addresses, here, there):
            _iptables(addresses, here, ["--delete", *rule])


def cut_links(addresses: Addresses, machine: str) -> list[str]:
    """The machines whose packets `machine` drops."""
    rules = _iptables(addresses, machine, ["--list-rules", "PREROUTING"])
    return [other for other in (CONTROL, *NODES) if f"{_CUT_COMMENT}{other} " in rules.replace('"', " ")]


def drop_rules(addresses: Addresses, here: str, there: str) -> Iterable[list[str]]:
    """The rules of `here` against `there`; the control machine still forwards between its node and the host."""
    only_own = ["--match", "addrtype", "--dst-type", "LOCAL"] if here == CONTROL else []
    comment = ["--match", "comment", "--comment", f"{_CUT_COMMENT}{there} "]
    for source in _sources(addresses, there):
        yield ["PREROUTING", "--source", source, *only_own, *comment, "--jump", "DROP"]


def check_range(addresses: Addresses) -> list[str]:
    """What the host loses while the cluster is there, as sentences for its user.

    Raises:
        LocalClusterError: the host uses a part of the cluster's range itself.
    """
    taken, hidden = overlaps(
        addresses.network, json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"]))
    )
    range_of_name = f"{addresses.network}, the range that follows from --name {addresses.name},"
    if taken:
        raise LocalClusterError(
            f"{range_of_name} is in use on this host (route {', '.join(taken)}); choose another --name"
        )
    return [
        f"{range_of_name} is a part of this host's route {route}: until `down` the host reaches the cluster there "
        "and nothing else; if you need those addresses, choose another --name"
        for route in hidden
    ]


def overlaps(network: IPv4Network, routes: Iterable[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Of `routes` (as `ip -json` has them) those that lead into `network`, and wider ones that it takes a part of.

    The default route is none of them: it means every address that nobody knows better.
    """
    taken, hidden = [], []
    for route in routes:
        if route["dst"] == "default":
            continue
        target = IPv4Network(route["dst"], strict=False)
        named = f"{target} dev {route['dev']}" if "dev" in route else str(target)
        if target.subnet_of(network):
            taken.append(named)
        elif network.subnet_of(target) and route.get("type", "unicast") == "unicast":
            hidden.append(named)
    return taken, hidden


def _refuse_detour(addresses: Addresses) -> None:
    """A rule of policy routing, as VPNs make them, may come before our route."""
    (taken,) = json.loads(run(["ip", "-json", "route", "get", str(addresses.api_service)]))
    if taken.get("dev") != addresses.host_interface:
        raise LocalClusterError(
            f"this host sends {addresses.network} to {taken.get('dev')} and not into the cluster: a rule of "
            "`ip rule` comes before the main table (a VPN?); choose another --name or take that rule away"
        )


def _end_processes(namespace: str) -> None:
    deadline = time.monotonic() + _ENDING_SECONDS
    while processes := run(["ip", "netns", "pids", namespace]).split():
        if time.monotonic() > deadline:
            raise LocalClusterError(
                f"processes in the network {namespace} do not end: {', '.join(processes)}"
            )
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        time.sleep(0.02)


def _host_lines(addresses: Addresses) -> Iterable[str]:
    host, control = addresses.host_interface, addresses.namespace(CONTROL)
    yield f"link add {host} type veth peer name host netns {control}"
    yield f"address add {addresses.host}/{addresses.host_link.prefixlen} dev {host}"
    yield f"link set {host} up"
    yield f"route add {addresses.network} via {addresses.gateway} dev {host}"


def _control_lines(addresses: Addresses) -> Iterable[str]:
    yield "link set lo up"
    yield f"link add {_BRIDGE} type bridge"
    yield f"address add {addresses.machine(CONTROL)}/{addresses.machines.prefixlen} dev {_BRIDGE}"
    yield f"link set {_BRIDGE} up"
    yield f"address add {addresses.gateway}/{addresses.host_link.prefixlen} dev host"
    yield "link set host up"
    yield f"route add unreachable {addresses.network}"
    yield f"route add {addresses.services} dev {_BRIDGE} src {addresses.machine(CONTROL)}"
    for node in NODES:
        yield f"link add {node} type veth peer name eth0 netns {addresses.namespace(node)}"
        yield f"link set {node} master {_BRIDGE}"
        yield f"link set {node} up"
        yield f"route add {addresses.pods(node)} via {addresses.machine(node)}"


def _node_lines(addresses: Addresses, node: str) -> Iterable[str]:
    yield "link set lo up"
    yield f"address add {addresses.machine(node)}/{addresses.machines.prefixlen} dev eth0"
    yield "link set eth0 up"
    yield f"route add unreachable {addresses.network}"
    yield f"route add {addresses.host_link} via {addresses.machine(CONTROL)}"
    yield f"route add {addresses.services} dev eth0 src {addresses.machine(node)}"
    yield f"route add unreachable {addresses.pods(node)}"
    for other in NODES:
        if other != node:
            yield f"route add {addresses.pods(other)} via {addresses.machine(other)}"


def _bridge_settings() -> list[str]:
    """What crosses the bridge was translated by its node; the control machine's rules must not see it."""
    return ["net.bridge.bridge-nf-call-iptables=0"]


def _sysctl(addresses: Addresses, machine: str, settings: list[str]) -> None:
    _enter(addresses, machine, ["sysctl", "--quiet", "--ignore", "--write", *settings])


def _sources(addresses: Addresses, machine: str) -> list[str]:
    own = str(addresses.machine(machine))
    return [own] if machine == CONTROL else [own, str(addresses.pods(machine))]


def _iptables(addresses: Addresses, machine: str, arguments: list[str]) -> str:
    return _enter(addresses, machine, ["iptables", "--wait", "--table", "raw", *arguments])


def _enter(addresses: Addresses, machine: str, command: list[str]) -> str:
    return run(["nsenter", f"--net=/run/netns/{addresses.namespace(machine)}", *command])
