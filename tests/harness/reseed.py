"""Brings a cluster with kept-out instances back to Healthy, by the hands of a person: Pod and volume are deleted.

Not before the caller has looked at what the kept-out instance holds.
"""

from __future__ import annotations

from tests.harness.cluster import HEALTHY_SECONDS, Cluster
from tests.harness.kube import Object, wait_for


def settled(status: Object) -> bool:
    """Whether nothing more happens by itself: Healthy, or not only because of kept-out instances."""
    if status.get("state") == "Healthy":
        return True
    kept_out = {each["name"] for each in status.get("members") or [] if each.get("keptOut")}
    others = [
        each.get("ready") is True for each in status.get("instances") or [] if each["name"] not in kept_out
    ]
    recorded = (status.get("durability") or {}).get("recorded") == "SemiSync"
    short = status.get("state") in ("Replicating", "Degraded")
    return short and bool(kept_out) and all(others) and recorded


def wait_settled(cluster: Cluster, *, epoch: int = 0, seconds: float = HEALTHY_SECONDS) -> Object:
    """Waits until nothing more happens by itself, in this epoch or a later one."""

    def nothing_ends(status: Object) -> bool:
        if int(status.get("epoch") or 0) < epoch or not settled(status):
            return False
        # A Pod that was deleted while its node was away is killed when the node is back, Healthy or not.
        return not any(pod["metadata"].get("deletionTimestamp") for pod in cluster.pods())

    return cluster.wait("settled", nothing_ends, seconds=seconds)


def reseed_kept_out(cluster: Cluster) -> list[str]:
    """Deletes volume and Pod of each kept-out instance and waits for Healthy; returns their names."""
    names = sorted(cluster.kept_out())
    for name in names:
        claim = f"data-{name}"
        before = cluster.kube.get("persistentvolumeclaims", claim, cluster.namespace)
        assert before is not None
        uid = before["metadata"]["uid"]
        cluster.kube.delete("persistentvolumeclaims", claim, cluster.namespace)
        cluster.kube.delete("pods", name, cluster.namespace, grace=1)

        def replaced(claim: str = claim, uid: str = uid) -> bool:
            found = cluster.kube.get("persistentvolumeclaims", claim, cluster.namespace)
            return found is not None and found["metadata"]["uid"] != uid

        wait_for(f"a new volume {claim}", replaced, seconds=60)
    cluster.wait_healthy()
    return names
