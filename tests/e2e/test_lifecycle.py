"""Deletion, suspension, other images: what becomes of a cluster's objects and of its data."""

from __future__ import annotations

from tests.harness.cluster import Cluster
from tests.harness.diagnose import OPERATOR_NAMESPACE
from tests.harness.kube import Kube, Object, holds_for, wait_for
from tests.harness.local import Local
from tests.harness.operators import Operators
from tests.harness.verify import verify
from tests.harness.writing import write_for, writing

MANAGED = "app.kubernetes.io/managed-by=mariadb-operator"
LOOKALIKE = "mariadb-lookalike:10.11"
UNTOUCHED_SECONDS = 6.0  # long enough for a failover and for drift to be corrected, were it not suspended


def names(kube: Kube, kind: str, namespace: str) -> set[str]:
    return {each["metadata"]["name"] for each in kube.list(kind, namespace, MANAGED)}


def test_retain_keeps_volumes_and_credentials_and_a_later_cluster_is_not_made_over_them(
    kube: Kube, local: Local | None, own_namespace: str
) -> None:
    cluster = Cluster(kube=kube, local=local, namespace=own_namespace, name="kept", spec={"replicas": 1})
    cluster.apply()
    cluster.wait_healthy()
    cluster.sql("kept-0", "CREATE TABLE app.kept (n INT PRIMARY KEY); INSERT INTO app.kept VALUES (1);")
    cluster.delete()
    cluster.wait_gone()
    assert names(kube, "persistentvolumeclaims", own_namespace) == {"data-kept-0"}
    assert {"kept-credentials", "kept-ca"} <= names(kube, "secrets", own_namespace)
    wait_for("services gone", lambda: not names(kube, "services", own_namespace), seconds=90)
    cluster.apply()
    status = cluster.wait("quarantined", lambda status: status.get("state") == "Quarantined", seconds=60)
    assert "data-kept-0" in status["message"]
    cluster.wait_event("data-kept-0")
    assert not cluster.pods(), "something was started on volumes whose history nobody knows"
    cluster.delete()
    cluster.wait_gone()
    assert names(kube, "persistentvolumeclaims", own_namespace) == {"data-kept-0"}


def test_delete_removes_volumes_and_credentials_and_nothing_that_others_made(
    kube: Kube, local: Local | None, own_namespace: str
) -> None:
    stranger = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "gone-strangers", "namespace": own_namespace},
        "data": {"keep": "me"},
    }
    kube.create("configmaps", stranger, own_namespace)
    spec = {"replicas": 1, "volumeDeletionPolicy": "Delete"}
    cluster = Cluster(kube=kube, local=local, namespace=own_namespace, name="gone", spec=spec)
    cluster.apply()
    cluster.wait_healthy()
    cluster.delete()
    cluster.wait_gone()
    kinds = ("persistentvolumeclaims", "secrets", "services", "configmaps", "endpointslices")
    wait_for(
        "all of it gone", lambda: not any(names(kube, kind, own_namespace) for kind in kinds), seconds=60
    )
    assert kube.get("configmaps", "gone-strangers", own_namespace) is not None


def test_a_suspended_cluster_is_reported_and_left_alone(trio: Cluster) -> None:
    result = write_for(trio, 0.5)
    before = trio.status()
    trio.edit(suspend=True)
    trio.wait("paused", lambda status: status.get("state") == "Paused", seconds=90)
    trio.signal_mariadbd(before["primary"], "KILL")
    service = f"{trio.name}-replicas"
    trio.kube.delete("services", service, trio.namespace)
    trio.wait_condition("Ready", "False", seconds=90)
    holds_for(
        "left alone",
        lambda: trio.epoch == before["epoch"] and trio.kube.get("services", service, trio.namespace) is None,
        seconds=UNTOUCHED_SECONDS,
    )
    assert trio.value(before["primary"], "@@global.read_only") == "1"
    trio.edit(suspend=False)
    trio.wait_healthy()
    wait_for("drift put right", lambda: trio.kube.get("services", service, trio.namespace), seconds=90)
    verify(trio, result).require()


def test_an_image_made_like_the_official_one_serves_though_its_entry_point_would_refuse(
    kube: Kube, local: Local | None, own_namespace: str
) -> None:
    """Its entry point starts no server without a word on the root password, which the operator does not give it."""
    cluster = Cluster(kube=kube, local=local, namespace=own_namespace, name="alike", spec={"replicas": 2})
    manifest = cluster.manifest(image=LOOKALIKE)
    del manifest["spec"]["version"]
    kube.apply(manifest)
    plain: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "plain", "namespace": own_namespace},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "mariadb", "image": LOOKALIKE, "imagePullPolicy": "IfNotPresent"}],
        },
    }
    kube.create("pods", plain, own_namespace)

    def refused() -> bool:
        found = kube.get("pods", "plain", own_namespace)
        return found is not None and str(found["status"].get("phase")) == "Failed"

    wait_for("the entry point to refuse", refused, seconds=60)
    assert "password option is not specified" in kube.kubectl("logs", "--namespace", own_namespace, "plain")
    status = cluster.wait_healthy()
    assert status["image"] == LOOKALIKE
    assert status["version"].startswith("10.11.")
    verify(cluster, write_for(cluster, 0.5)).require()


def test_removing_the_operator_removes_no_cluster(trio: Cluster, operators: Operators) -> None:
    before, epoch = {pod["metadata"]["uid"] for pod in trio.pods()}, trio.epoch
    with writing(trio, pause=0.02) as writers:
        writers.wait_acknowledged(20)
        try:
            operators.remove()
            assert operators.kube.get("namespaces", OPERATOR_NAMESPACE) is None
            writers.wait_acknowledged(50)
            assert {pod["metadata"]["uid"] for pod in trio.pods()} == before
        finally:
            operators.deploy()
        operators.wait_ready()
        writers.wait_acknowledged(50)
    trio.wait_healthy()
    assert {pod["metadata"]["uid"] for pod in trio.pods()} == before, (
        "an operator that comes recreates no Pod"
    )
    assert trio.epoch == epoch
    verify(trio, writers.result).require()
