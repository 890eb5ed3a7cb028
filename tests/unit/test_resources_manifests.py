"""The manifests of a cluster: names, owners, the Pod's security, what a new operator may not change."""

from __future__ import annotations

import base64
import itertools
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mariadb_operator.api.cluster import read_spec
from mariadb_operator.api.spec import MariaDBClusterSpec
from mariadb_operator.resources import (
    budget,
    configmap,
    endpoints,
    keys,
    pods,
    secrets,
    services,
    template,
    volumes,
)
from mariadb_operator.resources.endpoints import Target
from mariadb_operator.resources.labels import Manifest, Owner, belongs_to, pod_selector, selector_text
from mariadb_operator.resources.names import Names, server_id

OWNER = Owner(name="db", namespace="shop", uid="0b5c")
DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")

cluster_names = st.from_regex(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)


def spec(**fields: Any) -> MariaDBClusterSpec:
    return read_spec({"spec": {"version": "11.8", "storage": {"size": "1Gi"}, **fields}})


def a_pod(asked: MariaDBClusterSpec, **changes: Any) -> Manifest:
    arguments: dict[str, Any] = {
        "ordinal": 1,
        "image": "mariadb:11.8",
        "config_map": "db-config-0",
        "template_hash": "h",
    } | changes
    return pods.pod(OWNER, asked, **arguments)


def everything(asked: MariaDBClusterSpec) -> list[Manifest]:
    passwords = (f"password-{number}" for number in itertools.count())
    target = Target(instance="db-0", pod_uid="u", address="10.0.0.1", node="n")
    app = secrets.app_secret(OWNER, asked, password="p", ca_certificate="PEM")
    return [
        a_pod(asked),
        volumes.volume_claim(OWNER, asked, ordinal=1),
        services.primary_service(OWNER, asked),
        services.replicas_service(OWNER, asked),
        services.instances_service(OWNER, asked),
        endpoints.primary_endpoints(OWNER, port=3306, epoch=1, target=target, resource_version=None),
        endpoints.replicas_endpoints(OWNER, port=3306, epoch=1, targets=[target], resource_version=None),
        budget.disruption_budget(OWNER),
        configmap.config_map(OWNER, my_cnf="[mariadbd]\n", supervisor="#!/bin/sh\n"),
        secrets.credentials_secret(OWNER, asked, current=None, new_password=lambda: next(passwords)),
        *([] if app is None else [app]),
    ]


def kinds_without_owner(asked: MariaDBClusterSpec) -> set[str]:
    return {each["kind"] for each in everything(asked) if "ownerReferences" not in each["metadata"]}


@given(cluster_names, st.integers(0, 8))
def test_every_name_is_a_dns_label_and_an_instance_is_known_by_it(cluster: str, ordinal: int) -> None:
    names = Names(cluster, "shop")
    assert names.ordinal(names.instance(ordinal)) == ordinal
    for name in (
        names.instance(ordinal),
        names.volume_claim(ordinal),
        names.primary_endpoints,
        names.replicas_endpoints,
        names.instances_service,
        names.credentials_secret,
        names.ca_secret,
        names.tls_secret,
        names.app_secret,
        names.budget,
        names.config_map("0123abcd"),
    ):
        assert DNS_LABEL.fullmatch(name)


@pytest.mark.parametrize("stranger", ["db", "db-", "db-x", "other-1", "db-01", "db-1-2", "db-٣", "", "-1"])
def test_a_stranger_is_no_instance(stranger: str) -> None:
    assert Names("db", "shop").ordinal(stranger) is None


def test_a_server_id_is_never_zero_since_such_a_server_refuses_replicas() -> None:
    assert [server_id(ordinal) for ordinal in range(9)] == list(range(1, 10))


def test_everything_is_found_by_its_labels_and_names_its_cluster() -> None:
    for manifest in everything(spec(database="app", username="app")):
        metadata = manifest["metadata"]
        assert metadata["labels"].items() >= pod_selector("db").items()
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "mariadb-operator"
        assert metadata["annotations"]["mariadb.fsm.dev/cluster-uid"] == "0b5c"
        assert metadata["namespace"] == "shop"
    assert selector_text("db") == "app.kubernetes.io/name=mariadb,mariadb.fsm.dev/cluster=db"


def test_only_what_the_operator_made_is_taken_for_its_own() -> None:
    assert all(belongs_to(manifest, "db") for manifest in everything(spec()))
    assert not any(belongs_to(manifest, "other") for manifest in everything(spec()))
    assert not belongs_to(
        {"metadata": {"name": "db-primary", "labels": {"mariadb.fsm.dev/cluster": "db"}}}, "db"
    )
    assert not belongs_to({"metadata": {"name": "db-primary"}}, "db")


def test_what_is_retained_has_no_owner_and_the_rest_goes_with_the_resource() -> None:
    assert kinds_without_owner(spec()) == {"PersistentVolumeClaim", "Secret"}
    assert kinds_without_owner(spec(volumeDeletionPolicy="Delete")) == set()
    assert a_pod(spec())["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "mariadb.fsm.dev/v1alpha1",
            "kind": "MariaDBCluster",
            "name": "db",
            "uid": "0b5c",
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]


def test_a_person_can_not_overwrite_the_labels_that_the_operator_selects_by() -> None:
    asked = spec(
        podLabels={"mariadb.fsm.dev/cluster": "x", "team": "a"},
        podAnnotations={"mariadb.fsm.dev/spec-hash": "x"},
    )
    metadata = a_pod(asked)["metadata"]
    assert metadata["labels"]["mariadb.fsm.dev/cluster"] == "db"
    assert metadata["labels"]["team"] == "a"
    assert metadata["annotations"]["mariadb.fsm.dev/spec-hash"] == "h"


def test_the_pod_meets_the_restricted_standard() -> None:
    pod_spec = a_pod(spec())["spec"]
    (container,) = pod_spec["containers"]
    assert pod_spec["securityContext"]["runAsNonRoot"] is True
    assert pod_spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert pod_spec["automountServiceAccountToken"] is False
    assert "initContainers" not in pod_spec


def test_secrets_reach_the_container_as_files_only_and_only_those_it_needs() -> None:
    pod_spec = a_pod(spec(rootPasswordSecretKeyRef={"name": "mine", "key": "pw"}))["spec"]
    assert [each["name"] for each in pod_spec["containers"][0]["env"] if "valueFrom" in each] == [
        "POD_UID",
        "POD_IP",
    ]
    (projected,) = (each["projected"] for each in pod_spec["volumes"] if each["name"] == "secrets")
    items = {
        item["path"]: (source["secret"]["name"], item["key"])
        for source in projected["sources"]
        for item in source["secret"]["items"]
    }
    assert items == {
        "operator-password": ("db-credentials", "operator-password"),
        "probe-password": ("db-credentials", "probe-password"),
        "root-password": ("mine", "pw"),
    }


def test_a_lost_node_evicts_nothing() -> None:
    own = {"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}
    tolerations = a_pod(spec(tolerations=[own]))["spec"]["tolerations"]
    assert own in tolerations
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        assert {"key": key, "operator": "Exists", "effect": "NoExecute"} in tolerations


def test_instances_spread_softly_unless_asked_not_to() -> None:
    spread = a_pod(spec())["spec"]
    assert {each["whenUnsatisfiable"] for each in spread["topologySpreadConstraints"]} == {"ScheduleAnyway"}
    assert "requiredDuringSchedulingIgnoredDuringExecution" not in spread["affinity"]["podAntiAffinity"]
    free = a_pod(spec(affinity={"preset": "None"}))["spec"]
    assert not {"affinity", "topologySpreadConstraints"} & free.keys()


def test_the_supervisor_gives_up_before_the_kubelet_kills() -> None:
    pod_spec = a_pod(spec(terminationGracePeriodSeconds=30))["spec"]
    (bound,) = (
        int(each["value"])
        for each in pod_spec["containers"][0]["env"]
        if each["name"] == "MARIADB_SHUTDOWN_SECONDS"
    )
    assert 0 < bound < pod_spec["terminationGracePeriodSeconds"] == 30


def test_what_the_spec_asks_of_pods_arrives_there() -> None:
    asked = spec(
        image="registry.example/mariadb:1",
        version=None,
        imagePullPolicy="Always",
        imagePullSecrets=[{"name": "pull"}],
        port=4000,
        resources={"requests": {"cpu": 1, "memory": "1Gi"}},
        nodeSelector={"disk": "fast"},
        priorityClassName="high",
    )
    pod_spec = a_pod(asked, image=template.resolved_image(asked, template="x:{version}"))["spec"]
    (container,) = pod_spec["containers"]
    assert container["image"] == "registry.example/mariadb:1"
    assert container["imagePullPolicy"] == "Always"
    assert container["ports"][0]["containerPort"] == 4000
    assert container["resources"] == {"requests": {"cpu": "1", "memory": "1Gi"}}
    assert pod_spec["imagePullSecrets"] == [{"name": "pull"}]
    assert pod_spec["nodeSelector"] == {"disk": "fast"}
    assert pod_spec["priorityClassName"] == "high"


def test_a_sidecar_runs_restricted_beside_its_server_and_holds_no_key_of_the_operator() -> None:
    pod_spec = a_pod(spec(), sidecar="operator:1")["spec"]
    [sidecar], [server] = pod_spec["initContainers"], pod_spec["containers"]
    assert (sidecar["image"], sidecar["restartPolicy"]) == ("operator:1", "Always")
    assert sidecar["securityContext"] == server["securityContext"]
    assert pod_spec["shareProcessNamespace"]
    assert pod_spec["securityContext"]["runAsNonRoot"]
    [keys] = [each["secret"] for each in pod_spec["volumes"] if each["name"] == "ssh"]
    assert [item["key"] for item in keys["items"]] == ["host-key", "authorized-keys"]
    assert {"name": "GATE_DIR", "value": "/run/mariadb-gate"} in server["env"]
    shared = {each["name"] for each in sidecar["volumeMounts"]} & {
        each["name"] for each in server["volumeMounts"]
    }
    assert shared == {"data", "run", "gate", "secrets"}


def test_without_an_image_for_it_there_is_no_sidecar_and_no_gate() -> None:
    pod_spec = a_pod(spec())["spec"]
    assert not {"initContainers", "shareProcessNamespace"} & set(pod_spec)
    assert not [each for each in pod_spec["containers"][0]["env"] if each["name"] == "GATE_DIR"]


def test_keys_that_are_whole_are_kept_and_anything_less_is_made_anew() -> None:
    secret = keys.ssh_secret(OWNER, current=None)
    assert keys.ssh_secret(OWNER, current=secret)["data"] == secret["data"]
    broken = {**secret, "data": {key: value for key, value in secret["data"].items() if key != "client-key"}}
    assert keys.ssh_secret(OWNER, current=broken)["data"] != secret["data"]
    found = keys.read_keys(secret)
    assert found is not None
    assert found.client_key.startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    assert all(each.startswith("ssh-ed25519 ") for each in found.host_keys)
    assert "PRIVATE" not in repr(found)
    assert keys.read_keys(broken) is None


def test_the_version_becomes_an_image_by_the_setting() -> None:
    assert template.resolved_image(spec(), template="mirror/mariadb:{version}-x") == "mirror/mariadb:11.8-x"


TEMPLATE_CHANGES: list[dict[str, Any]] = [
    {"version": "11.4"},
    {"imagePullPolicy": "Always"},
    {"port": 4000},
    {"resources": {"limits": {"memory": "2Gi"}}},
    {"affinity": {"preset": "None"}},
    {"tolerations": [{"operator": "Exists"}]},
    {"nodeSelector": {"disk": "fast"}},
    {"priorityClassName": "high"},
    {"podLabels": {"a": "b"}},
    {"podAnnotations": {"a": "b"}},
    {"terminationGracePeriodSeconds": 60},
    {"rootPasswordSecretKeyRef": {"name": "mine"}},
]


@pytest.mark.parametrize("change", TEMPLATE_CHANGES, ids=str)
def test_a_change_of_what_pods_should_be_changes_the_hash(change: dict[str, Any]) -> None:
    before = template.template_hash(spec(), user_my_cnf="")
    assert template.template_hash(spec(**change), user_my_cnf="") != before


def test_a_change_of_the_persons_my_cnf_changes_the_hash() -> None:
    assert template.template_hash(spec(), user_my_cnf="[mariadbd]\n") != template.template_hash(
        spec(), user_my_cnf=""
    )


@pytest.mark.parametrize(
    "change",
    [
        {"replicas": 5},
        {"storage": {"size": "9Gi"}},
        {"suspend": True},
        {"volumeDeletionPolicy": "Delete"},
        {"highAvailability": {"durability": "Guaranteed"}},
        {"primaryService": {"type": "NodePort"}},
        {"database": "a", "username": "a"},
        {"aFieldOfTheFuture": 1},
    ],
    ids=str,
)
def test_what_is_no_part_of_a_pod_recreates_none(change: dict[str, Any]) -> None:
    before = template.template_hash(spec(), user_my_cnf="")
    assert template.template_hash(spec(**change), user_my_cnf="") == before


def test_a_new_operator_alone_recreates_no_pod() -> None:
    # The value itself is the promise: a version that changes it recreates every Pod of every cluster.
    asked = spec(resources={"limits": {"memory": "2Gi"}}, podLabels={"a": "b"})
    assert template.template_hash(asked, user_my_cnf="[mariadbd]\nmax-connections=9\n") == "8d99d0036438922b"


def test_a_claim_never_asks_for_less_than_it_has() -> None:
    def size(asked: str, current: str | None) -> str:
        held = {"spec": {"resources": {"requests": {"storage": current}}}} if current else None
        claim = volumes.volume_claim(OWNER, spec(storage={"size": asked}), ordinal=0, current=held)
        result: str = claim["spec"]["resources"]["requests"]["storage"]
        return result

    assert size("1Gi", None) == "1Gi"
    assert size("2Gi", "1Gi") == "2Gi"
    assert size("1Gi", "1.5Gi") == "1.5Gi"


def test_a_claim_names_a_storage_class_only_when_asked() -> None:
    assert "storageClassName" not in volumes.volume_claim(OWNER, spec(), ordinal=0)["spec"]
    asked = spec(storage={"size": "1Gi", "storageClassName": "fast"})
    assert volumes.volume_claim(OWNER, asked, ordinal=0)["spec"]["storageClassName"] == "fast"


def test_only_the_headless_service_selects_so_that_nobody_else_writes_endpoints() -> None:
    asked = spec(primaryService={"type": "LoadBalancer", "annotations": {"cloud/kind": "internal"}})
    primary = services.primary_service(OWNER, asked)
    assert "selector" not in primary["spec"]
    assert "selector" not in services.replicas_service(OWNER, asked)["spec"]
    assert primary["spec"]["type"] == "LoadBalancer"
    assert primary["metadata"]["annotations"]["cloud/kind"] == "internal"
    headless = services.instances_service(OWNER, asked)["spec"]
    assert headless["clusterIP"] == "None"
    assert headless["publishNotReadyAddresses"] is True
    assert headless["selector"].items() <= a_pod(asked)["metadata"]["labels"].items()


def test_the_primarys_slice_is_whole_and_says_for_which_epoch() -> None:
    target = Target(instance="db-2", pod_uid="u2", address="10.244.1.7", node="node2", zone="b")
    written = endpoints.primary_endpoints(OWNER, port=4000, epoch=7, target=target, resource_version="42")
    assert written["metadata"]["resourceVersion"] == "42"
    assert written["metadata"]["labels"]["kubernetes.io/service-name"] == "db-primary"
    assert written["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] == "mariadb.fsm.dev"
    assert endpoints.epoch_of(written) == 7
    assert written["addressType"] == "IPv4"
    assert written["ports"] == [{"name": "mariadb", "port": 4000, "protocol": "TCP"}]
    assert written["endpoints"] == [
        {
            "addresses": ["10.244.1.7"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": "node2",
            "zone": "b",
            "targetRef": {"kind": "Pod", "name": "db-2", "namespace": "shop", "uid": "u2"},
        }
    ]
    service = services.primary_service(OWNER, spec(port=4000))
    assert service["spec"]["ports"][0]["name"] == written["ports"][0]["name"]


def test_the_order_of_replicas_changes_no_slice() -> None:
    targets = [Target(instance=f"db-{n}", pod_uid="u", address=f"10.0.0.{n}", node="n") for n in range(1, 4)]
    one, other = (
        endpoints.replicas_endpoints(OWNER, port=3306, epoch=1, targets=order, resource_version=None)
        for order in (targets, reversed(targets))
    )
    assert one == other


@pytest.mark.parametrize("text", ["", "soon", "-1", "1" * 30, "٣"])
def test_an_epoch_that_a_person_wrote_is_read_as_none(text: str) -> None:
    annotated = {"metadata": {"annotations": {"mariadb.fsm.dev/epoch": text}}}
    assert endpoints.epoch_of(annotated) == 0


def test_the_budget_counts_the_pods_of_the_cluster() -> None:
    wanted = budget.disruption_budget(OWNER)["spec"]
    assert wanted["maxUnavailable"] == 1
    assert wanted["selector"]["matchLabels"].items() <= a_pod(spec())["metadata"]["labels"].items()


def test_the_config_map_is_immutable_and_named_by_its_content() -> None:
    one = configmap.config_map(OWNER, my_cnf="a", supervisor="b")
    same = configmap.config_map(OWNER, my_cnf="a", supervisor="b")
    other = configmap.config_map(OWNER, my_cnf="ab", supervisor="")
    assert one == same
    assert one["immutable"] is True
    assert re.fullmatch(r"db-config-[0-9a-f]{8}", one["metadata"]["name"])
    assert one["metadata"]["name"] != other["metadata"]["name"]


def test_the_supervisor_comes_with_the_operator() -> None:
    assert configmap.supervisor_script().startswith("#!/bin/sh\n")


def test_the_inline_my_cnf_is_read_after_the_config_maps() -> None:
    asked = spec(myCnf="[mariadbd]\na=2\n", myCnfConfigMapKeyRef={"name": "mine"})
    referred = {"data": {"my.cnf": "[mariadbd]\na=1\n"}}
    assert configmap.user_configuration(asked, referred=referred) == "[mariadbd]\na=1\n\n[mariadbd]\na=2\n"
    assert configmap.user_configuration(spec(), referred=None) == ""


@pytest.mark.parametrize("referred", [None, {}, {"data": None}, {"data": {"other": "x"}}])
def test_a_missing_key_of_the_config_map_is_named(referred: dict[str, Any] | None) -> None:
    asked = spec(myCnfConfigMapKeyRef={"name": "mine"})
    with pytest.raises(configmap.ConfigMapKeyMissing, match=r"ConfigMap mine has no key my\.cnf: add it"):
        configmap.user_configuration(asked, referred=referred)


def test_passwords_are_made_once_and_kept() -> None:
    fresh = (f"password-{number}" for number in itertools.count())
    asked = spec(database="app", username="app")
    first = secrets.credentials_secret(OWNER, asked, current=None, new_password=lambda: next(fresh))
    assert set(first["data"]) == {
        "operator-password",
        "probe-password",
        "root-password",
        "app-password",
        *(f"replication-{ordinal}" for ordinal in range(9)),
    }
    assert len(set(first["data"].values())) == len(first["data"])
    lost = {**first, "data": {key: value for key, value in first["data"].items() if key != "replication-3"}}
    again = secrets.credentials_secret(OWNER, asked, current=lost, new_password=lambda: "new")
    assert secrets.secret_text(again, "replication-3") == "new"
    assert {**again["data"], "replication-3": ""} == {**first["data"], "replication-3": ""}


def test_given_passwords_are_not_generated() -> None:
    asked = spec(
        database="app",
        username="app",
        passwordSecretKeyRef={"name": "mine"},
        rootPasswordSecretKeyRef={"name": "mine"},
    )
    made = secrets.credentials_secret(OWNER, asked, current=None, new_password=lambda: "new")
    assert not {"app-password", "root-password"} & made["data"].keys()


def test_an_application_finds_all_it_needs_in_one_secret() -> None:
    asked = spec(database="shop", username="app", port=4000)
    made = secrets.app_secret(OWNER, asked, password="p@ss/word", ca_certificate="PEM")
    assert made is not None
    values = {key: base64.b64decode(value).decode() for key, value in made["data"].items()}
    assert values == {
        "host": "db-primary.shop.svc",
        "port": "4000",
        "database": "shop",
        "user": "app",
        "username": "app",
        "password": "p@ss/word",
        "uri": "mysql://app:p%40ss%2Fword@db-primary.shop.svc:4000/shop",
        "ca.crt": "PEM",
    }
    assert secrets.app_secret(OWNER, spec(), password="p", ca_certificate="PEM") is None


def test_random_passwords_differ_and_need_no_quoting() -> None:
    made = {secrets.random_password() for _ in range(20)}
    assert len(made) == 20
    assert all(re.fullmatch(r"[-_A-Za-z0-9]{32}", each) for each in made)


def holding(value: str | None) -> dict[str, Any]:
    return {"metadata": {"name": "mine"}, "data": None if value is None else {"password": value}}


@pytest.mark.parametrize("stored", [None, "", "***", base64.b64encode(b"\xff\xfe").decode()])
def test_a_secret_without_the_text_is_named_and_its_value_is_not(stored: str | None) -> None:
    with pytest.raises(secrets.SecretKeyMissing, match=r"Secret mine .* key password") as problem:
        secrets.password_in(holding(stored), "password")
    assert not stored or stored not in str(problem.value)


def test_a_password_is_the_first_line_as_the_supervisor_reads_it() -> None:
    assert secrets.password_in(holding(secrets.encoded("geheim\n")), "password") == "geheim"
    assert secrets.password_in(holding(secrets.encoded("geheim\r\n")), "password") == "geheim"
    with pytest.raises(secrets.SecretKeyMissing, match="empty first line"):
        secrets.password_in(holding(secrets.encoded("\ngeheim")), "password")
