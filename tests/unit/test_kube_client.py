"""The client's operations, and what each kind of failure is told as."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from kubernetes_asyncio.client.configuration import Configuration

from mariadb_operator.kube.client import KubeClient
from mariadb_operator.kube.errors import AlreadyExists, Conflict, Gone, NotFound, Rejected, error_of
from mariadb_operator.kube.kinds import (
    CONFIG_MAP,
    ENDPOINT_SLICE,
    MARIADB_CLUSTER,
    NODE,
    POD,
    Manifest,
    kind_of,
)
from mariadb_operator.kube.transport import load_configuration
from mariadb_operator.runtime.errors import OperatorError, Permanent, Transient, Uncertain
from tests.unit.fake_api import FakeApi, Fault, eventually

Call = Callable[[KubeClient], Awaitable[object]]


def config_map(name: str = "c", **data: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": "n", "name": name},
        "data": data,
    }


def mariadb(name: str = "m") -> Manifest:
    return {
        "apiVersion": "mariadb.fsm.dev/v1alpha1",
        "kind": "MariaDBCluster",
        "metadata": {"namespace": "n", "name": name},
        "spec": {"replicas": 3},
    }


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with FakeApi() as api:
        yield api


async def test_create_get_and_delete(api: FakeApi) -> None:
    client = api.client()
    created = await client.create(config_map(a="1"), field_manager="test")
    assert await client.get(CONFIG_MAP, "n", "c") == created
    with pytest.raises(AlreadyExists):
        await client.create(config_map(), field_manager="test")
    await client.delete(CONFIG_MAP, "n", "c")
    with pytest.raises(NotFound):
        await client.get(CONFIG_MAP, "n", "c")
    with pytest.raises(NotFound):
        await client.delete(CONFIG_MAP, "n", "c")


async def test_apply_creates_corrects_drift_and_removes_what_it_no_longer_says(api: FakeApi) -> None:
    client = api.client()
    await client.apply(config_map(a="1", b="2"), field_manager="us")
    api.objects.merge(CONFIG_MAP, "n", "c", {"data": {"a": "drift", "theirs": "3"}})
    applied = await client.apply(config_map(a="1"), field_manager="us")
    assert applied["data"] == {"a": "1", "theirs": "3"}
    request = api.requests[-1]
    assert (request.method, request.content_type) == ("PATCH", "application/apply-patch+yaml")
    assert request.query == {"fieldManager": "us", "force": "true", "fieldValidation": "Strict"}


async def test_replace_is_guarded_by_the_version_that_was_read(api: FakeApi) -> None:
    client = api.client()
    read = await client.create(config_map(a="1"), field_manager="test")
    replaced = await client.replace({**read, "data": {"a": "2"}}, field_manager="test")
    assert replaced["data"] == {"a": "2"}
    with pytest.raises(Conflict):
        await client.replace({**read, "data": {"a": "3"}}, field_manager="test")
    assert (await client.get(CONFIG_MAP, "n", "c"))["data"] == {"a": "2"}
    with pytest.raises(ValueError, match="resourceVersion"):
        await client.replace(config_map(a="4"), field_manager="test")


async def test_status_writes_change_the_status_alone_and_are_guarded(api: FakeApi) -> None:
    client = api.client()
    read = await client.create(mariadb(), field_manager="test")
    written = await client.replace_status(
        {**read, "spec": {"replicas": 9}, "status": {"state": "Healthy", "epoch": 1}}, field_manager="test"
    )
    assert written["spec"] == {"replicas": 3}
    with pytest.raises(Conflict):
        await client.replace_status({**read, "status": {}}, field_manager="test")
    version = written["metadata"]["resourceVersion"]
    patched = await client.patch_status(
        MARIADB_CLUSTER,
        "n",
        "m",
        status={"epoch": 2},
        resource_version=version,
        field_manager="test",
    )
    assert patched["status"] == {"state": "Healthy", "epoch": 2}
    with pytest.raises(Conflict):
        await client.patch_status(
            MARIADB_CLUSTER, "n", "m", status={"epoch": 3}, resource_version=version, field_manager="test"
        )
    writes = [request for request in api.requests if request.method in ("PUT", "PATCH")]
    assert all(request.query["fieldValidation"] == "Strict" for request in writes)
    with pytest.raises(ValueError, match="resourceVersion"):
        await client.patch_status(
            MARIADB_CLUSTER, "n", "m", status={}, resource_version="", field_manager="test"
        )


async def test_merge_patch_removes_what_is_none(api: FakeApi) -> None:
    client = api.client()
    await client.create(config_map(a="1", b="2"), field_manager="test")
    patched = await client.patch_merge(
        CONFIG_MAP, "n", "c", patch={"data": {"a": None, "c": "3"}}, field_manager="test"
    )
    assert patched["data"] == {"b": "2", "c": "3"}
    assert api.requests[-1].content_type == "application/merge-patch+json"


async def test_a_deletion_meant_for_another_incarnation_does_nothing(api: FakeApi) -> None:
    client = api.client()
    first = await client.create(config_map(), field_manager="test")
    await client.delete(CONFIG_MAP, "n", "c")
    await client.create(config_map(), field_manager="test")
    with pytest.raises(Conflict):
        await client.delete(CONFIG_MAP, "n", "c", uid=first["metadata"]["uid"])
    assert await client.get(CONFIG_MAP, "n", "c")


async def test_the_options_of_a_deletion_are_sent(api: FakeApi) -> None:
    client = api.client()
    pod = await client.create(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "n", "name": "p"}}, field_manager="test"
    )
    metadata = pod["metadata"]
    await client.delete(
        POD,
        "n",
        "p",
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        grace_period_seconds=0,
    )
    assert api.requests[-1].body == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "propagationPolicy": "Background",
        "gracePeriodSeconds": 0,
        "preconditions": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]},
    }


async def test_a_list_comes_in_pages_and_by_selector(api: FakeApi) -> None:
    client = api.client()
    for number in range(7):
        manifest = config_map(f"c{number}")
        manifest["metadata"]["labels"] = {"odd": str(number % 2)}
        api.objects.create(CONFIG_MAP, manifest)
    page = await client.list_page(CONFIG_MAP, "n", limit=3)
    assert [item["metadata"]["name"] for item in page.items] == ["c0", "c1", "c2"]
    assert {(item["apiVersion"], item["kind"]) for item in page.items} == {("v1", "ConfigMap")}
    page = await client.list_page(CONFIG_MAP, limit=3, continue_token=page.continue_token)
    page = await client.list_page(CONFIG_MAP, limit=3, continue_token=page.continue_token)
    assert ([item["metadata"]["name"] for item in page.items], page.continue_token) == (["c6"], "")
    odd = await client.list_all(CONFIG_MAP, label_selector="odd=1")
    assert [item["metadata"]["name"] for item in odd] == ["c1", "c3", "c5"]
    assert await client.list_all(CONFIG_MAP, "elsewhere") == []


READ: Call = lambda client: client.get(CONFIG_MAP, "n", "c")  # noqa: E731
WRITES: dict[str, Call] = {
    "POST": lambda client: client.create(config_map("new"), field_manager="test"),
    "PATCH": lambda client: client.apply(config_map(a="2"), field_manager="test"),
    "DELETE": lambda client: client.delete(CONFIG_MAP, "n", "c"),
}


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.LOST_REPLY, Fault.HTML_502, Fault.DELAY])
async def test_a_lost_reply_is_uncertain_for_a_write_and_transient_for_a_read(
    api: FakeApi, fault: Fault
) -> None:
    client = api.client(deadline=0.3 if fault is Fault.DELAY else 10)
    api.objects.create(CONFIG_MAP, config_map())
    for method, write in WRITES.items():
        api.fault(fault, method=method, seconds=30)
        with pytest.raises(Uncertain):
            await write(client)
    api.fault(fault, method="GET", seconds=30)
    with pytest.raises(Transient):
        await READ(client)


async def test_a_write_over_a_connection_that_breaks_is_not_sent_a_second_time(api: FakeApi) -> None:
    client = api.client()
    read = await client.create(config_map(a="1"), field_manager="test")  # the connection is kept
    api.fault(Fault.LOST_REPLY, method="PUT")
    with pytest.raises(Uncertain):
        await client.replace({**read, "data": {"a": "2"}}, field_manager="test")
    assert [request.method for request in api.requests] == ["POST", "PUT"]
    assert api.objects.get(CONFIG_MAP, "n", "c")["data"] == {"a": "2"}


async def test_a_request_that_never_left_is_transient_for_a_write_too() -> None:
    async with FakeApi() as api:
        client = api.client()
        await api.stop()
        for write in WRITES.values():
            with pytest.raises(Transient):
                await write(client)


async def test_a_deadline_given_for_one_call_counts(api: FakeApi) -> None:
    client = api.client(deadline=60)
    api.fault(Fault.DELAY, method="GET", seconds=30)
    async with asyncio.timeout(20):
        with pytest.raises(Transient, match=r"no reply within 0\.2 s"):
            await client.get(CONFIG_MAP, "n", "c", deadline=0.2)


async def test_a_cancelled_call_is_cancelled(api: FakeApi) -> None:
    client = api.client()
    api.fault(Fault.DELAY, seconds=30)
    task = asyncio.create_task(client.get(CONFIG_MAP, "n", "c"))
    await eventually(lambda: bool(api.requests))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_token_is_sent_with_every_request(api: FakeApi) -> None:
    configuration = Configuration(host=f"http://127.0.0.1:{api.port}")
    configuration.api_key["BearerToken"] = "Bearer secret"
    async with KubeClient(configuration) as client:
        await client.list_page(CONFIG_MAP)
        async with client.watch(CONFIG_MAP, resource_version="1000", server_seconds=5, silence_seconds=5):
            pass
    assert [request.authorization for request in api.requests] == ["Bearer secret"] * 2


STATUS = json.dumps({"kind": "Status", "message": "m", "reason": "r"}).encode()
NO_STATUS = b"<html>no backend</html>"


@pytest.mark.parametrize(
    ("code", "body", "writes", "expected"),
    [
        (400, STATUS, True, Rejected),
        (401, STATUS, True, Transient),
        (403, STATUS, True, Rejected),
        (404, STATUS, False, NotFound),
        (409, STATUS, True, Conflict),
        (409, json.dumps({"kind": "Status", "reason": "AlreadyExists"}).encode(), True, AlreadyExists),
        (410, STATUS, False, Gone),
        (422, STATUS, True, Rejected),
        (429, b"too many", True, Transient),
        (500, STATUS, False, Transient),
        (500, STATUS, True, Uncertain),
        (502, NO_STATUS, True, Uncertain),
        (503, STATUS, True, Transient),
        (503, NO_STATUS, True, Uncertain),
        (504, STATUS, True, Uncertain),
        (504, NO_STATUS, False, Transient),
    ],
)
def test_what_an_answer_means(code: int, body: bytes, writes: bool, expected: type[OperatorError]) -> None:
    assert type(error_of(code=code, body=body, request="PUT Pod n/p", writes=writes)) is expected


def test_a_rejection_says_what_was_asked_and_why() -> None:
    body = json.dumps({"kind": "Status", "message": 'unknown field "spec.x"'}).encode()
    error = error_of(code=400, body=body, request="PATCH Pod n/p", writes=True)
    assert str(error) == 'PATCH Pod n/p: 400 unknown field "spec.x"'


def test_server_side_apply_refuses_an_unknown_field_with_a_500() -> None:
    message = (
        "failed to create typed patch object (n/c; /v1, Kind=ConfigMap): .dta: field not declared in schema"
    )
    body = json.dumps({"kind": "Status", "code": 500, "message": message}).encode()
    assert type(error_of(code=500, body=body, request="PATCH ConfigMap n/c", writes=True)) is Rejected


def test_paths_of_kinds() -> None:
    assert POD.path() == "/api/v1/pods"
    assert POD.path(namespace="n", name="p", subresource="status") == "/api/v1/namespaces/n/pods/p/status"
    assert NODE.path(name="x") == "/api/v1/nodes/x"
    assert ENDPOINT_SLICE.path(namespace="n") == "/apis/discovery.k8s.io/v1/namespaces/n/endpointslices"
    assert POD.path(namespace="n", name="../x") == "/api/v1/namespaces/n/pods/..%2Fx"
    for wrong in ({"name": "p"}, {"namespace": "n", "name": ""}):
        with pytest.raises(ValueError, match="needs a name"):
            POD.path(**wrong)
    with pytest.raises(ValueError, match="no namespace"):
        NODE.path(namespace="n", name="x")


def test_a_manifest_of_a_foreign_kind_is_refused() -> None:
    assert kind_of(mariadb()) is MARIADB_CLUSTER
    with pytest.raises(Permanent, match=r"apps/v1"):
        kind_of({"apiVersion": "apps/v1", "kind": "StatefulSet"})


async def test_without_any_configuration_the_error_says_where_it_was_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(Permanent, match="KUBECONFIG"):
        await load_configuration(kubeconfig=tmp_path / "absent")  # type: ignore[operator]
