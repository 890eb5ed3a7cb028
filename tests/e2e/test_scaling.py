"""Instances come and go under writes; the new ones hold everything, the leaving ones take nothing with them."""

from __future__ import annotations

from tests.harness.cluster import Cluster
from tests.harness.kube import Kube, Object, wait_for
from tests.harness.local import Local
from tests.harness.verify import verify
from tests.harness.writing import writing

STEPS = (3, 5, 3)
WRITTEN = 100
# Five servers on two cores: writers at full speed would leave the joining ones no time to catch up.
PAUSE_SECONDS = 0.02


def test_scaling_from_1_to_3_to_5_to_3_under_writes_keeps_every_row(
    kube: Kube, local: Local | None, own_namespace: str
) -> None:
    cluster = Cluster(kube=kube, local=local, namespace=own_namespace, name="scaled", spec={"replicas": 1})
    cluster.apply()
    assert cluster.wait_healthy()["durability"]["recorded"] == "Asynchronous"
    with writing(cluster, pause=PAUSE_SECONDS) as writers:
        for replicas in STEPS:
            writers.wait_acknowledged(WRITTEN)
            cluster.edit(replicas=replicas)
            status = wait_healthy_with(cluster, replicas)
            assert status["durability"]["recorded"] == "SemiSync"
        writers.wait_acknowledged(WRITTEN)
    assert len(verify(cluster, writers.result).require().instances) == STEPS[-1]
    assert cluster.primary == "scaled-0", "scaling moved the primary"
    assert {pod["metadata"]["name"] for pod in cluster.pods()} == {"scaled-0", "scaled-1", "scaled-2"}
    claims = {each["metadata"]["name"] for each in kube.list("persistentvolumeclaims", own_namespace)}
    assert {"data-scaled-3", "data-scaled-4"} <= claims, "Retain: the volumes of those that left stay"


def test_a_new_replica_waits_and_says_so_where_the_binary_logs_no_longer_reach_back(
    kube: Kube, local: Local | None, own_namespace: str
) -> None:
    cluster = Cluster(kube=kube, local=local, namespace=own_namespace, name="purged", spec={"replicas": 1})
    cluster.apply()
    cluster.wait_healthy()
    cluster.sql("purged-0", "CREATE TABLE app.kept (n INT PRIMARY KEY); INSERT INTO app.kept VALUES (1);")
    cluster.sql("purged-0", "FLUSH BINARY LOGS")

    def purged() -> bool:
        # A log that a crash recovery might still need stays without a word, for a second or so.
        [*_, newest] = cluster.sql("purged-0", "SHOW BINARY LOGS")
        cluster.sql("purged-0", f"PURGE BINARY LOGS TO '{newest[0]}'")
        return len(cluster.sql("purged-0", "SHOW BINARY LOGS")) == 1

    wait_for("older binary logs purged", purged, seconds=30)
    cluster.edit(replicas=2)
    condition = cluster.wait_condition("ReplicationHealthy", "False", "purged-1", "binary log", seconds=120)
    assert condition["reason"], condition
    assert cluster.sql("purged-0", "SELECT n FROM app.kept") == [["1"]]
    cluster.sql("purged-0", "INSERT INTO app.kept VALUES (2)", seconds=40)


def wait_healthy_with(cluster: Cluster, replicas: int) -> Object:
    """Waits for Healthy with that many members."""

    def healthy(status: Object) -> bool:
        # What people read follows the state a moment later.
        seen = status.get("readyInstances") == f"{replicas}/{replicas}"
        return seen and status.get("state") == "Healthy" and len(status.get("members") or []) == replicas

    return cluster.wait(f"Healthy with {replicas} instances", healthy)
