"""Objects of a cluster: only ours are touched, secrets come back as they were, mistakes name field, value and remedy."""

from __future__ import annotations

import base64
import copy
from typing import Any

import pytest

from mariadb_operator.act.kubernetes import KubernetesEffects, NotReady
from mariadb_operator.act.objects import Environment, ObjectCaches, ObjectKeeper, Objects
from mariadb_operator.act.ours import InputProblem
from mariadb_operator.api.cluster import read_spec
from mariadb_operator.kube.errors import Rejected
from mariadb_operator.kube.kinds import (
    CONFIG_MAP,
    ENDPOINT_SLICE,
    MARIADB_CLUSTER,
    NODE,
    POD,
    POD_DISRUPTION_BUDGET,
    PVC,
    SECRET,
    SERVICE,
    STORAGE_CLASS,
    Kind,
    Manifest,
)
from mariadb_operator.kube.store import Store
from mariadb_operator.resources.labels import Owner
from mariadb_operator.resources.secrets import encoded
from statemachines import effects as e
from tests.unit.fake_objects import FakeObjects
from tests.unit.memory_client import MemoryClient
from tests.unit.virtual_time import VirtualClock, virtual_time

NAMESPACE = "shop"
KINDS = (POD, PVC, NODE, ENDPOINT_SLICE, SERVICE, CONFIG_MAP, SECRET, POD_DISRUPTION_BUDGET)


class Bench:
    """A keeper, the effects on objects, and the API they work on."""

    def __init__(self, **spec: Any) -> None:
        self.objects = FakeObjects()
        self.client = MemoryClient(self.objects)
        self.stores = {kind: Store(kind) for kind in KINDS}
        self.manifest = {
            "metadata": {"name": "demo", "namespace": NAMESPACE},
            "spec": {"version": "11.8", "replicas": 3, "storage": {"size": "1Gi"}, **spec},
        }
        self.resource = self.objects.create(MARIADB_CLUSTER, self.manifest)
        self.spec = read_spec(self.resource)
        self.owner = Owner(name="demo", namespace=NAMESPACE, uid=self.resource["metadata"]["uid"])
        self.standard_class()
        self.clock = VirtualClock()
        self.keeper = ObjectKeeper(
            self.client.as_client(),
            self.owner,
            environment=Environment(
                image_template="mariadb:{version}", cluster_domain="cluster.local", now=self.clock.wall
            ),
            caches=ObjectCaches(
                pods=self.stores[POD],
                claims=self.stores[PVC],
                services=self.stores[SERVICE],
                config_maps=self.stores[CONFIG_MAP],
                secrets=self.stores[SECRET],
                budgets=self.stores[POD_DISRUPTION_BUDGET],
            ),
        )
        self.effects = KubernetesEffects(
            self.client.as_client(),
            self.owner,
            pods=self.stores[POD],
            claims=self.stores[PVC],
            slices=self.stores[ENDPOINT_SLICE],
            nodes=self.stores[NODE],
        )

    def standard_class(self, *, default: bool = True) -> None:
        annotations = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
        self.objects.create(STORAGE_CLASS, {"metadata": {"name": "standard", "annotations": annotations}})

    def stranger(self, kind: Kind, name: str, **more: Any) -> Manifest:
        """An object of that name that somebody else made."""
        return copy.deepcopy(
            self.objects.create(kind, {"metadata": {"name": name, "namespace": NAMESPACE}, **more})
        )

    def edit(self, **spec: Any) -> None:
        self.manifest["spec"] = {**self.manifest["spec"], **spec}
        self.spec = read_spec(self.manifest)

    def fill_caches(self) -> None:
        for kind, store in self.stores.items():
            labelled = [
                copy.deepcopy(each)
                for each in self.objects.of(kind).objects.values()
                if "mariadb.fsm.dev/cluster" in (each["metadata"].get("labels") or {})
            ]
            store.replace(labelled)

    async def ensure(self, known: Objects | None = None, *, served: bool = False) -> Objects:
        made = await self.keeper.ensure(self.spec, known=known, image="", served=served)
        self.fill_caches()
        return made

    async def problem(self, known: Objects | None = None) -> InputProblem:
        with pytest.raises(InputProblem) as caught:
            await self.ensure(known)
        return caught.value

    def names(self, kind: Kind) -> set[str]:
        return {name for _, name in self.objects.of(kind).objects}

    def get(self, kind: Kind, name: str) -> Manifest:
        return self.objects.get(kind, NAMESPACE, name)


def text(secret: Manifest, key: str) -> str:
    return base64.b64decode(secret["data"][key]).decode()


@virtual_time
async def test_everything_a_cluster_stands_on_is_made() -> None:
    bench = Bench(database="app", username="app")
    made = await bench.ensure()
    assert bench.names(SERVICE) == {"demo-primary", "demo-replicas", "demo-instances"}
    assert bench.names(SECRET) == {"demo-credentials", "demo-ca", "demo-tls", "demo-app"}
    assert bench.names(POD_DISRUPTION_BUDGET) == {"demo"}
    assert bench.names(CONFIG_MAP) == {made.config_map}
    assert made.notices == ()


@virtual_time
async def test_a_second_look_changes_nothing() -> None:
    bench = Bench(database="app", username="app")
    made = await bench.ensure()
    version = bench.objects.version
    await bench.ensure(made)
    assert bench.objects.version == version


STRANGERS = [
    (SERVICE, "demo-primary"),
    (SERVICE, "demo-replicas"),
    (SERVICE, "demo-instances"),
    (SECRET, "demo-credentials"),
    (SECRET, "demo-ca"),
    (SECRET, "demo-tls"),
    (SECRET, "demo-app"),
    (POD_DISRUPTION_BUDGET, "demo"),
]


@pytest.mark.parametrize(("kind", "name"), STRANGERS, ids=lambda value: getattr(value, "kind", value))
@virtual_time
async def test_an_object_that_somebody_else_made_is_refused_and_not_touched(kind: Kind, name: str) -> None:
    bench = Bench(database="app", username="app")
    before = bench.stranger(kind, name, data={"theirs": "eA=="}, spec={"theirs": True})
    problem = await bench.problem()
    assert problem.reason == "ObjectNotOurs"
    assert f"{kind.kind} {name}" in str(problem)
    assert "metadata.name" in str(problem)
    assert bench.get(kind, name) == before


@virtual_time
async def test_a_stranger_s_config_map_of_our_name_is_refused() -> None:
    bench = Bench()
    name = (await bench.ensure()).config_map
    bench.objects.delete(CONFIG_MAP, NAMESPACE, name)
    bench.stranger(CONFIG_MAP, name, data={"my.cnf": "[mariadbd]"})
    bench.fill_caches()
    assert (await bench.problem()).reason == "ObjectNotOurs"


@pytest.mark.parametrize("kind", [PVC, POD], ids=lambda kind: kind.kind)
@virtual_time
async def test_an_instance_is_not_made_over_somebody_else_s_claim_or_pod(kind: Kind) -> None:
    bench = Bench()
    made = await bench.ensure()
    name = "data-demo-0" if kind is PVC else "demo-0"
    before = bench.stranger(kind, name, spec={"theirs": True})
    with pytest.raises(InputProblem, match="not made by this operator") as caught:
        await bench.effects.ensure_instance(e.EnsureInstance("demo-0", 0), bench.spec, made)
    assert caught.value.reason == "ObjectNotOurs"
    assert bench.get(kind, name) == before


@virtual_time
async def test_a_slice_of_somebody_else_s_is_not_overwritten() -> None:
    bench = Bench()
    made = await bench.ensure()
    await bench.effects.ensure_instance(e.EnsureInstance("demo-0", 0), bench.spec, made)
    bench.objects.merge(POD, NAMESPACE, "demo-0", {"status": {"podIP": "10.0.0.1"}}, status=True)
    bench.fill_caches()
    before = bench.stranger(ENDPOINT_SLICE, "demo-primary-ipv4", endpoints=[])
    with pytest.raises(InputProblem):
        await bench.effects.switch_primary(e.SwitchPrimary("demo-0", "10.0.0.1", 1), port=3306)
    assert bench.get(ENDPOINT_SLICE, "demo-primary-ipv4") == before


@virtual_time
async def test_a_pod_of_ours_that_lost_its_labels_gets_them_back() -> None:
    bench = Bench()
    made = await bench.ensure()
    effect = e.EnsureInstance("demo-0", 0)
    await bench.effects.ensure_instance(effect, bench.spec, made)
    labels = dict(bench.get(POD, "demo-0")["metadata"]["labels"])
    bench.objects.merge(POD, NAMESPACE, "demo-0", {"metadata": {"labels": dict.fromkeys(labels)}})
    bench.fill_caches()
    await bench.effects.ensure_instance(effect, bench.spec, made)
    assert bench.get(POD, "demo-0")["metadata"]["labels"].items() >= labels.items()
    assert bench.stores[POD].get(NAMESPACE, "demo-0") is not None


@virtual_time
async def test_no_pod_is_made_on_a_claim_that_is_being_deleted() -> None:
    bench = Bench()
    made = await bench.ensure()
    effect = e.EnsureInstance("demo-0", 0)
    await bench.effects.ensure_instance(effect, bench.spec, made)
    bench.objects.delete(POD, NAMESPACE, "demo-0")
    bench.objects.merge(
        PVC, NAMESPACE, "data-demo-0", {"metadata": {"finalizers": ["kubernetes.io/pvc-protection"]}}
    )
    bench.objects.delete(PVC, NAMESPACE, "data-demo-0")
    bench.fill_caches()
    with pytest.raises(NotReady):
        await bench.effects.ensure_instance(effect, bench.spec, made)
    assert "demo-0" not in bench.names(POD)


@pytest.mark.parametrize(
    "deleted", [("demo-credentials",), ("demo-ca",), ("demo-tls",), ("demo-ca", "demo-tls")]
)
@virtual_time
async def test_deleted_secrets_come_back_with_what_was_in_them(deleted: tuple[str, ...]) -> None:
    bench = Bench(database="app", username="app")
    made = await bench.ensure()
    before = {name: bench.get(SECRET, name)["data"] for name in bench.names(SECRET)}
    for name in deleted:
        bench.objects.delete(SECRET, NAMESPACE, name)
    bench.fill_caches()
    await bench.ensure(made)
    assert {name: bench.get(SECRET, name)["data"] for name in bench.names(SECRET)} == before


@virtual_time
async def test_passwords_of_servers_that_have_served_are_never_made_anew() -> None:
    bench = Bench(database="app", username="app")
    await bench.ensure()
    before = bench.get(SECRET, "demo-credentials")["data"]
    bench.objects.delete(SECRET, NAMESPACE, "demo-credentials")
    bench.fill_caches()
    with pytest.raises(InputProblem, match="demo-credentials has lost operator-password") as caught:
        await bench.ensure(served=True)
    assert caught.value.reason == "CredentialsLost"
    assert "demo-credentials" not in bench.names(SECRET)
    await bench.ensure()
    assert bench.get(SECRET, "demo-credentials")["data"] != before


@virtual_time
async def test_edited_passwords_are_put_back() -> None:
    bench = Bench()
    made = await bench.ensure()
    before = bench.get(SECRET, "demo-credentials")["data"]
    bench.objects.merge(
        SECRET, NAMESPACE, "demo-credentials", {"data": {"operator-password": encoded("edited")}}
    )
    await bench.ensure(made)
    assert bench.get(SECRET, "demo-credentials")["data"] == before


@virtual_time
async def test_a_new_operator_keeps_the_passwords_that_are_there() -> None:
    bench = Bench(database="app", username="app")
    await bench.ensure()
    before = {name: bench.get(SECRET, name)["data"] for name in bench.names(SECRET)}
    await bench.ensure(None)
    assert {name: bench.get(SECRET, name)["data"] for name in bench.names(SECRET)} == before


@virtual_time
async def test_a_lost_authority_is_replaced_and_the_one_before_is_trusted_on() -> None:
    bench = Bench()
    await bench.ensure()
    old = text(bench.get(SECRET, "demo-ca"), "tls.crt").strip()
    bench.objects.delete(SECRET, NAMESPACE, "demo-ca")
    bench.fill_caches()
    await bench.ensure(None)
    await bench.ensure(None)
    new = text(bench.get(SECRET, "demo-ca"), "tls.crt").strip()
    trusted = text(bench.get(SECRET, "demo-tls"), "ca.crt")
    assert new != old
    assert trusted.index(new) < trusted.index(old)


@virtual_time
async def test_a_selector_that_somebody_gave_our_service_is_taken_off() -> None:
    bench = Bench()
    made = await bench.ensure()
    bench.objects.merge(SERVICE, NAMESPACE, "demo-primary", {"spec": {"selector": {"somebody": "else"}}})
    await bench.ensure(made)
    assert "selector" not in bench.get(SERVICE, "demo-primary")["spec"]


@virtual_time
async def test_config_maps_that_no_pod_mounts_are_collected_and_those_of_others_stay() -> None:
    bench = Bench()
    first = await bench.ensure()
    await bench.effects.ensure_instance(e.EnsureInstance("demo-0", 0), bench.spec, first)
    bench.stranger(CONFIG_MAP, "demo-config-theirs", data={})
    bench.edit(myCnf="[mariadbd]\nmax_connections = 77\n")
    second = await bench.ensure(first)
    assert bench.names(CONFIG_MAP) == {first.config_map, second.config_map, "demo-config-theirs"}
    bench.objects.delete(POD, NAMESPACE, "demo-0")
    bench.fill_caches()
    await bench.ensure(second)
    assert bench.names(CONFIG_MAP) == {second.config_map, "demo-config-theirs"}


PROBLEMS: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "storage class": (
        {"storage": {"size": "1Gi", "storageClassName": "fast"}},
        "StorageClassMissing",
        ("spec.storage.storageClassName", "fast", "create it"),
    ),
    "config map": (
        {"myCnfConfigMapKeyRef": {"name": "mine", "key": "my.cnf"}},
        "ConfigMapMissing",
        ("spec.myCnfConfigMapKeyRef", "mine", "create it"),
    ),
    "owned option": (
        {"myCnf": "[mariadbd]\nmax_connections = 9\nserver_id = 7\n"},
        "OptionOwned",
        ("spec.myCnf", "line 3", "server_id"),
    ),
    "root password": (
        {"rootPasswordSecretKeyRef": {"name": "root", "key": "password"}},
        "SecretMissing",
        ("spec.rootPasswordSecretKeyRef", "root", "password", "create it"),
    ),
    "password": (
        {"database": "app", "username": "app", "passwordSecretKeyRef": {"name": "app", "key": "p"}},
        "SecretMissing",
        ("spec.passwordSecretKeyRef", "app", "create it"),
    ),
    "authority": (
        {"tls": {"caSecretName": "our-ca"}},
        "SecretMissing",
        ("spec.tls.caSecretName", "our-ca", "tls.key"),
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
@virtual_time
async def test_a_mistake_names_field_value_and_remedy(name: str) -> None:
    spec, reason, mentions = PROBLEMS[name]
    problem = await Bench(**spec).problem()
    assert problem.reason == reason
    for each in mentions:
        assert each in str(problem)


@virtual_time
async def test_a_key_that_is_missing_is_named() -> None:
    bench = Bench(myCnfConfigMapKeyRef={"name": "mine", "key": "my.cnf"})
    bench.stranger(CONFIG_MAP, "mine", data={"other": ""})
    problem = await bench.problem()
    assert problem.reason == "ConfigMapKeyMissing"
    assert "my.cnf" in str(problem)

    bench = Bench(rootPasswordSecretKeyRef={"name": "root", "key": "password"})
    bench.stranger(SECRET, "root", data={"pass": encoded("x")})
    problem = await bench.problem()
    assert problem.reason == "SecretKeyMissing"
    assert "spec.rootPasswordSecretKeyRef" in str(problem)


@virtual_time
async def test_a_given_authority_that_can_not_sign_is_named() -> None:
    bench = Bench(tls={"caSecretName": "our-ca"})
    bench.stranger(SECRET, "our-ca", data={"tls.crt": encoded("no"), "tls.key": encoded("pem")})
    problem = await bench.problem()
    assert problem.reason == "InvalidAuthority"
    assert "spec.tls.caSecretName" in str(problem)


@virtual_time
async def test_the_application_s_password_is_the_first_line_of_the_key() -> None:
    bench = Bench(database="app", username="app", passwordSecretKeyRef={"name": "mine", "key": "p"})
    bench.stranger(SECRET, "mine", data={"p": encoded("secret\n")})
    await bench.ensure()
    assert text(bench.get(SECRET, "demo-app"), "password") == "secret"


@virtual_time
async def test_a_missing_default_storage_class_is_a_notice_while_volumes_wait() -> None:
    bench = Bench()
    bench.objects.delete(STORAGE_CLASS, None, "standard")
    made = await bench.ensure()
    assert [each.reason for each in made.notices] == ["NoDefaultStorageClass"]
    assert "spec.storage.storageClassName" in str(made.notices[0])
    for number in range(3):
        await bench.effects.ensure_instance(e.EnsureInstance(f"demo-{number}", number), bench.spec, made)
        bench.objects.merge(
            PVC, NAMESPACE, f"data-demo-{number}", {"status": {"phase": "Bound"}}, status=True
        )
    bench.fill_caches()
    assert (await bench.ensure(made)).notices == ()


@virtual_time
async def test_a_claim_that_can_not_grow_is_a_notice_and_the_cluster_goes_on() -> None:
    bench = Bench()
    made = await bench.ensure()
    await bench.effects.ensure_instance(e.EnsureInstance("demo-0", 0), bench.spec, made)
    bench.fill_caches()
    bench.edit(storage={"size": "2Gi"})
    bench.client.fail("apply", Rejected("only dynamically provisioned pvc can be resized"), kind=PVC.kind)
    made = await bench.ensure(made)
    [notice] = made.notices
    assert notice.reason == "VolumeNotExpandable"
    for each in ("spec.storage.size", "2Gi", "1Gi", "data-demo-0", "allowVolumeExpansion"):
        assert each in str(notice)
    assert bench.get(PVC, "data-demo-0")["spec"]["resources"]["requests"]["storage"] == "1Gi"


@virtual_time
async def test_a_claim_that_an_earlier_resource_left_is_neither_adopted_nor_deleted_by_looking() -> None:
    bench = Bench(volumeDeletionPolicy="Delete")
    made = await bench.ensure()
    await bench.effects.ensure_instance(e.EnsureInstance("demo-0", 0), bench.spec, made)
    bench.objects.merge(
        PVC,
        NAMESPACE,
        "data-demo-0",
        {"metadata": {"annotations": {"mariadb.fsm.dev/cluster-uid": "earlier"}, "ownerReferences": None}},
    )
    bench.fill_caches()
    before = copy.deepcopy(bench.get(PVC, "data-demo-0"))
    await bench.ensure(made)
    await bench.effects.release(bench.resource, bench.spec, delete_volumes=True)
    assert bench.get(PVC, "data-demo-0") == before
