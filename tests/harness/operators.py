"""The operator's own processes: who leads, and how they are killed, frozen and taken away.

Not for what they do to clusters: cluster.py.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from tests.harness import faults, processes
from tests.harness.diagnose import OPERATOR_NAMESPACE
from tests.harness.kube import ApiError, Kube, Object, wait_for
from tests.harness.local import ROOT, HarnessError, Local

DEPLOYMENT = "mariadb-operator"
LEASE = "mariadb-operator"
SELECTOR = "app.kubernetes.io/name=mariadb-operator"
READY_SECONDS = 90
PLACING_TRIES = 3


@dataclass(frozen=True, slots=True)
class Operators:
    """The Deployment of the operator."""

    kube: Kube
    local: Local | None

    def ensure_deployed(self) -> None:
        """Sees that all replicas run: deploys what is absent, and gives back the replicas that somebody took away."""
        found = self.kube.get("deployments", DEPLOYMENT, OPERATOR_NAMESPACE)
        if found is None or not found["spec"].get("replicas"):
            self.deploy()
        self.wait_ready()

    def deploy(self) -> None:
        """Applies definitions and Deployment as they are in the repository."""
        self.kube.kubectl("apply", "--server-side", "-k", str(ROOT / "deploy/kustomize/crds"))
        self.kube.kubectl(
            "wait", "--for=condition=Established", "--timeout=60s", "crd/mariadbclusters.mariadb.fsm.dev"
        )
        self.kube.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(ROOT / "deploy/kustomize"))

    def remove(self) -> None:
        """Deletes everything but the definitions, as a person who removes the operator does."""
        self.kube.kubectl("delete", "-k", str(ROOT / "deploy/kustomize"), "--timeout=90s")

    def wait_ready(self) -> None:
        """Waits until every replica is ready and one leads."""

        def ready() -> bool:
            try:
                deployment = self.kube.get("deployments", DEPLOYMENT, OPERATOR_NAMESPACE) or {}
            except ApiError as error:
                if error.passes:
                    return False
                raise
            wanted = deployment.get("spec", {}).get("replicas", 0)
            status = deployment.get("status", {})
            current = status.get("observedGeneration") == deployment.get("metadata", {}).get("generation")
            counts = [status.get(key, 0) for key in ("replicas", "updatedReplicas", "readyReplicas")]
            return current and wanted > 0 and counts == [wanted] * 3 and self._leader() is not None

        wait_for("the operator's replicas ready", ready, seconds=READY_SECONDS)

    def pods(self) -> list[Object]:
        """Its Pods that are not on their way out."""
        found = self.kube.list("pods", OPERATOR_NAMESPACE, SELECTOR)
        return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]

    def containers(self) -> dict[str, str]:
        """The id of the container of each Pod."""
        return {pod["metadata"]["name"]: container(pod) for pod in self.pods()}

    def leaders_log(self, since: datetime) -> str:
        """What the leader has said since then."""
        name = self.leader()["metadata"]["name"]
        return self.kube.kubectl(
            "logs", "--namespace", OPERATOR_NAMESPACE, name, f"--since-time={since.isoformat()}", check=False
        )

    def leader(self) -> Object:
        """The Pod of the process that leads."""
        return wait_for("an operator leads", self._leader, seconds=60)

    def holder(self) -> str:
        """The identity of the process that leads, as the Lease has it; empty when none does."""
        return _holder(self.kube.get("leases", LEASE, OPERATOR_NAMESPACE))

    def give_lease_back(self, holder: str) -> None:
        """Frees the Lease of this leader, who is known to be dead, so that nobody waits for it to run out."""
        lease = self.kube.get("leases", LEASE, OPERATOR_NAMESPACE)
        if lease is None or _holder(lease) != holder:
            return
        change = {
            "metadata": {"resourceVersion": lease["metadata"]["resourceVersion"]},  # nobody else's
            "spec": {"holderIdentity": "", "leaseDurationSeconds": 1},  # as client-go does it
        }
        try:
            self.kube.merge("leases", LEASE, change, OPERATOR_NAMESPACE)
        except ApiError as error:
            if error.code != 409:
                raise

    def wait_other_leader(self, than: Object) -> None:
        """Waits until the process of another Pod leads."""
        uid = than["metadata"]["uid"]
        wait_for("another operator leads", lambda: self.leader()["metadata"]["uid"] != uid, seconds=60)

    def _leader(self) -> Object | None:
        try:
            holder = self.holder()
            return next((pod for pod in self.pods() if holder.startswith(pod["metadata"]["name"])), None)
        except ApiError as error:
            if error.passes:
                return None
            raise

    def lead_away_from(self, node: str) -> None:
        """Sees that the leader runs on another node, so that this node's fault does not take it along."""
        self._lead_on_one_of({each for each in self._nodes() if each != node})

    def lead_on(self, node: str) -> None:
        """Sees that the leader runs on this node."""
        self._lead_on_one_of({node})

    def _nodes(self) -> list[str]:
        return [each["metadata"]["name"] for each in self.kube.list("nodes")]

    def _lead_on_one_of(self, wanted: set[str]) -> None:
        """The standby is brought to where the leader has to be, then the leader hands over to it."""
        for _ in range(PLACING_TRIES):
            self.wait_ready()  # after a fault a third one may be there that is still leaving, and leads next
            leader = self.leader()
            if leader["spec"]["nodeName"] in wanted:
                return
            with faults.cordoned(self.kube, [each for each in self._nodes() if each not in wanted]):
                for pod in self.pods():
                    if (
                        pod["metadata"]["uid"] != leader["metadata"]["uid"]
                        and pod["spec"].get("nodeName") not in wanted
                    ):
                        self.replace(pod)
            self.kube.delete("pods", leader["metadata"]["name"], OPERATOR_NAMESPACE)
            self.wait_other_leader(leader)
        raise HarnessError(f"the leader could not be moved to {' or '.join(sorted(wanted))}")

    def replace(self, pod: Object) -> None:
        """Deletes this Pod and waits until another process leads and all are ready."""
        self.kube.delete("pods", pod["metadata"]["name"], OPERATOR_NAMESPACE)
        uid = pod["metadata"]["uid"]
        wait_for(
            "the old operator gone",
            lambda: all(each["metadata"]["uid"] != uid for each in self.pods()),
            seconds=60,
        )
        self.wait_ready()

    def signal(self, pod: Object, number: signal.Signals) -> None:
        """Sends a signal to the operator's process in this Pod; the local cluster only."""
        found = processes.of_pod(pod["metadata"]["uid"], program="mariadb-operator")
        if not found:
            raise HarnessError(f"no operator process of {pod['metadata']['name']} on this machine")
        for process in found:
            os.kill(process, number)

    def kill(self, pod: Object) -> None:
        """Ends the process without any warning: kill -9 where it can be reached, else the Pod by force."""
        if self.local is not None:
            self.signal(pod, signal.SIGKILL)
        else:
            self.kube.delete("pods", pod["metadata"]["name"], OPERATOR_NAMESPACE, grace=0)

    @contextmanager
    def absent(self) -> Iterator[None]:
        """No operator runs in the cluster for as long as the block lasts."""
        deployment = self.kube.get("deployments", DEPLOYMENT, OPERATOR_NAMESPACE)
        assert deployment is not None
        replicas = deployment["spec"]["replicas"]
        try:
            self.scale(0)
            yield
        finally:
            self.scale(replicas)

    def scale(self, replicas: int) -> None:
        """Changes the number of replicas and waits until it is so."""
        self.kube.merge("deployments", DEPLOYMENT, {"spec": {"replicas": replicas}}, OPERATOR_NAMESPACE)
        if replicas:
            self.wait_ready()
        else:
            wait_for(
                "no operator runs",
                lambda: not self.kube.list("pods", OPERATOR_NAMESPACE, SELECTOR),
                seconds=60,
            )


def _holder(lease: Object | None) -> str:
    return ((lease or {}).get("spec") or {}).get("holderIdentity") or ""


def container(pod: Object) -> str:
    """The id of the container that the Pod runs in now."""
    statuses = pod.get("status", {}).get("containerStatuses") or [{}]
    return str(statuses[0].get("containerID"))
