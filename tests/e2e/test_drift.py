"""What somebody deletes or edits behind the operator's back is put right, and the data does not move."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness.cluster import Cluster
from tests.harness.kube import Object, wait_for
from tests.harness.verify import verify
from tests.harness.writing import write_for

SECONDS = 60


def object_of(cluster: Cluster, kind: str, name: str) -> Object:
    found = cluster.kube.get(kind, name, cluster.namespace)
    assert found is not None, f"{kind} {name} is not there"
    return found


def config_map(cluster: Cluster) -> str:
    pod = cluster.pod(cluster.primary)
    assert pod is not None
    names = [each["configMap"]["name"] for each in pod["spec"]["volumes"] if "configMap" in each]
    assert len(names) == 1
    return str(names[0])


DELETED: list[tuple[str, Callable[[Cluster], str]]] = [
    ("services", lambda cluster: f"{cluster.name}-primary"),
    ("services", lambda cluster: f"{cluster.name}-replicas"),
    ("services", lambda cluster: f"{cluster.name}-instances"),
    ("endpointslices", lambda cluster: f"{cluster.name}-primary-ipv4"),
    ("endpointslices", lambda cluster: f"{cluster.name}-replicas-ipv4"),
    ("configmaps", config_map),
    ("secrets", lambda cluster: f"{cluster.name}-app"),
    ("secrets", lambda cluster: f"{cluster.name}-tls"),
    ("poddisruptionbudgets", lambda cluster: cluster.name),
]


def test_what_is_deleted_is_made_again_with_the_same_content(trio: Cluster) -> None:
    write_for(trio, 0.5)
    epoch = trio.epoch
    for kind, name_of in DELETED:
        name = name_of(trio)
        before = object_of(trio, kind, name)
        trio.kube.delete(kind, name, trio.namespace)

        def made_again(
            kind: str = kind, name: str = name, uid: str = before["metadata"]["uid"]
        ) -> Object | None:
            found = trio.kube.get(kind, name, trio.namespace)
            return found if found is not None and found["metadata"]["uid"] != uid else None

        wait_for(f"{kind} {name} again", made_again, seconds=SECONDS)
        if name != f"{trio.name}-tls":  # a certificate of the same authority, not the same certificate

            def as_before(kind: str = kind, name: str = name, before: Object = before) -> bool:
                found = trio.kube.get(kind, name, trio.namespace) or {}
                return all(found.get(field) == before.get(field) for field in ("data", "endpoints", "ports"))

            wait_for(f"{kind} {name} as it was", as_before, seconds=SECONDS)
    trio.wait_healthy()
    assert trio.epoch == epoch, "drift moved the primary"
    verify(trio, write_for(trio, 0.5)).require()


EDITED: list[tuple[str, str, Object, Callable[[Object], Any], Any]] = [
    (
        "services",
        "{}-primary",
        {"spec": {"ports": [{"name": "mariadb", "port": 3306, "targetPort": 9999}]}},
        lambda found: found["spec"]["ports"][0]["targetPort"],
        3306,
    ),
    (
        "services",
        "{}-primary",
        {"spec": {"selector": {"somebody": "else"}}},
        lambda found: found["spec"].get("selector"),
        None,
    ),
    (
        "secrets",
        "{}-app",
        {"data": {"host": base64.b64encode(b"elsewhere").decode()}},
        lambda found: base64.b64decode(found["data"]["host"]).decode().split(".")[0],
        "{}-primary",
    ),
    (
        "poddisruptionbudgets",
        "{}",
        {"spec": {"maxUnavailable": 3}},
        lambda found: found["spec"]["maxUnavailable"],
        1,
    ),
]


@pytest.mark.parametrize(("kind", "name", "patch", "look", "wanted"), EDITED)
def test_what_is_edited_is_put_right(
    trio: Cluster, kind: str, name: str, patch: Object, look: Callable[[Object], Any], wanted: Any
) -> None:
    name = name.format(trio.name)
    wanted = wanted.format(trio.name) if isinstance(wanted, str) else wanted
    assert look(object_of(trio, kind, name)) == wanted
    trio.kube.merge(kind, name, patch, trio.namespace)
    wait_for(
        f"{kind} {name} put right",
        lambda: look(object_of(trio, kind, name)) == wanted,
        seconds=SECONDS,
    )


def test_endpoints_that_somebody_points_elsewhere_are_pointed_back_at_the_primary(trio: Cluster) -> None:
    name = f"{trio.name}-primary-ipv4"
    before = object_of(trio, "endpointslices", name)["endpoints"]
    replica = next(each for each in trio.instances() if each != trio.primary)
    pod = trio.pod(replica)
    assert pod is not None
    wrong = [{**before[0], "addresses": [pod["status"]["podIP"]]}]
    trio.kube.merge("endpointslices", name, {"endpoints": wrong}, trio.namespace)
    wait_for(
        "the primary's endpoint",
        lambda: object_of(trio, "endpointslices", name)["endpoints"] == before,
        seconds=SECONDS,
    )
    verify(trio, write_for(trio, 0.5)).require()


def test_a_deleted_replica_comes_back_with_its_data(trio: Cluster) -> None:
    result = write_for(trio, 0.5)
    replica = next(each for each in trio.instances() if each != trio.primary)
    before, epoch = trio.pod(replica), trio.epoch
    assert before is not None
    trio.delete_pod(replica)

    def replaced() -> bool:
        pod = trio.pod(replica)
        if pod is None or pod["metadata"]["uid"] == before["metadata"]["uid"]:
            return False
        # The status follows a moment later: right after the deletion it still tells of the former Pod.
        conditions = (pod.get("status") or {}).get("conditions") or []
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    wait_for(f"a new Pod {replica} that is ready", replaced, seconds=SECONDS)
    trio.wait("ready again", lambda status: status.get("readyInstances") == "3/3")
    trio.wait_healthy()
    assert trio.epoch == epoch
    verify(trio, result).require()


def test_the_operator_writes_finalizer_and_status_and_never_the_spec(trio: Cluster) -> None:
    """What GitOps leans on: nothing below spec belongs to the operator."""
    found = trio.object()
    assert found is not None
    managed = found["metadata"]["managedFields"]
    operators = [each for each in managed if each["manager"].startswith("mariadb-operator")]
    assert any("f:status" in each["fieldsV1"] for each in operators), "no field is known to be the operator's"
    assert not [each for each in operators if "f:spec" in each["fieldsV1"]]
    assert trio.spec_managers(), "the spec is nobody's"
