"""A cluster as a whole: makes it, finds it again, takes it away.

Everything that exists outside its folder can be found by its name, so that a crash at any moment leaves
nothing that the next `up` or `down` does not see.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from localkube import certificates, images, manifests, network, services
from localkube.addresses import CONTROL, NODES, Addresses
from localkube.api import ApiServer
from localkube.archives import Archive
from localkube.commands import ourselves, run
from localkube.disks import Disk
from localkube.errors import LocalClusterError
from localkube.layout import Layout
from localkube.machine import Machine
from localkube.programs import KUBERNETES

Say = Callable[[str], None]
_READY_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster of a name, whether it exists or not."""

    addresses: Addresses
    layout: Layout

    @property
    def api(self) -> ApiServer:
        """Its API server, as the administrator."""
        return ApiServer(self.layout.kubeconfig)

    @property
    def kubectl(self) -> Path:
        """A kubectl of the cluster's version."""
        return self.layout.programs / KUBERNETES.folder / "kubectl"

    def machine(self, machine: str) -> Machine:
        """A node or the control machine.

        Raises:
            LocalClusterError: there is no such machine.
        """
        if machine not in (CONTROL, *NODES):
            raise LocalClusterError(f"no machine {machine!r}; there are {', '.join((CONTROL, *NODES))}")
        return Machine(namespace=self.addresses.namespace(machine), folder=self.layout.machine(machine))

    def disks(self) -> list[tuple[str, Disk]]:
        """Every volume, and the node that it is on."""
        return [(node, disk) for node in NODES for disk in self.machine(node).disks()]

    def disk(self, wanted: str) -> tuple[str, Disk]:
        """The node and the volume of this name: NAMESPACE/CLAIM, or that of the PersistentVolume.

        Raises:
            LocalClusterError: there is none, or there are several of that claim.
        """
        found = [(node, disk) for node, disk in self.disks() if wanted in (disk.claim, disk.volume)]
        if not found:
            raise LocalClusterError(
                f"no volume {wanted!r}: NAMESPACE/CLAIM or a PersistentVolume that is a file system of its own; "
                "`status` shows all there are"
            )
        if len(found) > 1:
            names = ", ".join(disk.volume for _, disk in found)
            raise LocalClusterError(f"several volumes were made for {wanted}: name one of {names}")
        return found[0]

    def heal_disk(self, node: str, disk: Disk) -> None:
        """Undo whatever was done to a volume.

        Raises:
            LocalClusterError: it is beyond repair.
        """
        self.machine(node).heal_disk(disk, starting=services.KUBELET)

    def exists(self) -> bool:
        """Whether `up` came to its end and the machine's namespaces are still there."""
        return self.layout.complete.exists() and CONTROL in [
            name.removeprefix(f"{self.addresses.name}-")
            for name in network.existing_namespaces(self.addresses)
        ]

    def require(self) -> None:
        """Raise LocalClusterError unless the cluster exists."""
        if not self.exists():
            name = self.addresses.name
            raise LocalClusterError(f"there is no local cluster {name!r}: {ourselves()} up --name {name}")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One change at a time: the cluster's folder is the lock, so that none stays behind.

        Raises:
            LocalClusterError: somebody else is changing this cluster.
        """
        folder = self.layout.state
        handle = _lock(folder)
        if handle is None:
            raise LocalClusterError(
                f"another command is changing the cluster {self.addresses.name!r}: wait for its end"
            )
        try:
            shutil.rmtree(self.layout.scratch, ignore_errors=True)
            yield
        finally:
            # Only what is empty goes: after `down`, or when nothing was made.
            for path in (self.layout.scratch, folder, folder.parent):
                with contextlib.suppress(OSError):
                    path.rmdir()
            os.close(handle)

    def create(self, *, own_disks: bool, say: Say) -> None:
        """Make it from nothing; the image store is filled already.

        Args:
            own_disks: whether each volume is a file system of its own, else a folder.
            say: told what is being done.

        Raises:
            LocalClusterError: a step failed; what was made so far stays, for a look at its logs.
        """
        say("network and certificates")
        network.create(self.addresses)
        tokens = certificates.write(self.layout.pki, self.addresses)
        self._write_kubeconfig(tokens)
        with ThreadPoolExecutor() as pool:
            say("control machine and nodes")
            control = pool.submit(self._start_control, tokens)
            nodes = [pool.submit(self._prepare_node, node, tokens) for node in NODES]
            _finish([control, *nodes])
        say("API server")
        self.api.wait_ready(seconds=_READY_SECONDS)
        for node in NODES:
            self.machine(node).start_service(services.KUBELET)
            self.machine(node).start_service("kube-proxy")
        self.machine(CONTROL).start_service("kube-proxy")
        say("CoreDNS and storage")
        run(
            [str(self.kubectl), f"--kubeconfig={self.layout.kubeconfig}", "apply", "--filename=-"],
            stdin=manifests.render(self.addresses, own_disks=own_disks),
        )
        self.machine(CONTROL).start_service(services.PROVISIONER)
        self.wait_ready(say=say)
        self.layout.complete.touch()

    def repair(self, *, say: Say) -> None:
        """Undo what faults did: every machine on, every disk and link whole."""
        say("machines, disks and links")
        for machine in (CONTROL, *NODES):
            self.machine(machine).power_on()
        self.machine(CONTROL).start_service(services.API_SERVER)
        for number, node in enumerate(NODES):
            for disk in self.machine(node).disks():
                self.heal_disk(node, disk)
            network.heal_node(self.addresses, node)
            for other in (CONTROL, *NODES[:number]):
                network.heal_link(self.addresses, node, other)
        self.api.wait_ready(seconds=_READY_SECONDS)
        self.wait_ready(say=say)

    def wait_ready(self, *, say: Say) -> None:
        """Wait until every node is Ready and CoreDNS answers.

        Raises:
            LocalClusterError: not in time; names what is not ready.
        """
        deadline = time.monotonic() + _READY_SECONDS
        while waiting := self._not_ready():
            if time.monotonic() > deadline:
                raise LocalClusterError(
                    f"not ready after {_READY_SECONDS:.0f} s: {', '.join(waiting)}; "
                    f"logs are in {self.layout.state}/*/var/log"
                )
            say(f"waiting for {', '.join(waiting)}")
            time.sleep(0.2)

    def load(self, wanted: Sequence[Archive], *, say: Say) -> None:
        """Import images into every node that is on."""
        on = [node for node in NODES if self.machine(node).is_on()]
        images.load_into_nodes(self.layout, on, wanted, say=say)

    def remove(self) -> None:
        """Take everything away, whatever is left of it. No error when nothing is.

        Raises:
            LocalClusterError: something would not go; says what.
        """
        network.refuse_from_inside(self.addresses)
        self.layout.complete.unlink(missing_ok=True)
        self.layout.kubeconfig.unlink(missing_ok=True)
        with ThreadPoolExecutor() as pool:
            _finish([pool.submit(self.machine(machine).remove) for machine in (CONTROL, *NODES)])
        network.remove(self.addresses)
        self._refuse_mounts()
        # The folder itself is the lock and stays until that is released.
        content = [str(path) for path in self.layout.state.iterdir()]
        run(["rm", "--recursive", "--force", "--", *content], timeout=300)

    def leftovers(self) -> bool:
        """Whether anything of it exists."""
        return any(self.layout.state.iterdir()) or bool(network.existing_namespaces(self.addresses))

    def _start_control(self, tokens: dict[str, str]) -> None:
        machine = self.machine(CONTROL)
        machine.install(services.control_services(self.addresses), programs=self.layout.programs)
        _write(machine.var, services.control_files(self.addresses, tokens))
        shutil.copytree(self.layout.pki, machine.var / services.PKI.relative_to("/var"))
        (machine.var / "lib/etcd").mkdir(mode=0o700)
        machine.power_on(held=["kube-proxy", services.PROVISIONER])

    def _prepare_node(self, node: str, tokens: dict[str, str]) -> None:
        machine = self.machine(node)
        machine.install(services.node_services(self.addresses, node), programs=self.layout.programs)
        _write(machine.var, services.node_files(self.addresses, node, tokens=tokens, cgroup=machine.cgroup))
        authority = machine.var / services.PKI.relative_to("/var") / "ca.crt"
        authority.parent.mkdir(parents=True)
        shutil.copy2(self.layout.pki / "ca.crt", authority)
        images.seed(self.layout, node)
        # Held until the API server answers: kubelets back off for seconds when it does not.
        machine.power_on(held=[services.KUBELET, "kube-proxy"])

    def _write_kubeconfig(self, tokens: dict[str, str]) -> None:
        authority = base64.b64encode((self.layout.pki / "ca.crt").read_bytes()).decode()
        content = services.kubeconfig(
            self.addresses, token=tokens[certificates.ADMINISTRATOR], authority=authority
        )
        path = self.layout.kubeconfig
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(content)

    def _not_ready(self) -> list[str]:
        # A node that lost its power stays Ready in the API for a while: its boot id tells.
        ready = self.api.ready_nodes()
        waiting = [node for node in NODES if ready.get(node) != self.machine(node).boot_id()]
        if not self.api.dns_is_ready():
            waiting.append("CoreDNS")
        return waiting

    def _refuse_mounts(self) -> None:
        """A mount below the folder would be emptied with it."""
        below = [
            line.split()[4]
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if line.split()[4].startswith(f"{self.layout.state}/")
        ]
        if below:
            raise LocalClusterError(f"still mounted: {', '.join(below)}; unmount by hand, then try again")


def _lock(folder: Path) -> int | None:
    """The folder, made, open and locked; None when somebody else has it or is just removing it."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), folder.stat()):
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(handle)
    return None


def _finish(steps: Sequence[Future[None]]) -> None:
    for step in steps:
        step.result()


def _write(var: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = var / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(content)
