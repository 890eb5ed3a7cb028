"""What can't work says so, with field, value and remedy, in a condition and an Event; all others go on.

The bad clusters are applied side by side, then each is looked at; a good one is made amid them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.harness.cluster import Cluster
from tests.harness.kube import Kube, Object, wait_for
from tests.harness.local import Local
from tests.harness.namespaces import temporary_namespace
from tests.harness.verify import verify
from tests.harness.writing import write_for

SECONDS = 90
NO_MARIADBD = "mariadb-operator:dev"  # an image that is there and has no server


@dataclass(frozen=True, slots=True)
class Bad:
    """A spec that can't work, what the answer has to name, and what mends it."""

    spec: dict[str, Any]
    mentions: tuple[str, ...]
    remedy: Callable[[Cluster], None]


def edit(**spec: Any) -> Callable[[Cluster], None]:
    return lambda cluster: cluster.edit(**spec)


def create_secret(cluster: Cluster) -> None:
    secret: Object = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "absent-secret", "namespace": cluster.namespace},
        "stringData": {"password": "a-password-of-my-own"},
    }
    cluster.kube.create("secrets", secret, cluster.namespace)


def create_config_map(cluster: Cluster) -> None:
    config_map: Object = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "absent-map", "namespace": cluster.namespace},
        "data": {"my.cnf": "[mariadbd]\nmax_connections = 77\n"},
    }
    cluster.kube.create("configmaps", config_map, cluster.namespace)


BAD: dict[str, Bad] = {
    "rejected-config": Bad(
        {"myCnf": "[mariadbd]\nno_such_option = 1\n"},
        ("no_such_option", "spec.myCnf"),
        edit(myCnf="[mariadbd]\nmax_connections = 50\n"),
    ),
    "absent-secret": Bad(
        {"passwordSecretKeyRef": {"name": "absent-secret"}},
        ("passwordSecretKeyRef", "absent-secret"),
        create_secret,
    ),
    "absent-map": Bad(
        {"myCnfConfigMapKeyRef": {"name": "absent-map"}},
        ("myCnfConfigMapKeyRef", "absent-map"),
        create_config_map,
    ),
    "absent-class": Bad(
        {"storage": {"size": "1Gi", "storageClassName": "no-such-class"}},
        ("storageClassName", "no-such-class"),
        lambda cluster: None,  # the field can't change: deleted and made anew
    ),
    "absent-image": Bad(
        {"version": None, "image": "localhost:1/no-such-image:1"},
        ("no-such-image", "spec.image"),
        edit(image="mariadb:11.8"),
    ),
    "no-mariadbd": Bad(
        {"version": None, "image": NO_MARIADBD},
        ("mariadbd", "spec.image"),
        edit(image="mariadb:11.8"),
    ),
}


@pytest.fixture(scope="module")
def bad_clusters(kube: Kube, local: Local | None, module_namespace: str) -> dict[str, Cluster]:
    """All of them, just applied."""
    clusters = {
        name: Cluster(
            kube=kube, local=local, namespace=module_namespace, name=name, spec={"replicas": 1, **bad.spec}
        )
        for name, bad in BAD.items()
    }
    manifests = []
    for cluster in clusters.values():
        manifest = cluster.manifest()
        manifest["spec"] = {key: value for key, value in manifest["spec"].items() if value is not None}
        manifests.append(manifest)
    kube.apply(*manifests)
    return clusters


@pytest.fixture(scope="module")
def good_cluster(
    kube: Kube, local: Local | None, module_namespace: str, bad_clusters: dict[str, Cluster]
) -> Cluster:
    """One that can work, applied after all the bad ones."""
    cluster = Cluster(kube=kube, local=local, namespace=module_namespace, name="good", spec={"replicas": 1})
    cluster.apply()
    return cluster


def test_a_good_cluster_amid_bad_ones_becomes_healthy_and_serves(good_cluster: Cluster) -> None:
    good_cluster.wait_healthy()
    verify(good_cluster, write_for(good_cluster, 0.5)).require()


@pytest.mark.parametrize("name", BAD)
def test_what_can_not_work_says_so_and_is_mended_by_what_it_says(
    bad_clusters: dict[str, Cluster], good_cluster: Cluster, name: str
) -> None:
    cluster, bad = bad_clusters[name], BAD[name]
    condition = cluster.wait_condition("Ready", "False", *bad.mentions, seconds=SECONDS)
    assert condition["reason"]
    cluster.wait_event(*bad.mentions)
    bad.remedy(cluster)
    if name == "absent-class":
        cluster.delete()
        cluster.wait_gone()
    else:
        cluster.wait_healthy(seconds=150)
        cluster.delete()
    good_cluster.wait_healthy()


def test_two_clusters_of_one_name_in_two_namespaces_do_not_touch_each_other(
    kube: Kube, local: Local | None, good_cluster: Cluster
) -> None:
    good_cluster.wait_healthy()
    with temporary_namespace(kube, "e2e-twin") as other:
        twin = Cluster(kube=kube, local=local, namespace=other, name="good", spec={"replicas": 1})
        twin.apply()
        twin.wait_healthy()
        there, here = write_for(twin, 0.5), write_for(good_cluster, 0.5)
        verify(twin, there).require()
        verify(good_cluster, here).require()
        assert twin.app_secret()["password"] != good_cluster.app_secret()["password"]
        assert twin.status()["clusterId"] != good_cluster.status()["clusterId"]
        twin.delete()
        twin.wait_gone()
    good_cluster.wait_healthy()
    verify(good_cluster, here).require()


def test_a_status_that_somebody_edits_never_moves_data(good_cluster: Cluster) -> None:
    """Telemetry is written anew; an epoch that the servers contradict is a person's to settle."""
    good_cluster.wait_healthy()
    result = write_for(good_cluster, 0.5)
    before = good_cluster.status()

    def write(**status: Any) -> None:
        good_cluster.kube.merge(
            "mariadbclusters", "good", {"status": status}, good_cluster.namespace, subresource="status"
        )

    write(readyInstances="9/9", instances=[], version="0.0")
    good_cluster.wait(
        "telemetry written anew",
        lambda status: status.get("readyInstances") == "1/1" and status.get("version") == before["version"],
        seconds=SECONDS,
    )
    write(state="Bewitched")
    good_cluster.wait("quarantined", lambda status: status.get("state") == "Quarantined", seconds=SECONDS)
    write(state="Healthy", version="0.0")
    good_cluster.wait(
        "read again",
        lambda status: status.get("state") == "Healthy" and status.get("version") == before["version"],
        seconds=SECONDS,
    )
    write(epoch=0, primary="good-7")
    good_cluster.wait("quarantined", lambda status: status.get("state") == "Quarantined", seconds=SECONDS)
    assert good_cluster.status()["message"]
    verify_rows_stand(good_cluster, result.table)
    write(epoch=before["epoch"], primary=before["primary"])
    sequence = good_cluster.status()["sequence"]
    annotation = {"metadata": {"annotations": {"mariadb.fsm.dev/leave-quarantine": str(sequence)}}}
    good_cluster.kube.merge("mariadbclusters", "good", annotation, good_cluster.namespace)
    good_cluster.wait_healthy()
    verify(good_cluster, result).require()


def verify_rows_stand(cluster: Cluster, table: str) -> None:
    assert int(cluster.sql("good-0", f"SELECT COUNT(*) FROM app.{table}")[0][0]) > 0


def at_once(cluster: Cluster) -> bool:
    return True


def with_a_pod(cluster: Cluster) -> bool:
    return bool(cluster.pods())


def with_a_primary(cluster: Cluster) -> bool:
    return cluster.epoch >= 1


def test_a_cluster_deleted_while_it_is_made_goes_without_a_trace(
    kube: Kube, local: Local | None, own_namespace: str
) -> None:
    spec = {"replicas": 3, "volumeDeletionPolicy": "Delete"}
    for so_far in (at_once, with_a_pod, with_a_primary):
        cluster = Cluster(kube=kube, local=local, namespace=own_namespace, name="brief", spec=spec)
        cluster.apply()
        wait_for(
            f"made so far: {so_far.__name__}",
            lambda cluster=cluster, so_far=so_far: so_far(cluster),  # type: ignore[misc]
            seconds=60,
            every=0.05,
        )
        cluster.delete()
        cluster.wait_gone()
        nothing_is_left(kube, own_namespace)


def nothing_is_left(kube: Kube, namespace: str) -> None:
    selector = "app.kubernetes.io/managed-by=mariadb-operator"

    def gone() -> bool:
        kinds = ("persistentvolumeclaims", "secrets", "services", "configmaps", "endpointslices", "pods")
        return not any(kube.list(kind, namespace, selector) for kind in kinds)

    wait_for("everything of the deleted cluster gone", gone, seconds=60)
