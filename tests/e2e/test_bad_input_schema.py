"""What the API server refuses by itself, in words that name field, value and remedy.

Needs the definition and an API server only, no operator: objects are sent as a dry run, and those that a change is
tried on are suspended from the start. Sent straight to the API server, as strictly as kubectl does: a kubectl for each
would cost minutes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ROOT, Kubectl
from tests.harness.kube import ApiError, Kube, Object

KIND = "mariadbclusters"
OWNED_BY = "the operator owns this option, remove the line"


@pytest.fixture(scope="module", autouse=True)
def definition(kubectl: Kubectl) -> None:
    kubectl("apply", "--server-side", "--force-conflicts", "-k", str(ROOT / "crds"))
    kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/mariadbclusters.mariadb.fsm.dev")


def cluster(spec: Object, *, name: str = "bad-input") -> Object:
    full = {"version": "11.8", "storage": {"size": "1Gi"}, "suspend": True} | spec
    return {
        "apiVersion": "mariadb.fsm.dev/v1alpha1",
        "kind": "MariaDBCluster",
        "metadata": {"name": name},
        "spec": {key: value for key, value in full.items() if value is not ...},
    }


REFUSED: list[tuple[Object, tuple[str, ...]]] = [
    # wrong types and unknown fields
    ({"replicas": "three"}, ("spec.replicas", '"string"', "integer")),
    ({"version": 11.8}, ("spec.version", "number", "string")),
    ({"storage": []}, ("spec.storage", "array", "object")),
    ({"storage": ...}, ("spec.storage: Required value",)),
    ({"storage": {}}, ("spec.storage.size: Required value",)),
    ({"replica": 3}, ('unknown field "spec.replica"',)),
    (
        {"highAvailability": {"failover": {"wait": "1s"}}},
        ('unknown field "spec.highAvailability.failover.wait"',),
    ),
    # out of range
    ({"replicas": 0}, ("spec.replicas", "0", "greater than or equal to 1")),
    ({"replicas": 10}, ("spec.replicas", "10", "less than or equal to 9")),
    ({"port": 80}, ("spec.port", "80", "greater than or equal to 1024")),
    ({"port": 70000}, ("spec.port", "70000", "less than or equal to 65535")),
    ({"terminationGracePeriodSeconds": 5}, ("spec.terminationGracePeriodSeconds", "5", "30")),
    ({"imagePullPolicy": "Sometimes"}, ("spec.imagePullPolicy", '"Sometimes"', '"IfNotPresent"')),
    ({"volumeDeletionPolicy": "Recycle"}, ("spec.volumeDeletionPolicy", '"Recycle"', '"Retain", "Delete"')),
    ({"affinity": {"preset": "Pack"}}, ("spec.affinity.preset", '"Pack"', '"Spread"')),
    (
        {"primaryService": {"type": "ExternalName"}},
        ("spec.primaryService.type", "ExternalName", "LoadBalancer"),
    ),
    (
        {"highAvailability": {"durability": "Maximum"}},
        ("highAvailability.durability", "Maximum", "Guaranteed"),
    ),
    ({"highAvailability": {"degradeAfter": "soon"}}, ("highAvailability.degradeAfter", '"soon"')),
    ({"highAvailability": {"degradeAfter": "0s"}}, ("degradeAfter must be between 1s and 24h",)),
    ({"highAvailability": {"failover": {"maxWait": "25h"}}}, ("maxWait must be between 0s and 24h",)),
    ({"storage": {"size": "big"}}, ("spec.storage.size", '"big"')),
    ({"storage": {"size": 0}}, ("storage.size must be more than 0",)),
    ({"storage": {"size": "-1Gi"}}, ("spec.storage.size", '"-1Gi"')),
    ({"storage": {"size": "1Gi", "storageClassName": "Not A Name"}}, ("storageClassName", '"Not A Name"')),
    ({"resources": {"requests": {"memory": "lots"}}}, ("spec.resources.requests.memory", '"lots"')),
    ({"version": "latest"}, ("spec.version", '"latest"')),
    ({"image": "two words", "version": ...}, ("spec.image", '"two words"')),
    ({"myCnf": "x" * 20000}, ("spec.myCnf", "16384")),
    ({"tolerations": [{"operator": "Perhaps"}]}, ("spec.tolerations[0].operator", "Perhaps")),
    ({"imagePullSecrets": [{"name": "a"}, {"name": "a"}]}, ("spec.imagePullSecrets[1]", "Duplicate")),
    ({"podLabels": {f"l{each}": "v" for each in range(40)}}, ("spec.podLabels", "32")),
    # rules
    ({"image": "mariadb:11.8"}, ("either version", "not both")),
    ({"version": ...}, ("either version", "image")),
    ({"replicas": 2, "highAvailability": {"durability": "Guaranteed"}}, ("needs 3 or more", "replicas is 2")),
    (
        {"replicas": 3, "highAvailability": {"durability": "Guaranteed", "enabled": False}},
        ("Guaranteed needs highAvailability.enabled: true",),
    ),
    ({"username": "app"}, ("username and database come together",)),
    ({"database": "app"}, ("username and database come together",)),
    ({"passwordSecretKeyRef": {"name": "s"}}, ("passwordSecretKeyRef needs username",)),
    ({"database": "MySQL", "username": "app"}, ('database "MySQL" is a system database', "choose another")),
    ({"database": "app", "username": "root"}, ('username "root" is a system account', "choose another")),
    ({"database": "app", "username": "repl_0"}, ('username "repl_0" is a system account',)),
    ({"database": "app", "username": "mariadb_probe"}, ('username "mariadb_probe" is a system account',)),
    ({"database": "app", "username": "o'clock"}, ("spec.username", "o'clock")),
    ({"database": "a`b", "username": "app"}, ("spec.database", "a`b")),
    ({"podLabels": {"mariadb.fsm.dev/cluster": "x"}}, ("podLabels may not set mariadb.fsm.dev/",)),
    ({"podLabels": {"app.kubernetes.io/name": "x"}}, ("podLabels may not set", "app.kubernetes.io/")),
    ({"podAnnotations": {"mariadb.fsm.dev/spec-hash": "x"}}, ("podAnnotations may not set",)),
    ({"myCnf": "[mariadbd]\nport = 3307\n"}, ('myCnf may not set "port', OWNED_BY)),
    (
        {"myCnf": "[mariadbd]\n  loose_rpl_semi_sync_master_timeout=1\n"},
        ("rpl_semi_sync_master_timeout", OWNED_BY),
    ),
    ({"myCnf": "[mariadbd]\nskip-slave-start\n"}, ("skip-slave-start", OWNED_BY)),
    ({"myCnf": "[mariadbd]\r\nsync_binlog = 0\r\n"}, ("sync_binlog", OWNED_BY)),
    ({"myCnf": "!includedir /etc/mysql"}, ("!include", "operator")),
]


@pytest.mark.parametrize(("spec", "words"), REFUSED, ids=[str(spec)[:60] for spec, _ in REFUSED])
def test_bad_input_is_refused_with_field_value_and_remedy(
    kube: Kube, spec: Object, words: tuple[str, ...]
) -> None:
    with pytest.raises(ApiError) as refused:
        kube.create(KIND, cluster(spec), "default", dry_run=True)
    for word in words:
        assert word in refused.value.said


@pytest.mark.parametrize("name", ["a" * 41, "1db", "my.db"])
def test_a_name_that_its_objects_could_not_bear_is_refused(kube: Kube, name: str) -> None:
    with pytest.raises(ApiError, match="at most 40 characters"):
        kube.create(KIND, cluster({}, name=name), "default", dry_run=True)


CHANGES: list[tuple[Object, Object, tuple[str, ...]]] = [
    ({}, {"port": 3307}, ("spec.port", "port is 3306 and can not be changed")),
    ({}, {"storage": {"size": "512Mi"}}, ("spec.storage.size", "is 1Gi", "512Mi is less")),
    ({}, {"storage": {"size": "1Gi", "storageClassName": "fast"}}, ("storageClassName can't be changed",)),
    (
        {"storage": {"size": "1Gi", "storageClassName": "slow"}},
        {"storage": {"size": "1Gi", "storageClassName": "fast"}},
        ("storageClassName can't be changed",),
    ),
    (
        {"storage": {"size": "1Gi", "storageClassName": "slow"}},
        {"storage": {"size": "1Gi"}},
        ("storageClassName can't be changed",),
    ),
    (
        {"database": "app", "username": "app"},
        {"database": "other", "username": "app"},
        ("database is app and can not be changed",),
    ),
    (
        {"database": "app", "username": "app"},
        {"database": "app", "username": "other"},
        ("username is app and can not be changed",),
    ),
    ({"database": "app", "username": "app"}, {}, ("database is app and can not be changed",)),
    ({}, {"tls": {"caSecretName": "own"}}, ("tls.caSecretName can't be changed",)),
    ({"tls": {"caSecretName": "own"}}, {}, ("tls.caSecretName can't be changed",)),
    (
        {"replicas": 3, "highAvailability": {"durability": "Guaranteed"}},
        {"replicas": 1, "highAvailability": {"durability": "Guaranteed"}},
        ("Guaranteed needs 3", "replicas is 1"),
    ),
]


@pytest.mark.parametrize(
    ("before", "after", "words"), CHANGES, ids=[str(after)[:60] for _, after, _ in CHANGES]
)
def test_what_can_not_change_is_refused_and_stays(
    kube: Kube, namespace: str, before: Object, after: Object, words: tuple[str, ...]
) -> None:
    stored = kube.create(KIND, cluster(before), namespace)
    with pytest.raises(ApiError) as refused:
        replace_spec(kube, namespace, after)
    for word in words:
        assert word in refused.value.said
    found = kube.get(KIND, "bad-input", namespace)
    assert found is not None
    assert found["spec"] == stored["spec"]


ALLOWED: list[tuple[Object, Object]] = [
    ({}, {"storage": {"size": "2G"}}),
    ({"storage": {"size": 1024}}, {"storage": {"size": "1Ki"}}),
    ({}, {"replicas": 5}),
    ({}, {"database": "app", "username": "app"}),
    ({}, {"version": ..., "image": "mariadb:11.8"}),
    ({"replicas": 3}, {"replicas": 3, "highAvailability": {"durability": "Guaranteed"}}),
    ({}, {"myCnf": "[mariadbd]\n# port = 1\nmax-connections = 10\ninnodb_flush_log_at_timeout = 2\n"}),
    ({}, {"highAvailability": {"degradeAfter": "24h", "failover": {"maxWait": "0s"}}}),
]


@pytest.mark.parametrize(("before", "after"), ALLOWED, ids=[str(after)[:60] for _, after in ALLOWED])
def test_what_may_change_is_taken(kube: Kube, namespace: str, before: Object, after: Object) -> None:
    kube.create(KIND, cluster(before), namespace)
    replace_spec(kube, namespace, after)


def replace_spec(kube: Kube, namespace: str, spec: Object) -> None:
    """As `kubectl replace`, but the server itself tries again when the operator wrote in between."""
    kube.replace(KIND, "bad-input", "spec", cluster(spec)["spec"], namespace)


def test_a_hand_written_status_keeps_to_the_schema(kube: Kube, namespace: str) -> None:
    kube.create(KIND, cluster({}), namespace)

    def write(**status: Any) -> None:
        kube.merge(KIND, "bad-input", {"status": status}, namespace, subresource="status")

    with pytest.raises(ApiError, match=r"status\.epoch"):
        write(epoch="many")
    write(state="Bewitched")


def test_the_longest_name_is_taken(kube: Kube) -> None:
    kube.create(KIND, cluster({}, name="a" * 40), "default", dry_run=True)


@pytest.mark.parametrize(
    "sample", sorted((ROOT / "deploy/samples").glob("*.yaml")), ids=lambda path: path.name
)
def test_every_sample_is_taken(kubectl: Kubectl, namespace: str, sample: Path) -> None:
    kubectl("create", "-n", namespace, "--dry-run=server", "--validate=strict", "-f", str(sample))


def test_the_scale_subresource_changes_replicas(kube: Kube, kubectl: Kubectl, namespace: str) -> None:
    kube.create(KIND, cluster({}), namespace)
    kubectl("scale", "mdc/bad-input", "-n", namespace, "--replicas=3")
    assert kubectl("get", "mdc", "bad-input", "-n", namespace, "-o", "json").json["spec"]["replicas"] == 3
    assert kubectl("scale", "mdc/bad-input", "-n", namespace, "--replicas=10", check=False).code != 0


def test_the_columns_are_the_ones_people_look_for(kube: Kube, kubectl: Kubectl, namespace: str) -> None:
    kube.create(KIND, cluster({}), namespace)
    heading = kubectl("get", "mdc", "-n", namespace).output.splitlines()[0]
    assert heading.replace("LAST FAILOVER", "LAST_FAILOVER").split() == [
        "NAME",
        "STATE",
        "READY",
        "PRIMARY",
        "LAG",
        "LAST_FAILOVER",
        "AGE",
    ]
