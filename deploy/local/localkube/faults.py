"""The commands that break a cluster, each with the one that makes it whole again. `up` undoes them all."""

from __future__ import annotations

from typing import Annotated

import typer

from localkube import network, preflight, services
from localkube.addresses import CONTROL, Addresses, number_of
from localkube.cluster import Cluster
from localkube.disks import Fault
from localkube.errors import LocalClusterError
from localkube.layout import layout

node_app = typer.Typer(help="Faults of a node.", no_args_is_help=True)
link_app = typer.Typer(
    help="Faults of the link between two machines (node1..node3, control).", no_args_is_help=True
)
disk_app = typer.Typer(help="Faults of a volume: what its Pod writes to.", no_args_is_help=True)
control_app = typer.Typer(help="Stop and start the API server.", no_args_is_help=True)

Name = Annotated[str, typer.Option(help="The cluster's name; its addresses follow from it.")]
NodeName = Annotated[str, typer.Argument(help="node1, node2 or node3")]
MachineName = Annotated[str, typer.Argument(help="node1, node2, node3 or control")]
VolumeName = Annotated[
    str, typer.Argument(metavar="VOLUME", help="NAMESPACE/CLAIM, or the PersistentVolume's name")
]


def cluster_of(name: str) -> Cluster:
    """The cluster of that name, whether it exists or not."""
    return Cluster(addresses=Addresses(name), layout=layout(name))


def existing(name: str, node: str | None = None) -> Cluster:
    """The cluster of that name, which has to exist, as has the node where one is named."""
    if node is not None:
        number_of(node)
    preflight.require_root()
    cluster = cluster_of(name)
    cluster.require()
    return cluster


def _harm(name: str, volume: str, fault: Fault) -> None:
    node, disk = (cluster := existing(name)).disk(volume)
    if not cluster.machine(node).is_on():
        raise LocalClusterError(f"{volume} is on {node}, which is off")
    disk.harm(fault)


def _linked(name: str, left: str, right: str) -> Cluster:
    cluster = existing(name)
    for machine in (left, right):
        cluster.machine(machine)
    if left == right:
        raise LocalClusterError(f"a link has two ends; both are {left!r}")
    return cluster


@node_app.command("stop")
def node_stop(node: NodeName, name: Name = "mdb") -> None:
    """Power failure: the network goes, then every process at once; the disk stays."""
    cluster = existing(name, node)
    network.cut_node(cluster.addresses, node)
    cluster.machine(node).power_off()


@node_app.command("start")
def node_start(node: NodeName, name: Name = "mdb") -> None:
    """Power on again: the node boots and joins."""
    cluster = existing(name, node)
    network.heal_node(cluster.addresses, node)
    cluster.machine(node).power_on()


@node_app.command("cut")
def node_cut(node: NodeName, name: Name = "mdb") -> None:
    """Pull the network cable; everything on the node runs on."""
    cluster = existing(name, node)
    network.cut_node(cluster.addresses, node)


@node_app.command("heal")
def node_heal(node: NodeName, name: Name = "mdb") -> None:
    """Plug the network cable in again."""
    cluster = existing(name, node)
    network.heal_node(cluster.addresses, node)


@link_app.command("cut")
def link_cut(left: MachineName, right: MachineName, name: Name = "mdb") -> None:
    """Drop every packet between two machines and their pods, both ways."""
    cluster = _linked(name, left, right)
    network.cut_link(cluster.addresses, left, right)


@link_app.command("heal")
def link_heal(left: MachineName, right: MachineName, name: Name = "mdb") -> None:
    """Undo `link cut`."""
    cluster = _linked(name, left, right)
    network.heal_link(cluster.addresses, left, right)


@disk_app.command("fill")
def disk_fill(volume: VolumeName, name: Name = "mdb") -> None:
    """Nothing is free on it any more: who needs more gets ENOSPC; what is deleted can be used again."""
    _harm(name, volume, Fault.FILL)


@disk_app.command("readonly")
def disk_readonly(volume: VolumeName, name: Name = "mdb") -> None:
    """An error made its file system read-only: every write gets EROFS. Healing ends the containers that use it."""
    _harm(name, volume, Fault.READONLY)


@disk_app.command("freeze")
def disk_freeze(volume: VolumeName, name: Name = "mdb") -> None:
    """Writes and syncs hang until it is healed, and who hangs can't be killed; reads go on."""
    _harm(name, volume, Fault.FREEZE)


@disk_app.command("heal")
def disk_heal(volume: VolumeName, name: Name = "mdb") -> None:
    """Undo whatever was done to it; no error when it is whole."""
    cluster = existing(name)
    cluster.heal_disk(*cluster.disk(volume))


@control_app.command("stop")
def control_stop(name: Name = "mdb") -> None:
    """Kill the API server and keep it stopped."""
    existing(name).machine(CONTROL).stop_service(services.API_SERVER)


@control_app.command("start")
def control_start(name: Name = "mdb") -> None:
    """Start the API server and wait until it is ready."""
    cluster = existing(name)
    cluster.machine(CONTROL).start_service(services.API_SERVER)
    cluster.api.wait_ready(seconds=60)
