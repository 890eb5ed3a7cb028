"""An Event exists exactly once, and its failure is nobody's failure."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from mariadb_operator.kube.client import KubeClient
from mariadb_operator.kube.events import EventNotWritten, EventType, Involved, record, shortened
from mariadb_operator.kube.kinds import EVENT, MARIADB_CLUSTER
from mariadb_operator.runtime.errors import Transient
from tests.unit.fake_api import FakeApi, Fault
from tests.unit.virtual_time import ImpatientClock

CLUSTER = Involved(
    api_version="mariadb.fsm.dev/v1alpha1", kind="MariaDBCluster", namespace="n", name="m", uid="uid-1"
)


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with FakeApi() as api:
        yield api


async def record_one(
    client: KubeClient, *, clock: ImpatientClock | None = None, message: str = "it broke"
) -> bool:
    return await record(
        client,
        involved=CLUSTER,
        name="m.uid1.7",
        reason="FailingOver",
        message=message,
        type=EventType.WARNING,
        clock=clock or ImpatientClock(),
        rng=random.Random(1),
        instance="pod-1",
    )


async def test_an_event_is_found_by_the_uid_of_its_object(api: FakeApi) -> None:
    assert await record_one(api.client())
    event = api.objects.get(EVENT, "n", "m.uid1.7")
    assert event["involvedObject"] == {
        "apiVersion": "mariadb.fsm.dev/v1alpha1",
        "kind": "MariaDBCluster",
        "namespace": "n",
        "name": "m",
        "uid": "uid-1",
    }
    assert (event["type"], event["reason"], event["message"]) == ("Warning", "FailingOver", "it broke")
    assert event["firstTimestamp"].endswith("Z")


async def test_writing_again_is_done_already(api: FakeApi) -> None:
    client = api.client()
    assert await record_one(client)
    assert not await record_one(client, message="other words")
    assert api.objects.get(EVENT, "n", "m.uid1.7")["message"] == "it broke"


@pytest.mark.parametrize("fault", [Fault.LOST_REPLY, Fault.REFUSE, Fault.TEXT_429, Fault.HTML_502])
async def test_a_failure_on_the_way_leaves_one_event(api: FakeApi, fault: Fault) -> None:
    api.fault(fault, times=3)
    await record_one(api.client())
    assert len(api.objects.of(EVENT).objects) == 1


async def test_after_a_few_tries_the_caller_is_told_and_may_go_on(api: FakeApi) -> None:
    clock = ImpatientClock()
    api.fault(Fault.TEXT_429, times=99)
    with pytest.raises(EventNotWritten):
        await record_one(api.client(), clock=clock)
    assert len(api.requests) == 4
    assert len(clock.slept) == 3
    assert issubclass(EventNotWritten, Transient)


async def test_an_event_that_is_refused_is_not_tried_again(api: FakeApi) -> None:
    api.fault(Fault.STATUS, code=403, times=99)
    with pytest.raises(EventNotWritten):
        await record_one(api.client())
    assert len(api.requests) == 1


async def test_a_long_message_is_cut_to_what_the_server_takes(api: FakeApi) -> None:
    await record_one(api.client(), message="ä" * 2000)
    message = api.objects.get(EVENT, "n", "m.uid1.7")["message"]
    assert 1020 <= len(message.encode()) <= 1024
    assert message.endswith("ä…")


def test_a_text_that_fits_is_not_touched() -> None:
    assert shortened("ä" * 512, limit=1024) == "ä" * 512


async def test_the_object_of_an_event_is_taken_from_its_manifest(api: FakeApi) -> None:
    created = api.objects.create(MARIADB_CLUSTER, {"metadata": {"namespace": "n", "name": "m"}, "spec": {}})
    involved = Involved.of(created)
    assert (involved.namespace, involved.name, involved.kind) == ("n", "m", "MariaDBCluster")
    assert involved.uid == created["metadata"]["uid"]


async def test_an_event_about_an_object_without_a_namespace_goes_to_default(api: FakeApi) -> None:
    await record(
        api.client(),
        involved=Involved(api_version="v1", kind="Node", namespace="", name="x", uid="u"),
        name="x.1",
        reason="Seen",
        message="seen",
        clock=ImpatientClock(),
        rng=random.Random(1),
    )
    assert "namespace" not in api.objects.get(EVENT, "default", "x.1")["involvedObject"]
