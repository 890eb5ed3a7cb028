"""What is done to the machines below a cluster, each undone at the end of its block, also when doing it went wrong.

Not for harm to servers (cluster.py) nor to the operator (operators.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.harness.kube import ApiError, Kube, Object, wait_for
from tests.harness.local import HarnessError, Local

REMEDIES = {"stop": "start", "cut": "heal"}
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
NOT_BACK = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
BACK_SECONDS = 90
DRAIN_SECONDS = 60


@contextmanager
def node_fault(kube: Kube, local: Local | None, fault: str, node: str) -> Iterator[None]:
    """A node without power (`stop`) or network (`cut`); at the end it is back in Kubernetes' eyes, too."""
    if local is None:
        raise HarnessError("node faults need the local cluster")
    try:
        local.node(fault, node)
        yield
    finally:
        local.node(REMEDIES[fault], node)
        wait_node_back(kube, local, node)


@contextmanager
def links_cut(local: Local | None, node: str, others: Sequence[str]) -> Iterator[None]:
    """A node and these other machines lose each other; everybody else reaches all of them."""
    if local is None:
        raise HarnessError("link faults need the local cluster")
    try:
        for other in others:
            local.link("cut", node, other)
        yield
    finally:
        for other in others:
            local.link("heal", node, other)


@contextmanager
def disk_fault(local: Local | None, fault: str, volume: str) -> Iterator[None]:
    """A volume that is full (`fill`), has become read-only by an error (`readonly`), or whose writes hang (`freeze`).

    The end of `readonly` ends the containers that use the volume, as nobody can have the file system that failed: their
    Pod lives on with new ones.
    """
    if local is None:
        raise HarnessError("disk faults need the local cluster")
    try:
        local.disk(fault, volume)
        yield
    finally:
        local.disk("heal", volume)


def volume_of(kube: Kube, namespace: str, pod: str) -> str:
    """The name of the PersistentVolume that the Pod writes to; it has to have exactly one."""
    found = kube.get("pods", pod, namespace)
    if found is None:
        raise HarnessError(f"the Pod {pod} is not there")
    (claim,) = [
        each["persistentVolumeClaim"]["claimName"]
        for each in found["spec"]["volumes"]
        if "persistentVolumeClaim" in each
    ]
    bound = kube.get("persistentvolumeclaims", claim, namespace)
    volume = (bound or {}).get("spec", {}).get("volumeName")
    if not volume:
        raise HarnessError(f"the claim {claim} of {pod} has no volume")
    return str(volume)


@contextmanager
def api_server_away(local: Local) -> Iterator[None]:
    """No API server."""
    try:
        local.control("stop")
        yield
    finally:
        local.control("start")


@contextmanager
def out_of_service(kube: Kube, node: str) -> Iterator[None]:
    """A person's word that this node is off."""
    try:
        kube.kubectl("taint", "node", node, f"{OUT_OF_SERVICE}=nodeshutdown:NoExecute")
        yield
    finally:
        kube.kubectl("taint", "node", node, f"{OUT_OF_SERVICE}-")


@contextmanager
def cordoned(kube: Kube, nodes: Sequence[str]) -> Iterator[None]:
    """Nothing new is scheduled to these nodes."""
    try:
        for node in nodes:
            kube.kubectl("cordon", node)
        yield
    finally:
        for node in nodes:
            kube.kubectl("uncordon", node)


@contextmanager
def drained(kube: Kube, node: str, *, selector: str) -> Iterator[None]:
    """The node is drained of these Pods as a person does it, and taken back into use at the end."""
    try:
        kube.kubectl(
            "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", f"--pod-selector={selector}",
            f"--timeout={DRAIN_SECONDS}s", seconds=DRAIN_SECONDS + 10,
        )  # fmt: skip
        yield
    finally:
        kube.kubectl("uncordon", node)


def wait_node_back(kube: Kube, local: Local, node: str) -> None:
    """Waits until the node is Ready since its last boot, and Pods are scheduled to it again."""
    boot = local.boot_id(node)

    def back() -> bool:
        try:
            found = kube.get("nodes", node)
        except ApiError:
            return False
        return found is not None and _is_back(found) and found["status"]["nodeInfo"]["bootID"] == boot

    wait_for(f"{node} back", back, seconds=BACK_SECONDS)


def _is_back(node: Object) -> bool:
    taints = [each["key"] for each in node["spec"].get("taints") or []]
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in node["status"]["conditions"])
    return ready and not any(key in NOT_BACK for key in taints)


def undo_what_is_left(kube: Kube) -> None:
    """Takes back the cordons and taints of a run that was killed."""
    for node in kube.list("nodes"):
        name = node["metadata"]["name"]
        if node["spec"].get("unschedulable"):
            kube.kubectl("uncordon", name)
        if any(each["key"] == OUT_OF_SERVICE for each in node["spec"].get("taints") or []):
            kube.kubectl("taint", "node", name, f"{OUT_OF_SERVICE}-")
