"""One cluster's session: what is written before what is done, and what happens when a write fails."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mariadb_operator.kube.errors import Conflict
from mariadb_operator.kube.kinds import ENDPOINT_SLICE, MARIADB_CLUSTER, POD, PVC, SECRET
from mariadb_operator.runtime.errors import OperatorError, Transient, Uncertain
from mariadb_operator.sql.errors import StatementRefused
from statemachines import effects as e
from statemachines.facts import IoThread
from tests.unit.cluster_world import NAME, NAMESPACE, FakeSql, World, resource, world
from tests.unit.memory_client import MemoryClient
from tests.unit.virtual_time import virtual_time

__all__ = ["world"]


def create(made: World, **spec: Any) -> None:
    made.objects.create(MARIADB_CLUSTER, resource(**spec))


def edit(made: World, patch: dict[str, Any], *, status: bool = False) -> None:
    made.objects.merge(MARIADB_CLUSTER, NAMESPACE, NAME, patch, status=status)


def endpoint(made: World) -> str:
    return str(
        made.objects.get(ENDPOINT_SLICE, NAMESPACE, f"{NAME}-primary-ipv4")["endpoints"][0]["targetRef"][
            "name"
        ]
    )


def opened(made: World) -> bool:
    primary = made.status["primary"]
    return primary != "demo-0" and not made.server(primary).read_only


def failed_over(made: World) -> bool:
    return made.status.get("epoch") == 2 and made.status.get("state") in (
        "Replicating",
        "Degraded",
        "Healthy",
    )


@virtual_time
async def test_a_new_cluster_becomes_healthy(world: type[World]) -> None:
    made = world()
    create(made)
    async with made.leader():
        await made.until_state("Healthy")
    assert made.status["primary"] == "demo-0"
    assert endpoint(made) == "demo-0"
    assert not made.server("demo-0").read_only
    assert made.condition("Ready")["status"] == "True"


@virtual_time
async def test_a_dead_primary_is_replaced_and_each_step_was_written_before_it_was_done(
    world: type[World],
) -> None:
    made = world()
    create(made)
    async with made.leader():
        await made.until_state("Healthy")
        made.performed.clear()
        made.client.calls.clear()
        made.kill("demo-0")
        await made.until(lambda: failed_over(made), seconds=10)
    assert made.status["primary"] != "demo-0"
    assert endpoint(made) == made.status["primary"]
    assert not made.server(made.status["primary"]).read_only
    for effect, status in made.performed:
        if isinstance(effect, e.StopReceiving | e.Equalise):
            assert status["state"] == "FailingOver", f"{effect} while {status['state']} was written"
        if isinstance(effect, e.OpenPrimary):
            assert (status["epoch"], status["primary"]) == (2, effect.instance)
    switch = next(n for n, call in enumerate(made.client.calls) if call.kind == "EndpointSlice")
    commit = [call for call in made.client.calls[:switch] if call.operation == "replace_status"][-1]
    assert commit.body is not None
    assert commit.body["status"]["epoch"] == 2


@virtual_time
async def test_a_healthy_failover_costs_two_status_writes_and_one_put_until_it_is_open(
    world: type[World],
) -> None:
    made = world()
    create(made)
    async with made.leader():
        await made.until_state("Healthy")
        made.client.calls.clear()
        made.kill("demo-0")
        await made.until(lambda: opened(made), seconds=10)
        done = [(each.operation, each.kind) for each in made.client.written() if each.kind != "Event"]
    assert done[:3] == [
        ("replace_status", "MariaDBCluster"),
        ("replace_status", "MariaDBCluster"),
        ("replace", "EndpointSlice"),
    ]


@virtual_time
async def test_a_failover_waits_for_nothing_but_its_own_requests(
    world: type[World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Virtual time: with 10 ms for each write to the API and 5 ms for each statement the floor is 45 ms."""
    made = world()
    create(made)
    request, statement = MemoryClient._do, FakeSql.run

    async def slow_request(self: MemoryClient, operation: str, *rest: Any) -> Any:
        await asyncio.sleep(0.0 if operation == "get" else 0.01)
        return await request(self, operation, *rest)

    async def slow_statement(self: FakeSql, effect: Any) -> None:
        await asyncio.sleep(0.005)
        await statement(self, effect)

    monkeypatch.setattr(MemoryClient, "_do", slow_request)
    monkeypatch.setattr(FakeSql, "run", slow_statement)
    async with made.leader():
        await made.until_state("Healthy")
        for _ in range(3):
            await asyncio.sleep(7)
            dead, began = made.status["primary"], asyncio.get_running_loop().time()
            made.kill(dead)
            while made.status["primary"] == dead or made.server(made.status["primary"]).read_only:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            assert asyncio.get_running_loop().time() - began < 0.06
            made.restart(dead)
            await made.until_state("Healthy")


@virtual_time
async def test_the_first_sign_of_a_failover_is_not_written_before_it(world: type[World]) -> None:
    made = world()
    create(made)
    async with made.leader():
        await made.until_state("Healthy")
        await asyncio.sleep(5)
        made.client.calls.clear()
        for server in made.servers.values():
            if server.source is not None:
                server.io = IoThread.CONNECTING
        made.server("demo-0").hangs = True
        await asyncio.sleep(0.9)
        assert not made.client.written("replace_status"), (
            "a pass waited for a write that says nothing lasting"
        )
        await made.until(lambda: bool(made.client.written("replace_status")), seconds=5)


FAILURES: list[OperatorError] = [
    Transient("no connection"),
    Conflict("somebody wrote"),
    Uncertain("no reply"),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("write", [0, 1, 2])
@virtual_time
async def test_nothing_is_done_for_a_state_whose_write_failed(
    world: type[World], error: OperatorError, write: int
) -> None:
    made = world()
    create(made)
    async with made.leader():
        await made.until_state("Healthy")
        made.performed.clear()
        made.kill("demo-0")
        for _ in range(write):
            await made.until(lambda: bool(made.client.written("replace_status")), seconds=5)
        made.client.fail("replace_status", error, times=3)
        await made.until(lambda: failed_over(made), seconds=20)
    for effect, status in made.performed:
        if isinstance(effect, e.StopReceiving | e.Equalise):
            assert status["state"] == "FailingOver"
        if isinstance(effect, e.OpenPrimary):
            assert (status["epoch"], status["primary"]) == (2, effect.instance)


@virtual_time
async def test_a_write_that_failed_transiently_is_written_before_its_effects(world: type[World]) -> None:
    made = world()
    create(made)
    async with made.leader():
        await made.until_state("Healthy")
        made.performed.clear()
        made.client.fail("replace_status", Transient("429"), times=10**6)
        made.kill("demo-0")
        await asyncio.sleep(5)
        fenced = [each for each, _ in made.performed if isinstance(each, e.StopReceiving)]
        assert not fenced, "the fence began although nothing was written"
        assert made.status["state"] == "Healthy"


@virtual_time
async def test_after_a_lost_reply_the_status_is_read_again_and_the_epoch_counts_once(
    world: type[World],
) -> None:
    made = world()
    create(made)
    async with made.leader():
        await made.until_state("Healthy")
        made.kill("demo-0")
        made.client.fail("replace_status", Uncertain("lost"), done=True, times=2)
        await made.until(lambda: failed_over(made), seconds=20)
    assert made.status["epoch"] == 2
    assert len([each for each in made.errors if isinstance(each, Uncertain)]) == 2


@pytest.mark.parametrize("writes", [1, 2, 3])
@virtual_time
async def test_a_new_leader_goes_on_in_the_middle_of_a_failover(world: type[World], writes: int) -> None:
    made = world()
    create(made)
    async with made.leader(term=1):
        await made.until_state("Healthy")
        made.client.calls.clear()
        made.kill("demo-0")
        await made.until(lambda: len(made.client.written("replace_status")) >= writes, seconds=10)
    before = made.status
    made.performed.clear()
    async with made.leader(term=2):
        await made.until(lambda: failed_over(made), seconds=8)
    if before.get("operation"):
        taken = before["operation"]["attempts"] + 1
        for effect, status in made.performed:
            if status.get("operation"):
                assert status["operation"]["attempts"] >= taken, f"{effect} before the take-over was written"
    assert not made.server(made.status["primary"]).read_only
    assert endpoint(made) == made.status["primary"]


@virtual_time
async def test_another_primary_written_by_hand_is_quarantined(world: type[World]) -> None:
    made = world()
    create(made)
    async with made.leader():
        await made.until_state("Healthy")
        edit(made, {"status": {"primary": "demo-1"}}, status=True)
        await made.until_state("Quarantined", seconds=30)
    assert "edited" in made.status["message"]
    assert made.server("demo-1").read_only
    assert any("Quarantined" in event["reason"] for event in made.events)


@pytest.mark.parametrize(
    "status",
    [
        {"state": "Dancing", "sequence": 5, "epoch": 3, "since": "2026-11-23T12:00:00Z"},
        {"schema": 99, "state": "Healthy", "sequence": 4, "epoch": 1, "since": "2026-11-23T12:00:00Z"},
    ],
)
@virtual_time
async def test_a_status_that_nobody_can_read_is_quarantined_and_nothing_is_made(
    world: type[World], status: dict[str, Any]
) -> None:
    made = world()
    create(made)
    edit(made, {"status": status}, status=True)
    async with made.leader():
        await made.until_state("Quarantined", seconds=30)
        await asyncio.sleep(5)
    assert not made.objects.of(POD).objects
    assert not made.objects.of(PVC).objects


@pytest.mark.parametrize(
    "status", [{"epoch": "many"}, {"primary": "nobody"}, {"state": "Dancing"}, {"members": 3}]
)
@virtual_time
async def test_garbage_in_the_status_of_a_running_cluster_is_quarantined_and_its_servers_are_left_alone(
    world: type[World], status: dict[str, Any]
) -> None:
    made = world()
    create(made)
    async with made.leader():
        await made.until_state("Healthy")
        made.performed.clear()
        edit(made, {"status": status}, status=True)
        await made.until_state("Quarantined", seconds=30)
        await asyncio.sleep(5)
    assert made.performed == []
    assert not made.server("demo-0").read_only


@virtual_time
async def test_volumes_without_a_status_are_quarantined(world: type[World]) -> None:
    made = world()
    create(made)
    async with made.leader():
        await made.until_state("Healthy")
    edit(made, {"status": None}, status=True)
    made.performed.clear()
    async with made.leader(term=2):
        await made.until_state("Quarantined", seconds=30)
        await asyncio.sleep(5)
    assert made.performed == []


@virtual_time
async def test_a_spec_that_can_not_be_read_is_a_condition_and_an_event_and_makes_nothing(
    world: type[World],
) -> None:
    made = world()
    create(made, replicas="three")
    async with made.leader():
        await made.until(lambda: bool(made.status.get("conditions")), seconds=30)
        ready = made.condition("Ready")
        assert (ready["status"], ready["reason"]) == ("False", "InvalidSpec")
        assert "spec.replicas" in ready["message"]
        assert "three" in ready["message"]
        await made.until(lambda: any(event["reason"] == "InvalidSpec" for event in made.events), seconds=5)
        assert not made.objects.of(POD).objects
        edit(made, {"spec": {"replicas": 1}})
        await made.until_state("Healthy")


@virtual_time
async def test_a_running_cluster_goes_on_when_its_spec_can_not_be_read_any_more(world: type[World]) -> None:
    made = world()
    create(made)
    async with made.leader():
        await made.until_state("Healthy")
        edit(made, {"spec": {"replicas": "three"}})
        await made.until(lambda: made.condition("Progressing")["reason"] == "InvalidSpec", seconds=30)
        made.kill("demo-0")
        await made.until(lambda: failed_over(made), seconds=10)


@virtual_time
async def test_an_unreadable_resource_can_be_deleted_and_keeps_its_volumes(world: type[World]) -> None:
    made = world()
    create(made, volumeDeletionPolicy="Delete")
    async with made.leader():
        await made.until_state("Healthy")
    edit(made, {"spec": {"replicas": "three"}})
    made.objects.delete(MARIADB_CLUSTER, NAMESPACE, NAME)
    async with made.leader(term=2):
        await made.until(lambda: not made.objects.of(MARIADB_CLUSTER).objects, seconds=60)


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
@virtual_time
async def test_volumes_follow_the_policy_as_it_is_when_the_resource_is_deleted(
    world: type[World], policy: str
) -> None:
    made = world()
    create(made, volumeDeletionPolicy={"Retain": "Delete", "Delete": "Retain"}[policy])
    async with made.leader():
        await made.until_state("Healthy")
        edit(made, {"spec": {"volumeDeletionPolicy": policy}})
        made.objects.delete(MARIADB_CLUSTER, NAMESPACE, NAME)
        await made.until(lambda: not made.objects.of(MARIADB_CLUSTER).objects, seconds=60)
    claims = made.objects.of(PVC).objects
    secrets = {name for _, name in made.objects.of(SECRET).objects}
    assert len(claims) == (3 if policy == "Retain" else 0)
    assert secrets == ({"demo-credentials", "demo-ca"} if policy == "Retain" else set())


@virtual_time
async def test_volumes_lose_their_owner_as_soon_as_the_policy_says_retain(world: type[World]) -> None:
    made = world()
    create(made, volumeDeletionPolicy="Delete")
    async with made.leader():
        await made.until_state("Healthy")
        claims = made.objects.of(PVC).objects
        assert all(claim["metadata"].get("ownerReferences") for claim in claims.values())
        edit(made, {"spec": {"volumeDeletionPolicy": "Retain"}})
        await made.until(
            lambda: not any(each["metadata"].get("ownerReferences") for each in claims.values()), seconds=30
        )


@virtual_time
async def test_claims_grow_with_the_spec(world: type[World]) -> None:
    made = world()
    create(made)
    async with made.leader():
        await made.until_state("Healthy")
        edit(made, {"spec": {"storage": {"size": "2Gi"}}})
        claims = made.objects.of(PVC).objects
        await made.until(
            lambda: {each["spec"]["resources"]["requests"]["storage"] for each in claims.values()} == {"2Gi"},
            seconds=30,
        )


@virtual_time
async def test_a_new_version_is_resolved_to_its_image_and_the_same_one_is_kept(world: type[World]) -> None:
    made = world()
    create(made)
    async with made.leader():
        await made.until_state("Healthy")
        assert made.status["image"] == "mariadb:11.8"
        edit(made, {"spec": {"version": "10.11"}})
        await made.until(lambda: made.status.get("image") == "mariadb:10.11", seconds=30)
        assert made.condition("UpToDate")["reason"] == "PodsOutdated"


@virtual_time
async def test_a_suspended_cluster_is_observed_by_a_new_leader_and_nothing_is_written_to_its_servers(
    world: type[World],
) -> None:
    made = world()
    create(made)
    async with made.leader():
        await made.until_state("Healthy")
        edit(made, {"spec": {"suspend": True}})
        await made.until_state("Paused", seconds=30)
    made.performed.clear()
    made.client.calls.clear()
    made.kill("demo-2")
    async with made.leader(term=2):
        await made.until(
            lambda: any(
                each["name"] == "demo-2" and "refuses" in each.get("message", "")
                for each in made.status["instances"]
            ),
            seconds=30,
        )
        assert made.condition("Ready")["status"] == "True"
    assert made.performed == []
    assert {each.kind for each in made.client.written()} <= {"MariaDBCluster", "Event"}


@virtual_time
async def test_a_member_that_left_is_not_asked_any_more(world: type[World]) -> None:
    made = world()
    create(made)
    async with made.leader() as session:
        await made.until_state("Healthy")
        edit(made, {"spec": {"replicas": 2}})
        await made.until(lambda: len(made.status.get("members", [])) == 2, seconds=120)
        await made.until(lambda: set(session._contacts.probes) == {"demo-0", "demo-1"}, seconds=10)


@virtual_time
async def test_a_resource_made_anew_is_not_taken_for_the_old_one(world: type[World]) -> None:
    made = world()
    create(made)
    async with made.leader():
        await made.until_state("Healthy")
        made.objects.merge(MARIADB_CLUSTER, NAMESPACE, NAME, {"metadata": {"finalizers": None}})
        made.objects.delete(MARIADB_CLUSTER, NAMESPACE, NAME)
        create(made)
        made.client.calls.clear()
        await asyncio.sleep(3)
        assert not made.client.written("replace_status"), "an old session wrote into a new resource"


@virtual_time
async def test_every_transition_of_a_failover_has_one_event_named_by_its_number(world: type[World]) -> None:
    made = world()
    create(made)
    async with made.leader():
        await made.until_state("Healthy")
        made.kill("demo-0")
        await made.until(lambda: failed_over(made), seconds=10)
        await asyncio.sleep(5)
    names = [event["metadata"]["name"] for event in made.events]
    uid = made.objects.get(MARIADB_CLUSTER, NAMESPACE, NAME)["metadata"]["uid"]
    for entry in made.status["history"]:
        assert f"{NAME}.{uid[:8]}.{entry['seq']}" in names


@virtual_time
async def test_servers_read_their_certificate_anew_some_minutes_after_it_was_made_and_once_a_day(
    world: type[World],
) -> None:
    made = world()
    create(made)
    async with made.leader():
        await made.until_state("Healthy")
        await asyncio.sleep(310)
        assert all("FLUSH LOCAL SSL" in server.executed for server in made.servers.values())
        await asyncio.sleep(3600)
        young = len(made.server("demo-0").executed)
        assert young >= 10
        await asyncio.sleep(1800)
        assert len(made.server("demo-0").executed) == young


@virtual_time
async def test_what_a_server_refuses_for_good_is_in_a_condition_and_an_event_until_it_works(
    world: type[World],
) -> None:
    made = world()
    made.refusal = StatementRefused("error 1044: Access denied to database 'app'", errno=1044)
    create(made)
    async with made.leader():
        await made.until(
            lambda: "Refused" in made.status.get("conditions", [{}])[0].get("reason", ""), seconds=60
        )
        ready = made.condition("Ready")
        assert ready["reason"] == "InitialisePrimaryRefused"
        assert "demo-0" in ready["message"]
        assert "1044" in ready["message"]
        made.refusal = None
        await made.until_state("Healthy")
        assert made.condition("Progressing")["reason"] == "Complete"
        assert any(event["reason"] == "InitialisePrimaryRefused" for event in made.events)


@virtual_time
async def test_a_new_leader_leaves_the_conditions_as_they_are_until_it_has_asked(world: type[World]) -> None:
    made = world()
    create(made)
    async with made.leader():
        await made.until_state("Healthy")
        await asyncio.sleep(5)
    before = made.status["conditions"]
    seen = []
    async with made.leader(term=2):
        for _ in range(300):
            await asyncio.sleep(0.05)
            seen.append([(each["type"], each["status"]) for each in made.status["conditions"]])
    assert all(each == [(c["type"], c["status"]) for c in before] for each in seen)
