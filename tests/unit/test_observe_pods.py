"""From Pods, claims and nodes to facts: what kubelets really write, and what is missing in it."""

from __future__ import annotations

from typing import Any

import pytest

from mariadb_operator.kube.kinds import (
    CONFIG_MAP,
    ENDPOINT_SLICE,
    NODE,
    POD,
    POD_DISRUPTION_BUDGET,
    PVC,
    SECRET,
    SERVICE,
)
from mariadb_operator.kube.store import Store
from mariadb_operator.observe.pods import node_off, node_ready, pod_fact, server_ended, volume_fact
from mariadb_operator.observe.progress import Progress
from mariadb_operator.observe.snapshot import Caches, Endings, Remembered, build_snapshot, primary_endpoint
from mariadb_operator.resources.names import Names
from statemachines.facts import Container, EndpointFact, PodFact, Reach, Volume
from statemachines.record import Member, Record

READY = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
NOT_READY = {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}
OFF = {"spec": {"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]}}


def pod(*, state: dict[str, Any] | None = None, uid: str = "u1", **more: Any) -> dict[str, Any]:
    status: dict[str, Any] = dict(more.pop("status", {}))
    if state is not None:
        status["containerStatuses"] = [{"name": "mariadb", "state": state, **more.pop("container", {})}]
    return {
        "metadata": {
            "name": "demo-0",
            "namespace": "shop",
            "uid": uid,
            "labels": {"mariadb.fsm.dev/cluster": "demo"},
            **more.pop("metadata", {}),
        },
        "spec": {"nodeName": "node1", **more.pop("spec", {})},
        "status": status,
        **more,
    }


RUNNING: dict[str, Any] = {"running": {"startedAt": "2026-11-23T12:00:00Z"}}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "just created": (
        {"metadata": {"name": "demo-0", "namespace": "shop", "uid": "u1"}},
        {"container": Container.WAITING, "ip": None, "node": None, "problem": ""},
    ),
    "running": (
        pod(state=RUNNING, container={"ready": True, "containerID": "c1"}, status={"podIP": "10.0.0.1"}),
        {"container": Container.RUNNING, "ready": True, "ip": "10.0.0.1", "container_id": "c1"},
    ),
    "another container only": (
        pod(status={"containerStatuses": [{"name": "sidecar", "ready": True, "state": RUNNING}]}),
        {"container": Container.WAITING, "ready": False},
    ),
    "deleting": (
        pod(state=RUNNING, metadata={"deletionTimestamp": "2026-11-23T12:00:00Z"}),
        {"deleting": True, "deletion_requested_at": 1795435200.0},
    ),
    "evicted": (pod(status={"phase": "Failed"}), {"failed": True}),
    "image can't be pulled": (
        pod(state={"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling "x:1"'}}),
        {"problem_reason": "ImagePullBackOff", "problem": 'Back-off pulling "x:1"'},
    ),
    "being created": (pod(state={"waiting": {"reason": "ContainerCreating"}}), {"problem": ""}),
    "rejected configuration": (
        pod(
            state={"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
            container={
                "lastState": {"terminated": {"message": "ConfigurationRejected: unknown variable 'x=1'\n"}}
            },
        ),
        {"problem_reason": "ConfigurationRejected", "problem": "unknown variable 'x=1'"},
    ),
    "ended without our words": (
        pod(state={"terminated": {"exitCode": 1, "message": "boom: bang"}}),
        {"container": Container.TERMINATED, "problem_reason": "boom", "problem": "bang"},
    ),
    "runs again after an end": (
        pod(state=RUNNING, container={"lastState": {"terminated": {"message": "ConfigurationRejected: x"}}}),
        {"problem": "", "problem_reason": ""},
    ),
    "no place": (
        pod(
            status={
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/3 nodes",
                    }
                ]
            }
        ),
        {"problem_reason": "Unschedulable", "problem": "0/3 nodes"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_pod_is_read_as_it_is(name: str) -> None:
    manifest, wanted = CASES[name]
    fact: PodFact = pod_fact(manifest)
    assert {field: getattr(fact, field) for field in wanted} == wanted


@pytest.mark.parametrize(
    ("claim", "volume"),
    [
        (None, Volume.ABSENT),
        ({"metadata": {}}, Volume.PENDING),
        ({"status": {"phase": "Pending"}}, Volume.PENDING),
        ({"status": {"phase": "Bound"}}, Volume.BOUND),
        ({"status": {"phase": "Lost"}}, Volume.LOST),
    ],
)
def test_a_claim_is_read_as_it_is(claim: dict[str, Any] | None, volume: Volume) -> None:
    assert volume_fact(claim) is volume


@pytest.mark.parametrize(
    ("node", "ready"),
    [
        (None, None),
        ({}, None),
        (READY, True),
        (NOT_READY, None),
        ({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}, False),
    ],
)
def test_a_node_s_own_word_is_asked_and_unknown_is_no_word(
    node: dict[str, Any] | None, ready: bool | None
) -> None:
    assert node_ready(node) is ready


def test_only_a_person_s_taint_says_that_a_node_is_off() -> None:
    assert node_off(OFF)
    assert not node_off({"spec": {"taints": [{"key": "node.kubernetes.io/unreachable"}]}})
    assert not node_off(None)


# --- Endings: proofs of death that outlive the objects they were read from ----------------------------------------------

ENDED: dict[str, Any] = {"terminated": {"exitCode": 137}}


def ended(endings: Endings, *, off: tuple[str, ...] = ()) -> frozenset[str]:
    return endings.of("shop", "demo-0", off=lambda node: node in off)


def test_an_end_counts_when_a_ready_node_reports_it() -> None:
    endings = Endings()
    endings.note(pod(state=ENDED), NOT_READY)
    endings.note(pod(state=ENDED), None)
    assert ended(endings) == frozenset()
    endings.note(pod(state=ENDED), READY)
    assert ended(endings) == {"u1"}


def test_an_end_stays_known_when_the_node_dies_afterwards() -> None:
    endings = Endings()
    endings.note(pod(state=ENDED), READY)
    endings.note(pod(state=ENDED), NOT_READY)
    assert ended(endings) == {"u1"}


@pytest.mark.parametrize("state", [RUNNING, {"waiting": {"reason": "CrashLoopBackOff"}}])
def test_a_container_that_was_started_again_has_not_ended(state: dict[str, Any]) -> None:
    endings = Endings()
    endings.note(pod(state=ENDED), READY)
    endings.note(pod(state=state), READY)
    assert ended(endings) == frozenset()


def test_a_pod_that_is_gone_died_with_its_node_when_a_person_says_that_it_is_off() -> None:
    endings = Endings()
    endings.note(pod(state=RUNNING), READY)
    endings.note(pod(state=RUNNING, uid="successor", spec={"nodeName": "node2"}), READY)
    assert ended(endings) == frozenset()
    assert ended(endings, off=("node1",)) == {"u1"}
    assert ended(endings, off=("node2",)) == {"successor"}


def test_what_is_remembered_of_an_instance_is_bounded() -> None:
    endings = Endings()
    for number in range(50):
        endings.note(pod(state=ENDED, uid=f"u{number}"), READY)
    assert ended(endings, off=("node1",)) == {f"u{number}" for number in range(46, 50)}


def test_server_ended_is_told_from_the_server_s_container() -> None:
    assert server_ended(pod(state=ENDED))
    assert not server_ended(pod(state=RUNNING))
    assert not server_ended({"metadata": {}})


# --- the snapshot --------------------------------------------------------------------------------------------------------

NAMES = Names("demo", "shop")


def caches() -> Caches:
    return Caches(
        pods=Store(POD),
        claims=Store(PVC),
        nodes=Store(NODE),
        slices=Store(ENDPOINT_SLICE),
        services=Store(SERVICE),
        config_maps=Store(CONFIG_MAP),
        secrets=Store(SECRET),
        budgets=Store(POD_DISRUPTION_BUDGET),
    )


def remembered(**fields: Any) -> Remembered:
    return Remembered(
        probes={},
        sidecars={},
        progress=Progress(),
        busy=lambda _: False,
        cleared=lambda *_: True,
        port=3306,
        **fields,
    )


def test_members_and_whatever_carries_our_label_are_in_the_snapshot() -> None:
    stores = caches()
    stores.pods.put(pod(state=RUNNING))
    stores.claims.put(
        {
            "kind": "PersistentVolumeClaim",
            "metadata": {
                "name": "data-demo-4",
                "namespace": "shop",
                "labels": {"mariadb.fsm.dev/cluster": "demo"},
            },
            "status": {"phase": "Bound"},
        }
    )
    record = Record(members=(Member(name="demo-1", ordinal=1),))
    snapshot = build_snapshot(NAMES, record, stores, Endings(), remembered(), now=5.0)
    assert [each.name for each in snapshot.instances] == ["demo-0", "demo-1", "demo-4"]
    assert snapshot.instances[2].volume is Volume.BOUND
    assert snapshot.instances[1].probe.reach is Reach.UNKNOWN


def test_an_end_is_seen_when_the_node_was_not_known_as_the_pod_s_event_came() -> None:
    stores, endings = caches(), Endings()
    manifest = pod(state=ENDED)
    endings.note(manifest, None)
    stores.pods.put(manifest)
    stores.nodes.put({"metadata": {"name": "node1"}, **READY})
    record = Record(members=(Member(name="demo-0", ordinal=0),))
    snapshot = build_snapshot(NAMES, record, stores, endings, remembered(), now=5.0)
    assert snapshot.instances[0].ended_pods == {"u1"}


def endpoint_slice(**edits: Any) -> dict[str, Any]:
    manifest: dict[str, Any] = {
        "metadata": {
            "name": "demo-primary-ipv4",
            "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "demo-primary"},
            "annotations": {"mariadb.fsm.dev/epoch": "3"},
        },
        "endpoints": [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": True}, "targetRef": {"name": "demo-0"}}
        ],
        "ports": [{"name": "mariadb", "port": 3306}],
    }
    return manifest | edits


SECOND = {"addresses": ["10.0.0.2"], "conditions": {"ready": True}, "targetRef": {"name": "demo-1"}}
USELESS: dict[str, dict[str, Any]] = {
    "emptied": {"endpoints": []},
    "null": {"endpoints": None},
    "another added": {"endpoints": [*endpoint_slice()["endpoints"], SECOND]},
    "another address added": {"endpoints": [{**SECOND, "addresses": ["10.0.0.1", "10.0.0.9"]}]},
    "not ready": {"endpoints": [{**SECOND, "conditions": {"ready": False}}]},
    "no port": {"ports": []},
    "another port": {"ports": [{"name": "mariadb", "port": 9999}]},
    "of another Service": {"metadata": {"name": "x", "labels": {"kubernetes.io/service-name": "other"}}},
    "label taken off": {"metadata": {"name": "x"}},
}


def test_the_primary_s_slice_is_read() -> None:
    fact = primary_endpoint(endpoint_slice(), service="demo-primary", port=3306)
    assert fact == EndpointFact(address="10.0.0.1", target="demo-0", epoch=3)


@pytest.mark.parametrize("name", USELESS)
def test_a_slice_that_somebody_made_useless_points_nowhere(name: str) -> None:
    fact = primary_endpoint(endpoint_slice(**USELESS[name]), service="demo-primary", port=3306)
    assert fact.address is None


@pytest.mark.parametrize(("address", "listed"), [("10.0.0.1", {"demo-0"}), ("10.0.0.7", {"demo-0 (stale)"})])
def test_a_replica_that_is_listed_under_an_old_address_is_not_listed(address: str, listed: set[str]) -> None:
    stores = caches()
    stores.pods.put(pod(state=RUNNING, status={"podIP": address}))
    manifest = endpoint_slice()
    manifest["metadata"] |= {
        "name": "demo-replicas-ipv4",
        "labels": {"kubernetes.io/service-name": "demo-replicas", "mariadb.fsm.dev/cluster": "demo"},
    }
    stores.slices.put(manifest)
    snapshot = build_snapshot(NAMES, Record(), stores, Endings(), remembered(), now=5.0)
    assert snapshot.replica_endpoints == listed
