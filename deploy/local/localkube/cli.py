"""The commands. Each says what it does while it does it, and ends with 1 and one message when it can't."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from localkube import disks, faults, images, network, preflight, programs
from localkube.addresses import CONTROL, NODES
from localkube.archives import Archive
from localkube.cluster import Cluster
from localkube.errors import LocalClusterError
from localkube.faults import Name, cluster_of, existing

app = typer.Typer(
    help="A real Kubernetes on this machine, without a registry.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(faults.node_app, name="node")
app.add_typer(faults.link_app, name="link")
app.add_typer(faults.disk_app, name="disk")
app.add_typer(faults.control_app, name="control")

_console = Console(stderr=True)


def main() -> None:
    """Run the command line."""
    # A root shell that began as somebody else's lacks the system's own programs.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH") or os.defpath, "/usr/sbin", "/sbin"])
    try:
        app()
    except LocalClusterError as error:
        _console.print(f"[bold red]error:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(1)


@app.command()
def up(
    image: Annotated[list[str] | None, typer.Option(help="Also load this image tar or Docker image.")] = None,
    name: Name = "mdb",
) -> None:
    """Make the cluster, or bring it back to a whole one; does nothing when all is well."""
    cluster = cluster_of(name)
    _check(cluster)
    started = time.monotonic()
    with cluster.locked():
        _provide_programs(cluster)
        if not cluster.exists() and cluster.leftovers():
            with _step("Removing what an earlier run left"):
                cluster.remove()
        with images.opened(cluster.layout, image or []) as brought:
            archives = [*images.system_archives(cluster.layout), *brought]
            if cluster.exists():
                with _step("Repairing") as say:
                    cluster.repair(say=say)
                with _step("Loading images") as say:
                    cluster.load(archives, say=say)
            else:
                _create(cluster, archives)
    _console.print(
        f"[green]Cluster {name} is up[/] after {time.monotonic() - started:.1f} s:\n"
        f"export KUBECONFIG={cluster.layout.kubeconfig}\n"
        f"export PATH={cluster.kubectl.parent}:$PATH",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def check(name: Name = "mdb") -> None:
    """Say what this machine lacks for `up`; changes nothing, ends with 1 when something is missing."""
    _check(cluster_of(name))


@app.command("programs")
def provide_programs(name: Name = "mdb") -> None:
    """Install and build what `up` needs, minutes once; `up` does so by itself, this is for doing it beside others."""
    cluster = cluster_of(name)
    _check(cluster)
    # No cluster is touched, and builds wait for each other.
    _provide_programs(cluster)


@app.command()
def down(name: Name = "mdb") -> None:
    """Take the cluster away with everything it made; its volumes too."""
    cluster = cluster_of(name)
    preflight.require_root()
    with cluster.locked(), _step(f"Removing {name}"):
        cluster.remove()


@app.command()
def status(name: Name = "mdb") -> None:
    """Show the machines, their faults, and the paths to use; ends with 1 when the cluster is not there."""
    cluster = cluster_of(name)
    preflight.require_root()
    cluster.require()
    print(f"cluster     {name}")
    print(f"kubeconfig  {cluster.layout.kubeconfig}")
    print(f"kubectl     {cluster.kubectl}")
    print(f"API server  {cluster.addresses.api_url} {'ready' if cluster.api.is_ready() else 'NOT READY'}")
    print(f"logs        {cluster.layout.state}/MACHINE/var/log")
    print(f"enter       nsenter --net=/run/netns/{cluster.addresses.namespace(CONTROL)} COMMAND")
    console = Console()
    console.print(_machines_table(cluster))
    if cluster.disks():
        console.print(_volumes_table(cluster))


@app.command()
def load_image(
    image: Annotated[
        list[str], typer.Argument(help="Image tars, or names of images of the local Docker engine.")
    ],
    name: Name = "mdb",
) -> None:
    """Put images onto every node; what is there already is left alone."""
    cluster = existing(name)
    with cluster.locked(), images.opened(cluster.layout, image) as archives, _step("Loading images") as say:
        cluster.load(archives, say=say)


@app.command()
def kubeconfig(name: Name = "mdb") -> None:
    """Print the kubeconfig's path; ends with 1 when there is no such cluster."""
    cluster = cluster_of(name)
    if not cluster.layout.kubeconfig.exists():
        cluster.require()
    print(cluster.layout.kubeconfig)


def _check(cluster: Cluster) -> None:
    with _console.status("Checking this machine"):
        preflight.check(cluster.layout.programs)


def _create(cluster: Cluster, archives: list[Archive]) -> None:
    for warning in network.check_range(cluster.addresses):
        _console.print(f"[yellow]warning:[/] {warning}", highlight=False, soft_wrap=True)
    with _step("Filling the image store") as say:
        images.fill_store(cluster.layout, archives, say=say)
    problem = _disk_problem(cluster)
    if problem is not None:
        _console.print(
            f"[yellow]warning:[/] volumes are folders here, and `disk` has nothing to harm: {problem}",
            highlight=False,
            soft_wrap=True,
        )
    with _step("Starting") as say:
        cluster.create(own_disks=problem is None, say=say)


def _disk_problem(cluster: Cluster) -> str | None:
    with images.scratch(cluster.layout) as folder:
        return disks.problem(folder)


def _provide_programs(cluster: Cluster) -> None:
    packages = programs.missing_packages()
    if packages:
        with _step(f"Installing {', '.join(packages)}") as say:
            programs.install_packages(packages, say=say)
    for group in programs.BUILT:
        if not programs.is_built(group, cluster.layout.programs):
            with _step(f"Building {group.source} {group.version}, minutes once") as say:
                programs.build(group, cluster.layout.programs, say=say)


def _machines_table(cluster: Cluster) -> Table:
    ready = cluster.api.ready_nodes()
    table = Table("machine", "address", "pods", "power", "network", "node", box=None, pad_edge=False)
    for machine in (CONTROL, *NODES):
        is_node = machine != CONTROL
        faults = [f"no link to {other}" for other in network.cut_links(cluster.addresses, machine)]
        if is_node and network.is_cut(cluster.addresses, machine):
            faults.insert(0, "cut")
        table.add_row(
            machine,
            str(cluster.addresses.machine(machine)),
            str(cluster.addresses.pods(machine)) if is_node else "",
            "on" if cluster.machine(machine).is_on() else "off",
            ", ".join(faults) or "ok",
            ("Ready" if machine in ready else "NotReady") if is_node else "",
        )
    return table


def _volumes_table(cluster: Cluster) -> Table:
    table = Table("volume", "claim", "node", "size", "disk", box=None, pad_edge=False)
    for node, disk in cluster.disks():
        state = disk.fault() or ("ok" if disk.device() else "not mounted")
        table.add_row(disk.volume, disk.claim, node, f"{disk.size // 2**20} MiB", state)
    return table


@contextmanager
def _step(title: str) -> Iterator[Callable[[str], None]]:
    """Shows a step while it runs, with what it last said; a line with its time stays."""
    started = time.monotonic()
    with _console.status(title) as shown:
        yield lambda said: shown.update(f"{title}: {said[:110]}")
    _console.print(f"{title}: {time.monotonic() - started:.1f} s", highlight=False)
