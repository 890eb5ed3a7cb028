"""A kubelet, a volume provisioner and the servers, all simulated, for clusters that only an operator looks at.

    nsenter --net=/run/netns/NAME-control python -m tests.benchmarks.simulation.world --namespace NS

Runs in the control machine's network, where 10.254.0.0/16 is made local for as long as it runs, beside the operator
that is measured. The API server, its scheduler and controllers are real: Pods are scheduled to nodes that this keeps
Ready, claims are bound to volumes that this makes, and Pods "run" at an address where a simulated server answers.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import secrets
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from mariadb_operator.resources.configuration import admin_port
from tests.benchmarks.simulation.server import SimulatedCluster, SimulatedServer, listening
from tests.harness import kube as api
from tests.harness.kube import ApiError, Kube, Object
from tests.harness.local import find_kubeconfig

LABEL = "simulated.fsm.dev/node"
STORAGE_CLASS = "simulated"
NODES = ("simulated-1", "simulated-2", "simulated-3")
RANGE = "10.254.0.0/16"
PORT = admin_port(3306)
TICK_SECONDS = 0.5
QUIET_TICK_SECONDS = 5.0
HEARTBEAT_SECONDS = 10.0


class World:
    """Everything that is simulated in one namespace."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self.servers: dict[str, SimulatedServer] = {}
        self._kube = kube
        self._namespace = namespace
        self._clusters: dict[str, SimulatedCluster] = {}
        self._numbers: dict[str, int] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._addresses: dict[str, str] = {}
        self._told: dict[str, str] = {}  # by address, the annotation with which its certificate came
        self._beat = 0.0

    def tls(self, address: str) -> ssl.SSLContext:
        """The certificate of the cluster whose instance has this address."""
        return self._contexts[address]

    def tick(self) -> bool:
        """Do what a kubelet, a provisioner and a volume controller would; whether anything was to be done."""
        if time.monotonic() - self._beat > HEARTBEAT_SECONDS:
            self._heartbeat()
        claims = self._kube.list("persistentvolumeclaims", self._namespace)
        unbound = [each for each in claims if each.get("status", {}).get("phase") != "Bound"]
        for claim in unbound:
            self._volume(claim)
        pods = self._kube.list("pods", self._namespace)
        busy = [self._pod(pod) for pod in pods]
        return bool(unbound) or any(busy)

    def _heartbeat(self) -> None:
        self._beat = time.monotonic()
        now = timestamp()
        condition = {
            "type": "Ready", "status": "True", "reason": "Simulated", "message": "", "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }  # fmt: skip
        room = {"cpu": "1000", "memory": "1Ti", "pods": "1000", "ephemeral-storage": "1Ti"}
        status = {"conditions": [condition], "capacity": room, "allocatable": room}
        for name in NODES:
            self._kube.merge("nodes", name, {"status": status}, subresource="status")

    def _volume(self, claim: Object) -> None:
        name = f"simulated-{claim['metadata']['uid']}"
        volume: Object = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name, "labels": {LABEL: "true"}},
            "spec": {
                "storageClassName": STORAGE_CLASS,
                "accessModes": claim["spec"]["accessModes"],
                "capacity": claim["spec"]["resources"]["requests"],
                "hostPath": {"path": "/simulated"},
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": {
                    "namespace": self._namespace,
                    "name": claim["metadata"]["name"],
                    "uid": claim["metadata"]["uid"],
                },
            },
        }
        try:
            self._kube.create("persistentvolumes", volume)
        except ApiError as error:
            if error.code != 409:
                raise

    def _pod(self, pod: Object) -> bool:
        metadata = pod["metadata"]
        if metadata.get("deletionTimestamp"):
            self.servers.pop(self._addresses.pop(metadata["uid"], ""), None)
            self._kube.delete("pods", metadata["name"], self._namespace, grace=0)
            return True
        self._renew(pod)
        if metadata["uid"] in self._addresses or pod["spec"].get("nodeName") not in NODES:
            return metadata["uid"] not in self._addresses
        cluster = metadata["labels"]["mariadb.fsm.dev/cluster"]
        ordinal = int(metadata["name"].rpartition("-")[2])
        number = self._numbers.setdefault(cluster, len(self._numbers) + 1)
        address = f"10.254.{number}.{ordinal + 1}"
        context = self._context(cluster)
        if context is None:
            return True
        self._contexts[address] = context
        shared = self._clusters.setdefault(cluster, SimulatedCluster())
        self.servers[address] = SimulatedServer(shared, ordinal + 1, secrets.token_hex(8))
        self._addresses[metadata["uid"]] = address
        self._run(pod, address)
        return True

    def _renew(self, pod: Object) -> None:
        """The kubelet brings a changed Secret into a Pod that changed."""
        metadata = pod["metadata"]
        address = self._addresses.get(metadata["uid"], "")
        told = (metadata.get("annotations") or {}).get("mariadb.fsm.dev/certificate", "")
        if not address or self._told.get(address) == told:
            return
        context = self._context(metadata["labels"]["mariadb.fsm.dev/cluster"])
        if context is not None:
            self._contexts[address], self._told[address] = context, told

    def _context(self, cluster: str) -> ssl.SSLContext | None:
        found = self._kube.get("secrets", f"{cluster}-tls", self._namespace)
        if found is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            for key in ("tls.crt", "tls.key"):
                (Path(folder) / key).write_bytes(base64.b64decode(found["data"][key]))
            context.load_cert_chain(f"{folder}/tls.crt", f"{folder}/tls.key")
        return context

    def _run(self, pod: Object, address: str) -> None:
        now = timestamp()
        kinds = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        container = {
            "name": "mariadb", "ready": True, "started": True, "restartCount": 0, "imageID": "simulated",
            "image": pod["spec"]["containers"][0]["image"], "containerID": f"containerd://{secrets.token_hex(16)}",
            "state": {"running": {"startedAt": now}},
        }  # fmt: skip
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": now,
            "conditions": [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds],
            "containerStatuses": [container],
        }
        name = pod["metadata"]["name"]
        self._kube.merge("pods", name, {"status": status}, self._namespace, subresource="status")


def timestamp() -> str:
    """Now, as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextlib.contextmanager
def furnished(kube: Kube) -> Iterator[None]:
    """Nodes, a storage class and the addresses, for as long as they are needed."""
    taint = {"key": LABEL, "effect": "NoSchedule"}
    storage: Object = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": STORAGE_CLASS},
        "provisioner": "simulated.fsm.dev/none",
        "volumeBindingMode": "Immediate",
    }
    nodes: list[Object] = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": {LABEL: "true", "kubernetes.io/hostname": name}},
            "spec": {"taints": [taint]},
        }
        for name in NODES
    ]
    try:
        subprocess.run(["ip", "route", "replace", "local", RANGE, "dev", "lo"], check=True)
        kube.apply(storage, *nodes)
        yield
    finally:
        remove_furniture(kube)


def remove_furniture(kube: Kube, *, enter: Sequence[str] = ()) -> None:
    """Takes away what is there of it; `enter` leads into the control machine's network from elsewhere."""
    for name in NODES:
        kube.delete("nodes", name)
    kube.delete("storageclasses", STORAGE_CLASS)
    for volume in kube.list("persistentvolumes", selector=f"{LABEL}=true"):
        kube.delete("persistentvolumes", volume["metadata"]["name"])
    subprocess.run(
        [*enter, "ip", "route", "del", "local", RANGE, "dev", "lo"], check=False, capture_output=True
    )


async def run(kube: Kube, namespace: str) -> None:
    """Until SIGTERM."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    world = World(kube, namespace)
    async with listening(port=PORT, servers=world.servers, tls=world.tls):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while not stopped.is_set():
            busy = await asyncio.to_thread(world.tick)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), TICK_SECONDS if busy else QUIET_TICK_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--namespace", required=True)
    options = parser.parse_args()
    with api.opened(find_kubeconfig()) as kube, furnished(kube):
        asyncio.run(run(kube, options.namespace))


if __name__ == "__main__":
    main()
